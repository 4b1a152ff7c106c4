//! The app's environment: the real one and the `.env` files, laid over another.
//!
//! `dotenv.rs` says what each line of a file means. What is left, unescaping
//! and putting in the values that others refer to, is dotenvy's work: every
//! assignment is handed to it under a name of its own, behind those it needs,
//! so that `${B}` is the `B` that wins in the end.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fmt::Write as _;

use super::dotenv::{self, Piece};

/// A file that was read, and what stands in it.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The file as the user knows it: `.env.local`.
    pub file: String,
    /// Its assignments, in order.
    pub assignments: Vec<dotenv::Assignment>,
}

/// Where the value of a variable comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// ganger's own environment.
    Environment,
    /// A line of a `.env` file, counted from 1.
    File {
        /// The file as the user knows it.
        file: String,
        /// The line.
        line: usize,
    },
    /// `env` of a process in `ganger.toml`.
    Config,
    /// ganger gives it.
    Ganger,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("environment"),
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Config => f.write_str("ganger.toml"),
            Self::Ganger => f.write_str("ganger"),
        }
    }
}

/// A variable's value and origin.
#[derive(Clone, Eq, PartialEq)]
pub struct Var {
    /// The value.
    pub value: OsString,
    /// Where it comes from.
    pub origin: Origin,
}

impl Var {
    /// A value of ganger's own.
    #[must_use]
    pub fn given(value: String) -> Self {
        Self { value: value.into(), origin: Origin::Ganger }
    }
}

/// A value may be a secret: only its origin is shown.
impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.origin)
    }
}

/// Variables by name.
pub type Env = BTreeMap<OsString, Var>;

/// The environment that all processes share.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// What wins.
    pub env: Env,
    /// The names that a file and the real environment set differently.
    pub clashes: Vec<String>,
}

/// Why variables have no values. None of these carries one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{file}` line {line}: the value of `{key}` {why}")]
pub struct Error {
    /// The file as the user knows it.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// The variable's name.
    pub key: String,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Why {
    /// It leads back to itself through that variable.
    #[error("refers to itself through `{0}`")]
    Cycle(String),
    /// It refers to one that refers to one that…
    #[error("refers to others that refer to others, more than {DEEPEST} times")]
    Deep,
    /// No program could be given it.
    #[error("is longer than a variable can be ({} KiB)", LONGEST >> 10)]
    Long,
}

/// How far references may lead.
const DEEPEST: usize = 100;
/// The longest string that a program is given (execve(2), `MAX_ARG_STRLEN`); what
/// doubles from line to line would else take all memory.
const LONGEST: usize = 128 << 10;

/// Lays `layers`, the later over the earlier, under the real environment, or
/// over it if `files_win`.
///
/// `${X}` stands for the `X` that wins, except that a variable which refers to
/// itself gets the value that it would have had otherwise.
pub fn resolve(
    real: &[(OsString, OsString)],
    layers: &[Layer],
    files_win: bool,
) -> Result<Resolved, Error> {
    let mut resolver = Resolver::new(real, layers, files_win);
    let mut env: Env = real
        .iter()
        .map(|(key, value)| {
            (key.clone(), Var { value: value.clone(), origin: Origin::Environment })
        })
        .collect();
    let keys: Vec<&str> = resolver.definitions.keys().copied().collect();
    let mut from_files = Vec::new();
    for key in keys {
        let Some(at) = resolver.definitions[key].iter().position(|found| found.assigned.is_some())
        else {
            continue;
        };
        from_files.push((key, at, resolver.place(key, at, 0)?));
    }
    let values = resolver.values();
    let mut clashes = Vec::new();
    for (key, at, number) in from_files {
        let value = OsString::from(&values[number]);
        let real = env.get(OsStr::new(key)).map(|var| &var.value);
        if real.is_some_and(|real| *real != value) {
            clashes.push(key.to_owned());
        }
        if at == 0 {
            let origin = resolver.definitions[key][at].origin();
            env.insert(key.into(), Var { value, origin });
        }
    }
    clashes.sort();
    Ok(Resolved { env, clashes })
}

/// One of the places that give a variable a value.
#[derive(Clone, Copy)]
struct Definition<'a> {
    value: &'a OsStr,
    assigned: Option<(&'a Layer, &'a dotenv::Assignment)>,
}

impl Definition<'_> {
    fn origin(&self) -> Origin {
        match self.assigned {
            Some((layer, found)) => Origin::File { file: layer.file.clone(), line: found.line },
            None => Origin::Environment,
        }
    }
}

