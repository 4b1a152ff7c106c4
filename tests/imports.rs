//! The order of the modules: imports point down the list in `lib.rs`, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module, by its path from the crate's root: `["control", "routes"]`.
type Module = Vec<String>;

/// Which module imports from which, and where: without tests, and without what a module
/// imports from the modules inside of it.
#[derive(Default)]
struct Imports {
    /// The modules of `lib.rs`, from the top down.
    order: Vec<String>,
    edges: BTreeMap<Module, BTreeSet<Module>>,
}

/// The source files of a crate, by module.
type Sources = BTreeMap<Module, String>;

/// A module that has a file of its own, and parts in a folder beside it, is one module: they
/// share its private items. A folder with a `mod.rs` holds modules of their own.
fn unit(sources: &Sources, module: &Module) -> Module {
    let is_whole = |length: &usize| {
        let file: PathBuf = module[..*length].iter().collect();
        sources.contains_key(&module[..*length])
            && Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src")
                .join(file)
                .with_extension("rs")
                .exists()
    };
    (1..module.len())
        .find(is_whole)
        .map_or_else(|| module.clone(), |length| module[..length].to_vec())
}

#[test]
fn imports_point_down_the_list_of_modules() {
    assert_eq!(read_crate().upward(), Vec::<String>::new());
}

#[test]
fn modules_do_not_import_each_other_in_a_circle() {
    assert_eq!(read_crate().circles(), Vec::<String>::new());
}

#[test]
fn upward_import_is_found() {
    let upward = planted("plan/port.rs", "use crate::supervise::engine::Engine;").upward();
    assert_eq!(upward, ["plan::port imports supervise::engine, which is above it"]);
    let inline = "fn planted() { crate::cli::run() }";
    assert_eq!(planted("plan/port.rs", inline).upward().len(), 1);
}

#[test]
fn circle_between_files_of_a_folder_is_found() {
    let imports = "use super::{planned, port::Port};";
    let circles = planted("plan/port.rs", "use super::needs::Need;").circles();
    assert_eq!(circles, Vec::<String>::new());
    let mut sources = read_sources();
    plant(&mut sources, "plan/port.rs", "use super::needs::Need;");
    plant(&mut sources, "plan/needs.rs", imports);
    let circles = Imports::new(&sources).circles();
    assert_eq!(circles, ["plan::needs, plan::port"]);
}

#[test]
fn imports_of_tests_do_not_count() {
    let test = "#[cfg(test)]\nmod tests {\n    use crate::supervise::engine::Engine;\n}";
    assert_eq!(planted("plan/port.rs", test).upward(), Vec::<String>::new());
}

fn read_crate() -> Imports {
    Imports::new(&read_sources())
}

/// The crate with a line more in one of its files.
fn planted(file: &str, line: &str) -> Imports {
    let mut sources = read_sources();
    plant(&mut sources, file, line);
    Imports::new(&sources)
}

fn plant(sources: &mut Sources, file: &str, line: &str) {
    let text = sources.get_mut(&module_of(Path::new(file))).expect("the file exists");
    *text = format!("{line}\n{text}");
}

fn read_sources() -> Sources {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Sources::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let module = module_of(path.strip_prefix(&root).unwrap());
                let is_test = module.iter().any(|part| part.ends_with("tests"));
                if !is_test && module != ["main"] {
                    sources.insert(module, fs::read_to_string(&path).unwrap());
                }
            }
        }
    }
    sources
}

