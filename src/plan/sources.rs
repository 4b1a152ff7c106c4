//! The files that a plan is made from, read.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

/// Which files to read; `None` where the user named none.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `-f`: `-` is standard input.
    pub procfile: Option<PathBuf>,
    /// `-d`.
    pub root: Option<PathBuf>,
    /// `-e`, in order.
    pub env: Vec<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
}

impl Places {
    /// The folder of the app, without a look at its files; absolute.
    pub fn find_root(&self) -> io::Result<PathBuf> {
        let procfile = self.procfile.as_deref().filter(|path| path.as_os_str() != "-");
        let beside = procfile.and_then(Path::parent).filter(|path| !path.as_os_str().is_empty());
        std::fs::canonicalize(self.root.as_deref().or(beside).unwrap_or(Path::new(".")))
    }
}

/// A file's bytes and the name under which the user knows it.
#[derive(Clone)]
pub struct Text {
    /// The path as it was given, or the default.
    pub name: String,
    /// What stands in it.
    pub bytes: Vec<u8>,
}

/// A file may hold secrets: only its size is shown.
impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}

/// All that a plan is made from, but for the flags.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The folder that processes run in; absolute.
    pub root: PathBuf,
    /// The Procfile.
    pub procfile: Text,
    /// `ganger.toml`, if there is one.
    pub config: Option<Text>,
    /// The `.env` files that were named on the command line.
    pub env: EnvFiles,
    /// Files of other runners, which are not followed.
    pub foreign: Vec<Text>,
    /// ganger's own environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// The `.env` files, which `ganger.toml` may name where the command line doesn't.
#[derive(Clone, Debug)]
pub enum EnvFiles {
    /// These and no others.
    Named(Vec<Text>),
    /// `.env`, if there is one, unless `ganger.toml` names others.
    Default(Option<Text>),
}

/// A file can't be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read `{name}`: {}{hint}", reason(.error))]
pub struct Error {
    /// The path as the user knows it.
    pub name: String,
    /// Why.
    pub error: io::Error,
    /// The way out, if there is one to name.
    pub hint: &'static str,
}

impl Sources {
    /// Reads the files that `places` names, and the defaults for those it doesn't.
    pub fn read(places: &Places, environment: Vec<(OsString, OsString)>) -> Result<Self, Error> {
        let (procfile, folder) = read_procfile(places)?;
        let root = places.root.clone().unwrap_or(folder);
        let name = root.display().to_string();
        let error = |error| Error { name, error, hint: "" };
        let root = std::fs::canonicalize(&root).map_err(error)?;
        let config = match &places.config {
            Some(path) => Some(read(path, path)?),
            None => read_if_any(&root.join("ganger.toml"), Path::new("ganger.toml"))?,
        };
        let env = if places.env.is_empty() {
            EnvFiles::Default(read_if_any(&root.join(".env"), Path::new(".env"))?)
        } else {
            EnvFiles::Named(
                places.env.iter().map(|path| read(path, path)).collect::<Result<_, _>>()?,
            )
        };
        let mut foreign = Vec::new();
        for name in super::foreign::NAMES {
            // One that can't be read is not worth failing for.
            foreign.extend(read_if_any(&root.join(name), Path::new(name)).ok().flatten());
        }
        Ok(Self { root, procfile, config, env, foreign, environment })
    }

    /// Reads a `.env` file that `ganger.toml` names.
    pub fn read_env(&self, path: &Path) -> Result<Text, Error> {
        read(&self.root.join(path), path)
    }
}

/// The Procfile, and the folder that it lies in.
fn read_procfile(places: &Places) -> Result<(Text, PathBuf), Error> {
    let here = PathBuf::from(".");
    let Some(path) = &places.procfile else {
        let root = places.root.clone().unwrap_or(here);
        let text = read(&root.join("Procfile"), Path::new("Procfile")).map_err(|error| Error {
            hint: " (go to the folder that has one, or name it: `-f PROCFILE`)",
            ..error
        })?;
        return Ok((text, root));
    };
    if path.as_os_str() == "-" {
        let name = "standard input".to_owned();
        let mut bytes = Vec::new();
        return match io::stdin().lock().read_to_end(&mut bytes) {
            Ok(_) => Ok((Text { name, bytes }, here)),
            Err(error) => Err(Error { name, error, hint: "" }),
        };
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Ok((read(path, path)?, folder.map_or(here, Path::to_path_buf)))
}

fn read(path: &Path, known_as: &Path) -> Result<Text, Error> {
    let name = known_as.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => Ok(Text { name, bytes }),
        Err(error) => Err(Error { name, error, hint: "" }),
    }
}

fn read_if_any(path: &Path, known_as: &Path) -> Result<Option<Text>, Error> {
    match read(path, known_as) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fails if no process could be started in this folder, with the reason.
pub fn check_folder(folder: &Path) -> Result<(), String> {
    let found = std::fs::metadata(folder)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()));
    let entered = found.and_then(|found| {
        if found.is_dir() { access(folder, AccessFlags::X_OK) } else { Err(Errno::ENOTDIR) }
    });
    entered.map_err(|errno| folder_error(folder, errno))
}

/// Why this folder can't be entered.
#[must_use]
pub fn folder_error(folder: &Path, errno: Errno) -> String {
    let path = folder.display();
    match errno {
        Errno::ENOENT => format!("the folder `{path}` does not exist"),
        Errno::ENOTDIR => format!("`{path}` is not a folder"),
        other => format!("can't enter the folder `{path}`: {}", other.desc()),
    }
}

/// The error in the words of the system, without its number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}