/// How far a definition has come.
#[derive(Clone, Copy)]
enum Progress {
    /// What it refers to is being placed.
    Open,
    /// Stands in the text under this number.
    Placed(usize),
}

struct Resolver<'a> {
    /// The definitions of each variable, the one that wins first.
    definitions: BTreeMap<&'a str, Vec<Definition<'a>>>,
    progress: HashMap<(&'a str, usize), Progress>,
    /// What dotenvy reads: one assignment a line, numbered from 0.
    text: String,
    /// The lengths of what was placed, by number.
    placed: Vec<usize>,
}

/// The name under which dotenvy knows the assignment of that number.
fn alias(number: usize) -> String {
    format!("GANGER_ASSIGNMENT_{number}")
}

impl<'a> Resolver<'a> {
    fn new(real: &'a [(OsString, OsString)], layers: &'a [Layer], files_win: bool) -> Self {
        let mut definitions: BTreeMap<&str, Vec<Definition>> = BTreeMap::new();
        let mut define = |key, definition| definitions.entry(key).or_default().push(definition);
        let add_real = |define: &mut dyn FnMut(&'a str, Definition<'a>)| {
            for (key, value) in real {
                if let Some(key) = key.to_str() {
                    define(key, Definition { value, assigned: None });
                }
            }
        };
        if !files_win {
            add_real(&mut define);
        }
        for layer in layers.iter().rev() {
            for found in layer.assignments.iter().rev() {
                let value = OsStr::new("");
                define(&found.key, Definition { value, assigned: Some((layer, found)) });
            }
        }
        if files_win {
            add_real(&mut define);
        }
        Self { definitions, progress: HashMap::new(), text: String::new(), placed: Vec::new() }
    }

    /// Writes a definition, behind those it refers to, and returns its number.
    fn place(&mut self, key: &'a str, at: usize, depth: usize) -> Result<usize, Error> {
        if let Some(Progress::Placed(number)) = self.progress.get(&(key, at)) {
            return Ok(*number);
        }
        self.progress.insert((key, at), Progress::Open);
        let definition = self.definitions[key][at];
        let mut draft = Draft::default();
        match definition.assigned {
            None => draft.add(&definition.value.to_string_lossy()),
            Some((layer, found)) => {
                let error = |why| {
                    let (file, line) = (layer.file.clone(), found.line);
                    Error { file, line, key: key.to_owned(), why }
                };
                for piece in &found.value {
                    match piece {
                        Piece::Text(text) => draft.add(text),
                        Piece::Reference { name, spelling } => match self.target(key, at, name) {
                            None => draft.add(spelling),
                            Some((name, at)) if self.is_open(name, at) => {
                                return Err(error(Why::Cycle(name.to_owned())));
                            }
                            Some(_) if depth == DEEPEST => return Err(error(Why::Deep)),
                            Some((name, at)) => {
                                let number = self.place(name, at, depth + 1)?;
                                draft.refer(number, self.placed[number]);
                            }
                        },
                    }
                }
                if draft.length > LONGEST {
                    return Err(error(Why::Long));
                }
            }
        }
        let number = self.placed.len();
        self.placed.push(draft.length);
        let _ = writeln!(self.text, "{}=\"{}\"", alias(number), draft.text);
        self.progress.insert((key, at), Progress::Placed(number));
        Ok(number)
    }

    /// The definition that `name` refers to within definition `at` of `key`.
    fn target(&self, key: &str, at: usize, name: &str) -> Option<(&'a str, usize)> {
        let wanted = if name == key { at + 1 } else { 0 };
        let (name, definitions) = self.definitions.get_key_value(name)?;
        (wanted < definitions.len()).then_some((*name, wanted))
    }

    fn is_open(&self, key: &str, at: usize) -> bool {
        matches!(self.progress.get(&(key, at)), Some(Progress::Open))
    }

    /// The values of all that was placed, by number.
    fn values(&self) -> Vec<String> {
        let read = dotenvy::from_read_iter(self.text.as_bytes());
        read.map(|pair| pair.expect("the text is escaped for dotenvy").1).collect()
    }
}

/// A value as it is written for dotenvy.
#[derive(Default)]
struct Draft {
    text: String,
    /// How long it gets.
    length: usize,
}

impl Draft {
    fn add(&mut self, text: &str) {
        escape(text, &mut self.text);
        self.length += text.len();
    }