/// `control/mod.rs` is `control`, and `lib.rs` the root.
fn module_of(file: &Path) -> Module {
    let parts = file.with_extension("");
    let mut parts: Module = parts.iter().map(|it| it.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

impl Imports {
    fn new(sources: &Sources) -> Self {
        let lib = sources.get(&Module::new()).expect("the crate has a lib.rs");
        let order = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
        let order = order.map(|line| line.trim_end_matches(';').to_owned()).collect();
        let mut imports = Self { order, ..Self::default() };
        for (module, text) in sources {
            for path in paths(module, text) {
                let Some(target) = resolve(sources, &path, 0) else { continue };
                // A folder is made of the modules inside of it.
                if !target.starts_with(module) {
                    let (module, target) = (unit(sources, module), unit(sources, &target));
                    if module != target {
                        imports.edges.entry(module).or_default().insert(target);
                    }
                }
            }
        }
        imports
    }

    /// Imports of modules that stand above the one that imports them.
    fn upward(&self) -> Vec<String> {
        let place = |module: &Module| self.order.iter().position(|name| *name == module[0]);
        let mut found = Vec::new();
        for (module, targets) in &self.edges {
            for target in targets {
                if place(target) < place(module) {
                    let (module, target) = (module.join("::"), target.join("::"));
                    found.push(format!("{module} imports {target}, which is above it"));
                }
            }
        }
        found
    }

    /// The modules that reach each other, a line for each group.
    fn circles(&self) -> Vec<String> {
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            self.edges.keys().map(|module| (module, self.reached_from(module))).collect();
        let mut groups = BTreeSet::new();
        for (module, targets) in &reached {
            let is_mutual =
                |other: &&&Module| reached.get(*other).is_some_and(|it| it.contains(module));
            let group: BTreeSet<String> =
                targets.iter().filter(is_mutual).map(|it| it.join("::")).collect();
            if group.len() > 1 {
                groups.insert(group.into_iter().collect::<Vec<_>>().join(", "));
            }
        }
        groups.into_iter().collect()
    }

    fn reached_from<'a>(&'a self, module: &'a Module) -> BTreeSet<&'a Module> {
        let mut reached = BTreeSet::new();
        let mut next = vec![module];
        while let Some(module) = next.pop() {
            for target in self.edges.get(module).into_iter().flatten() {
                if reached.insert(target) {
                    next.push(target);
                }
            }
        }
        reached
    }
}

/// The module that has the item of this path: where a module passes on what another one
/// has, that one.
fn resolve(sources: &Sources, path: &[String], depth: usize) -> Option<Module> {
    let known = (1..=path.len()).rev().find(|length| sources.contains_key(&path[..*length]))?;
    let module = path[..known].to_vec();
    let Some(item) = path.get(known).filter(|_| depth < 4) else { return Some(module) };
    let text = without_tests(&sources[&module]);
    let passed_on = statements(&text).into_iter().filter(|(is_public, _)| *is_public);
    let passed_on = passed_on.flat_map(|(_, tree)| expand(&tree));
    let mut passed_on = passed_on.filter_map(|it| absolute(&module, &it, sources));
    match passed_on.find(|it| it.last() == Some(item) && it[..] != *path) {
        Some(other) => resolve(sources, &other, depth + 1),
        None => Some(module),
    }
}

/// All paths into the crate that stand in a module, from its root.
fn paths(module: &Module, text: &str) -> Vec<Module> {
    let text = without_tests(text);
    let trees = statements(&text).into_iter().map(|(_, tree)| tree);
    let mut paths: Vec<String> = trees.flat_map(|tree| expand(&tree)).collect();
    // Paths in the code itself.
    for root in ["crate::", "super::"] {
        for (at, _) in text.match_indices(root) {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let path: String = text[at..].chars().take_while(|c| is_path(*c)).collect();
            let before = &text[..at];
            if !before.ends_with("::") && !before.ends_with("pub(in ") && !path.ends_with("::") {
                paths.push(path);
            }
        }
    }
    let known = Sources::from([(module.clone(), String::new())]);
    paths.iter().filter_map(|path| absolute(module, path, &known)).collect()
}

/// The code of a file before its tests, without its comments.
fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The `use` statements of a file, and whether each passes on what it imports.
fn statements(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("use ") {
        let start = rest[..at].rfind('\n').map_or(0, |at| at + 1);
        let before = rest[start..at].trim();
        rest = &rest[at + 4..];
        let is_use = before.is_empty() || before.starts_with("pub");
        let Some(end) = rest.find(';').filter(|_| is_use) else { continue };
        let tree: String = rest[..end].chars().filter(|c| !c.is_whitespace()).collect();
        found.push((!before.is_empty(), tree));
        rest = &rest[end..];
    }
    found
}

/// `a::{b, c::{d, e}}` is `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let inside = rest.strip_suffix('}').unwrap_or(rest);
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|part| format!("{head}{part}")).collect()
}

/// The path from the crate's root; none, if it leads to another crate.
fn absolute(module: &Module, path: &str, sources: &Sources) -> Option<Module> {
    let mut parts = path.split("::").filter(|part| *part != "self").peekable();
    let mut from = module.clone();
    match *parts.peek()? {
        "crate" => {
            parts.next();
            from.clear();
        }
        "super" => {
            while parts.next_if(|part| *part == "super").is_some() {
                from.pop();
            }
        }
        first => {
            let inner = [module.clone(), vec![first.to_owned()]].concat();
            if !sources.contains_key(&inner) {
                return None;
            }
        }
    }
    from.extend(parts.map(str::to_owned));
    Some(from)
}
