//! The app's environment: the real one and the `.env` files, layered.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

use super::dotenv::{self, Piece, Value};

/// A parsed `.env` file.
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
    /// ganger sets it.
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
pub struct Variable {
    /// The value.
    pub value: OsString,
    /// Where it comes from.
    pub origin: Origin,
}

impl Variable {
    /// A value of ganger's own.
    #[must_use]
    pub fn from_ganger(value: String) -> Self {
        Self { value: value.into(), origin: Origin::Ganger }
    }
}

/// A value may be a secret: only its origin is shown.
impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({})", self.origin)
    }
}

/// Variables by name.
pub type Env = BTreeMap<OsString, Variable>;

/// The environment that all processes share.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The variables that win.
    pub env: Env,
    /// The names that a file and the real environment set differently.
    pub env_conflicts: Vec<String>,
}

/// Why a variable has no value. No error shows a value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them")]
pub enum Error {
    #[error(
        "`{file}` line {line}: the value of `{key}` is longer than a variable can be ({} KiB)",
        MAX_VALUE_BYTES >> 10
    )]
    Long { file: String, line: usize, key: String },
    #[error("`{file}` line {line}: `{key}` has no value to export (`export {key}=value`)")]
    Unset { file: String, line: usize, key: String },
}

/// The longest string that can be passed to a program, in bytes (execve(2), `MAX_ARG_STRLEN`).
/// Without this limit, a value that doubles on each line would use all memory.
const MAX_VALUE_BYTES: usize = 128 << 10;

/// Everything that the environment is made from.
#[derive(Clone, Debug)]
pub struct EnvSources<'a> {
    /// The real environment.
    pub real: &'a [(OsString, OsString)],
    /// The files, in order.
    pub layers: Vec<Layer>,
    /// Whether the files win over the real environment.
    pub files_win: bool,
    /// The variables that ganger sets. They win over all others.
    pub own: Env,
}

impl EnvSources<'_> {
    /// The environment, without ganger's own variables: only references see these.
    pub fn resolve(&self) -> Result<Resolved, Error> {
        resolve(self.real, &self.layers, self.files_win, |name| self.own.get(OsStr::new(name)))
    }

    /// The variables of the files as a process with this PORT sees them, if any depends on it.
    pub fn resolve_for_port(&self, port: &Variable) -> Result<Env, Error> {
        if !self.refer_to(|name| name == "PORT") {
            return Ok(Env::new());
        }
        let own = |name: &str| {
            if name == "PORT" { Some(port) } else { self.own.get(OsStr::new(name)) }
        };
        let mut env = resolve(self.real, &self.layers, self.files_win, own)?.env;
        env.retain(|_, var| matches!(var.origin, Origin::File { .. }));
        Ok(env)
    }

    /// Whether the files refer to one of these variables.
    pub fn refer_to(&self, is_one: impl Fn(&str) -> bool) -> bool {
        let mut values =
            self.layers.iter().flat_map(|layer| &layer.assignments).map(|it| &it.value);
        values.any(|value| match value {
            Value::Inherited => false,
            Value::Pieces(pieces) => pieces.iter().any(|piece| match piece {
                Piece::Text(_) => false,
                Piece::Reference { name, .. } => is_one(name),
            }),
        })
    }
}

/// Layers the files, the later over the earlier, under the real environment, or over it if
/// `files_win`.
///
/// `${X}` is the value of `X` that `own` has, else that of the real environment where that wins,
/// else the last value that the files set before the reference.
fn resolve<'a>(
    real: &[(OsString, OsString)],
    layers: &[Layer],
    files_win: bool,
    own: impl Fn(&str) -> Option<&'a Variable>,
) -> Result<Resolved, Error> {
    let mut env: Env = real
        .iter()
        .map(|(key, value)| {
            (key.clone(), Variable { value: value.clone(), origin: Origin::Environment })
        })
        .collect();
    let mut from_files: BTreeMap<&str, Variable> = BTreeMap::new();
    let lines = layers.iter().flat_map(|layer| layer.assignments.iter().map(move |it| (layer, it)));
    for (layer, assignment) in lines {
        let dotenv::Assignment { key, line, value } = assignment;
        let (file, line) = (layer.file.clone(), *line);
        let find = |name: &str| {
            let (real, file) = (env.get(OsStr::new(name)), from_files.get(name));
            own(name).or(if files_win { file.or(real) } else { real.or(file) })
        };
        match value {
            Value::Inherited if find(key).is_some() => {}
            Value::Inherited => return Err(Error::Unset { file, line, key: key.clone() }),
            Value::Pieces(pieces) => {
                let Some(value) = join_pieces(pieces, |name| find(name).map(|var| &*var.value))
                else {
                    return Err(Error::Long { file, line, key: key.clone() });
                };
                from_files.insert(key, Variable { value, origin: Origin::File { file, line } });
            }
        }
    }
    let mut env_conflicts = Vec::new();
    for (key, var) in from_files {
        let real = env.get(OsStr::new(key));
        if real.is_some_and(|real| real.value != var.value) {
            env_conflicts.push(key.to_owned());
        }
        if files_win || real.is_none() {
            env.insert(key.into(), var);
        }
    }
    Ok(Resolved { env, env_conflicts })
}

