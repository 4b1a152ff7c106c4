//! Reads the files from which a plan is made.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

/// Which files to read; `None` if the user named none.
#[derive(Clone, Debug, Default)]
pub struct FileLocations {
    /// The folder that relative paths start from, by the path that the user knows; empty for
    /// the working directory. The two differ when that path is a link that now leads to another
    /// folder.
    pub base: PathBuf,
    /// `-f`: `-` is standard input.
    pub procfile: Option<PathBuf>,
    /// `-d`.
    pub root: Option<PathBuf>,
    /// `-e`, in order.
    pub env: Vec<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
}

impl FileLocations {
    /// The folder of the app, without reading its files; absolute.
    pub fn find_root(&self) -> io::Result<PathBuf> {
        let root_flag = self.root_flag();
        let root = self.resolve(root_flag);
        can_enter(&root).map_err(|errno| io::Error::other(folder_error(root_flag, errno)))?;
        // Only `canonicalize` notices that the current folder has been removed.
        std::fs::canonicalize(&root).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(folder_error(root_flag, Errno::ENOENT)),
            _ => error,
        })
    }

    /// The folder of the app, by the path that the user knows.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.resolve(self.root_flag())
    }

    /// The Procfile as seen from the root, whose real path is given; none for `Procfile` in it.
    #[must_use]
    pub fn procfile_from(&self, root: &Path) -> Option<PathBuf> {
        let path = self.procfile.as_deref()?;
        if path.as_os_str() == "-" {
            return Some(path.to_owned());
        }
        let path = self.resolve(path);
        let folder = self.resolve(self.folder_of_procfile().unwrap_or(Path::new(".")));
        let real = std::fs::canonicalize(&folder).unwrap_or(folder);
        let path = real.join(path.file_name().unwrap_or_default());
        let path = path.strip_prefix(root).unwrap_or(&path);
        (path != Path::new(PROCFILE)).then(|| path.to_owned())
    }

    /// Whether the folder at this path has a Procfile: the one that `-f` names, or the default
    /// one.
    #[must_use]
    pub fn is_root(&self, folder: &Path) -> bool {
        let name = self.procfile.as_deref().unwrap_or(Path::new(PROCFILE));
        folder.join(name).is_file()
    }

    /// Whether the flags name the folder of the app.
    #[must_use]
    pub fn names_root(&self) -> bool {
        self.root.is_some() || self.folder_of_procfile().is_some()
    }

    fn root_flag(&self) -> &Path {
        self.root.as_deref().or(self.folder_of_procfile()).unwrap_or(Path::new("."))
    }

    /// Resolves a path relative to the base.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    /// The folder that `-f` names, unless that is the current one.
    fn folder_of_procfile(&self) -> Option<&Path> {
        let procfile = self.procfile.as_deref().filter(|path| path.as_os_str() != "-");
        procfile.and_then(Path::parent).filter(|path| !path.as_os_str().is_empty())
    }

    /// The `.env` file that is read by default: in the folder of `-d`, else in the current
    /// folder, regardless of the Procfile's location.
    fn default_env(&self) -> PathBuf {
        self.resolve(self.root.as_deref().unwrap_or(Path::new(""))).join(ENV)
    }

    /// A `.env` file beside a Procfile in another folder, which is not read.
    fn unread_env(&self) -> Option<PathBuf> {
        if self.root.is_some() {
            return None;
        }
        let path = self.folder_of_procfile()?.join(ENV);
        let found = self.resolve(&path);
        let is_other =
            std::fs::canonicalize(&found).ok() != std::fs::canonicalize(self.default_env()).ok();
        (found.is_file() && is_other).then_some(path)
    }
}

const ENV: &str = ".env";
/// The name of a Procfile.
pub const PROCFILE: &str = "Procfile";

/// A file's bytes and the name under which the user knows it.
#[derive(Clone)]
pub struct SourceFile {
    /// The path as it was given, or the default.
    pub name: String,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// A file may hold secrets: only its size is shown.
impl std::fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}

/// Everything that a plan is made from, except the flags.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The folder in which processes run; absolute.
    pub root: PathBuf,
    /// The Procfile.
    pub procfile: SourceFile,
    /// Whether it is the default one.
    pub procfile_is_default: bool,
    /// `ganger.toml`, if there is one.
    pub config: Option<SourceFile>,
    /// The `.env` files that were named on the command line.
    pub env: EnvFiles,
    /// A `.env` file beside the Procfile, which is not read: the Procfile is in another folder.
    pub unread_env: Option<String>,
    /// Settings files of other runners, which ganger does not follow.
    pub other_runner_files: Vec<SourceFile>,
    /// ganger's own environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// The `.env` files, which `ganger.toml` may name where the command line doesn't.
#[derive(Clone, Debug)]
pub enum EnvFiles {
    /// Only these.
    Named(Vec<SourceFile>),
    /// `.env`, if there is one, unless `ganger.toml` names others.
    Default(Option<SourceFile>),
}

/// A file can't be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them")]
pub enum Error {
    #[error("failed to read `{name}`: {}{}", reason(.error), hint.as_deref().unwrap_or_default())]
    File {
        name: String,
        error: io::Error,
        /// What the user can do, if that is known.
        hint: Option<String>,
    },
    #[error("`{0}` is a folder: use `-d`")]
    IsFolder(String),
    #[error("{0}")]
    Root(String),
}

impl Error {
    fn with_hint(self, hint: String) -> Self {
        match self {
            Self::File { name, error, .. } => Self::File { name, error, hint: Some(hint) },
            other @ (Self::IsFolder(_) | Self::Root(_)) => other,
        }
    }