    fn refer(&mut self, number: usize, length: usize) {
        let _ = write!(self.text, "${{{}}}", alias(number));
        self.length += length;
    }
}

/// Writes `text` so that dotenvy reads it, between double quotes, as it is.
fn escape(text: &str, into: &mut String) {
    for char in text.chars() {
        match char {
            '\\' | '"' | '$' => into.extend(['\\', char]),
            '\n' => into.push_str("\\n"),
            other => into.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(file: &str, text: &str) -> Layer {
        Layer { file: file.to_owned(), assignments: dotenv::parse(text.as_bytes()).unwrap() }
    }

    fn real(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    fn value(resolved: &Resolved, key: &str) -> String {
        resolved.env[OsStr::new(key)].value.to_str().unwrap().to_owned()
    }

    #[test]
    fn the_real_environment_wins_unless_told_otherwise() {
        let real = real(&[("A", "real"), ("SAME", "1")]);
        let layers = [layer(".env", "A=file\nB=${A}!\nSAME=1"), layer(".env.local", "C=$B")];
        let resolved = resolve(&real, &layers, false).unwrap();
        assert_eq!(value(&resolved, "A"), "real");
        assert_eq!(value(&resolved, "C"), "real!");
        assert_eq!(resolved.clashes, ["A"]);
        assert_eq!(resolved.env[OsStr::new("A")].origin, Origin::Environment);
        let resolved = resolve(&real, &layers, true).unwrap();
        assert_eq!(value(&resolved, "C"), "file!");
        let line_one = Origin::File { file: ".env".into(), line: 1 };
        assert_eq!(resolved.env[OsStr::new("A")].origin, line_one);
    }

    #[test]
    fn a_reference_gets_the_value_that_wins_in_the_end() {
        let layers = [layer(".env", "URL=$HOST:1\nHOST=a"), layer(".env.local", "HOST=b\nHOST=c")];
        let resolved = resolve(&[], &layers, false).unwrap();
        assert_eq!(value(&resolved, "URL"), "c:1");
        assert_eq!(
            value(&resolve(&[], &[layer("f", "P=pa$$word")], false).unwrap(), "P"),
            "pa$$word"
        );
    }

    #[test]
    fn a_variable_may_extend_itself_but_not_run_in_a_circle() {
        let real = real(&[("PATH", "/bin")]);
        let layers = [layer(".env", "PATH=$PATH:a"), layer(".env.local", "PATH=${PATH}:b")];
        assert_eq!(value(&resolve(&real, &layers, true).unwrap(), "PATH"), "/bin:a:b");
        assert_eq!(value(&resolve(&[], &layers, true).unwrap(), "PATH"), "$PATH:a:b");
        let circle = [layer(".env", "A=$B\nB=$C\nC=$A")];
        let error = resolve(&[], &circle, false).unwrap_err().to_string();
        assert_eq!(error, "`.env` line 3: the value of `C` refers to itself through `A`");
    }

    #[test]
    fn what_would_take_all_memory_is_an_error() {
        let resolve = |text: String| resolve(&[], &[layer(".env", &text)], false);
        let error = |text: String| resolve(text).unwrap_err().to_string();
        let reference = |n: usize| format!("A{n:03}=$A{:03}\n", n + 1);
        let chain = |to: usize| (0..to).map(reference).collect::<String>();
        assert!(resolve(chain(100)).is_ok());
        let deep = "`.env` line 101: the value of `A100` refers to others that refer to others, \
                    more than 100 times";
        assert_eq!(error(chain(102)), deep);
        let twice = |n: usize| format!("A{}=$A{n}$A{n}\n", n + 1);
        let doubling = format!("A0=0123456789\n{}", (0..40).map(twice).collect::<String>());
        let long = "`.env` line 15: the value of `A14` is longer than a variable can be (128 KiB)";
        assert_eq!(error(doubling), long);
    }

    #[test]
    fn debug_shows_no_value() {
        let resolved = resolve(&real(&[("A", "hunter2")]), &[layer("f", "B=hunter2")], false);
        let layers = layer("f", "B=hunter2");
        assert!(!format!("{resolved:?} {layers:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_value_comes_through(value in "[^\0'\r]{0,40}") {
            let real = real(&[("R", &value)]);
            let resolved = resolve(&real, &[layer("f", &format!("A='{value}'\nB=$A\nC=$R"))], false).unwrap();
            for key in ["A", "B", "C"] {
                prop_assert_eq!(self::value(&resolved, key), value.clone());
            }
        }
    }
}