/// Joins the pieces of a value; `None` if it is longer than `MAX_VALUE_BYTES`.
fn join_pieces<'a>(pieces: &[Piece], find: impl Fn(&str) -> Option<&'a OsStr>) -> Option<OsString> {
    let mut value = OsString::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => value.push(text),
            Piece::Reference { name, spelling } => {
                value.push(find(name).unwrap_or(OsStr::new(spelling)));
            }
        }
        if value.len() > MAX_VALUE_BYTES {
            return None;
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolve(
        real: &[(OsString, OsString)],
        layers: &[Layer],
        files_win: bool,
    ) -> Result<Resolved, Error> {
        let own = Env::new();
        EnvSources { real, layers: layers.to_vec(), files_win, own }.resolve()
    }

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
    fn real_environment_wins_unless_overridden() {
        let real = real(&[("A", "real"), ("SAME", "1")]);
        let layers = [layer(".env", "A=file\nB=${A}!\nSAME=1"), layer(".env.local", "C=$B")];
        let resolved = resolve(&real, &layers, false).unwrap();
        assert_eq!(value(&resolved, "A"), "real");
        assert_eq!(value(&resolved, "C"), "real!");
        assert_eq!(resolved.env_conflicts, ["A"]);
        assert_eq!(resolved.env[OsStr::new("A")].origin, Origin::Environment);
        let resolved = resolve(&real, &layers, true).unwrap();
        assert_eq!(value(&resolved, "C"), "file!");
        let line_one = Origin::File { file: ".env".into(), line: 1 };
        assert_eq!(resolved.env[OsStr::new("A")].origin, line_one);
    }

    #[test]
    fn reference_resolves_to_earlier_definition() {
        let env = ".env";
        let layers = [layer(env, "A=$B\nB=1\nC=$B\nB=2\nD=$B"), layer("more", "E=${B}\nB=3\nF=$B")];
        let resolved = resolve(&[], &layers, false).unwrap();
        let values = ["A", "B", "C", "D", "E", "F"].map(|key| value(&resolved, key));
        assert_eq!(values, ["$B", "3", "1", "2", "2", "3"]);
        let files = [layer(env, "P=pa$$word\nQ=x${NOPE}y")];
        let resolved = resolve(&[], &files, false).unwrap();
        assert_eq!(value(&resolved, "P"), "pa$$word");
        assert_eq!(value(&resolved, "Q"), "x${NOPE}y");
        // Without an earlier definition, the value of the real environment is used.
        let real = real(&[("B", "real")]);
        for files_win in [false, true] {
            let resolved = resolve(&real, &[layer(env, "A=$B\nB=file")], files_win).unwrap();
            assert_eq!(value(&resolved, "A"), "real");
        }
    }

    #[test]
    fn variable_may_extend_itself() {
        let real = real(&[("PATH", "/bin")]);
        let layers = [layer(".env", "PATH=$PATH:a"), layer(".env.local", "PATH=${PATH}:b")];
        assert_eq!(value(&resolve(&real, &layers, true).unwrap(), "PATH"), "/bin:a:b");
        assert_eq!(value(&resolve(&real, &layers, false).unwrap(), "PATH"), "/bin");
        assert_eq!(value(&resolve(&[], &layers, true).unwrap(), "PATH"), "$PATH:a:b");
        let cycle = resolve(&[], &[layer(".env", "A=$B\nB=$A")], false).unwrap();
        assert_eq!((value(&cycle, "A"), value(&cycle, "B")), ("$B".into(), "$B".into()));
    }

    #[test]
    fn bytes_of_a_reference_are_kept() {
        use std::os::unix::ffi::OsStringExt;
        let real = [("R".into(), OsString::from_vec(b"a\xffb".to_vec()))];
        let resolved = resolve(&real, &[layer(".env", "A=\"x${R}\ty\"")], false).unwrap();
        let expected = OsString::from_vec(b"xa\xffb\ty".to_vec());
        assert_eq!(resolved.env[OsStr::new("A")].value, expected);
    }

    #[test]
    fn exported_name_has_to_be_set() {
        let exported = |text, real: &[(OsString, OsString)]| {
            let resolved = resolve(real, &[layer(".env", text)], false);
            resolved.map(|it| it.env.len()).map_err(|error| error.to_string())
        };
        assert_eq!(exported("export A", &real(&[("A", "1")])), Ok(1));
        assert_eq!(exported("A=1\nexport A", &[]), Ok(1));
        let unset = "`.env` line 1: `A` has no value to export (`export A=value`)";
        assert_eq!(exported("export A\nA=1", &[]), Err(unset.into()));
    }

    #[test]
    fn exponentially_growing_value_is_refused() {
        let resolve = |text: String| resolve(&[], &[layer(".env", &text)], false);
        let error = |text: String| resolve(text).unwrap_err().to_string();
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
        fn any_value_is_kept(value in "[^\0'\r]{0,40}") {
            let real = real(&[("R", &value)]);
            let resolved = resolve(&real, &[layer("f", &format!("A='{value}'\nB=$A\nC=$R"))], false).unwrap();
            for key in ["A", "B", "C"] {
                prop_assert_eq!(self::value(&resolved, key), value.clone());
            }
        }
    }
}