    /// Whether the file does not exist.
    fn is_missing(&self) -> bool {
        matches!(self, Self::File { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

impl Sources {
    /// Reads the files that `locations` names, and the defaults for those it doesn't.
    pub fn read(
        locations: &FileLocations,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Self, Error> {
        check_base(locations)?;
        Self::with_procfile(locations, environment, read_procfile(locations)?)
    }

    /// The same, with an empty Procfile if there is none.
    pub fn read_for_run(
        locations: &FileLocations,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Self, Error> {
        let procfile = match read_procfile(locations) {
            Err(error) if locations.procfile.is_none() && error.is_missing() => {
                SourceFile { name: PROCFILE.into(), bytes: Vec::new() }
            }
            read => read?,
        };
        Self::with_procfile(locations, environment, procfile)
    }

    fn with_procfile(
        locations: &FileLocations,
        environment: Vec<(OsString, OsString)>,
        procfile: SourceFile,
    ) -> Result<Self, Error> {
        let root = find_root(locations)?;
        let config = match &locations.config {
            Some(path) => Some(read(&locations.resolve(path), path)?),
            None => read_optional(&root.join("ganger.toml"), Path::new("ganger.toml"))?,
        };
        let env = if locations.env.is_empty() {
            let path = locations.default_env();
            // A folder of that name is a virtual environment of Python.
            let text = if path.is_dir() { None } else { read_optional(&path, Path::new(ENV))? };
            EnvFiles::Default(text)
        } else {
            EnvFiles::Named(
                locations
                    .env
                    .iter()
                    .map(|path| read(&locations.resolve(path), path))
                    .collect::<Result<_, _>>()?,
            )
        };
        let mut other_runner_files = Vec::new();
        for name in super::other_runners::FILE_NAMES {
            // These files are optional: an unreadable one is not an error.
            other_runner_files
                .extend(read_optional(&root.join(name), Path::new(name)).ok().flatten());
        }
        let unread_env = locations.unread_env().map(|path| path.display().to_string());
        let unread_env = unread_env.filter(|_| locations.env.is_empty());
        let procfile_is_default = locations.procfile.is_none();
        Ok(Self {
            root,
            procfile,
            procfile_is_default,
            config,
            env,
            unread_env,
            other_runner_files,
            environment,
        })
    }

    /// Reads a `.env` file that `ganger.toml` names.
    pub fn read_env(&self, path: &Path) -> Result<SourceFile, Error> {
        read(&self.root.join(path), path)
    }
}

/// When files are read again, the folder that their paths are relative to may be gone, or a
/// broken link.
fn check_base(locations: &FileLocations) -> Result<(), Error> {
    if locations.root_flag().is_relative() && !locations.base.as_os_str().is_empty() {
        let name = locations.base.display().to_string();
        std::fs::metadata(&locations.base).map_err(|error| Error::File {
            name,
            error,
            hint: None,
        })?;
    }
    Ok(())
}

fn find_root(locations: &FileLocations) -> Result<PathBuf, Error> {
    locations.find_root().map_err(|error| Error::Root(error.to_string()))
}

fn read_procfile(locations: &FileLocations) -> Result<SourceFile, Error> {
    if locations.root.is_some() {
        // A missing folder is reported before missing files in it.
        find_root(locations)?;
    }
    let Some(path) = &locations.procfile else {
        let folder = locations.root.clone().unwrap_or_default();
        return read(&locations.resolve(&folder).join(PROCFILE), Path::new(PROCFILE)).map_err(
            |error| {
                let hint = match other_procfile(locations, &folder) {
                    Some(path) => format!(" (there is a `{path}`: `-f {path}`)"),
                    None => {
                        " (go to the folder that has one, or name it: `-f PROCFILE`)".to_owned()
                    }
                };
                error.with_hint(hint)
            },
        );
    };
    if path.as_os_str() == "-" {
        let name = "standard input".to_owned();
        let mut bytes = Vec::new();
        return match io::stdin().lock().read_to_end(&mut bytes) {
            Ok(_) => Ok(SourceFile { name, bytes }),
            Err(error) => Err(Error::File { name, error, hint: None }),
        };
    }
    if locations.resolve(path).is_dir() {
        return Err(Error::IsFolder(path.display().to_string()));
    }
    read(&locations.resolve(path), path)
}

/// A file such as `Procfile.dev` in this folder: the first by name.
fn other_procfile(locations: &FileLocations, folder: &Path) -> Option<String> {
    let listed = locations.resolve(&Path::new(".").join(folder));
    let files = std::fs::read_dir(listed).ok()?.flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let other = names.filter(|name| name.starts_with("Procfile.")).min()?;
    Some(folder.join(other).display().to_string())
}

fn read(path: &Path, known_as: &Path) -> Result<SourceFile, Error> {
    let name = known_as.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => Ok(SourceFile { name, bytes }),
        Err(error) => Err(Error::File { name, error, hint: None }),
    }
}

fn read_optional(path: &Path, known_as: &Path) -> Result<Option<SourceFile>, Error> {
    match read(path, known_as) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fails if no process could be started in this folder, with the reason.
pub fn check_folder(folder: &Path) -> Result<(), String> {
    can_enter(folder).map_err(|errno| folder_error(folder, errno))
}

fn can_enter(folder: &Path) -> Result<(), Errno> {
    let found = std::fs::metadata(folder)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()));
    found.and_then(|found| {
        if found.is_dir() { access(folder, AccessFlags::X_OK) } else { Err(Errno::ENOTDIR) }
    })
}

/// Why this folder can't be entered.
#[must_use]
pub fn folder_error(folder: &Path, errno: Errno) -> String {
    let path = folder.display();
    match errno {
        Errno::ENOENT if folder == Path::new(".") => "the current folder does not exist".to_owned(),
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
