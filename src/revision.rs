//! The git revision of a folder: the commit is read from git's files, without a git process.
//!
//! gitrepository-layout(5) describes the files. A repository that can't be read has no revision,
//! which is never an error.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// The files that name a commit are shorter than this.
const MAX_FILE_BYTES: u64 = 4 << 10;
/// The part of `packed-refs` that is searched: a million names.
const MAX_PACKED_BYTES: u64 = 64 << 20;
/// How many references may lead to a commit. git follows as many.
const MAX_REFERENCES: usize = 5;

/// The commit that is checked out in the repository of this folder.
#[must_use]
pub fn find_commit(folder: &Path) -> Option<String> {
    let git_dir = folder.ancestors().find_map(find_git_dir)?;
    // A worktree has a HEAD of its own and shares the rest.
    let common = match read_file(&git_dir.join("commondir")) {
        Some(path) => git_dir.join(to_path(&path)),
        None => git_dir.clone(),
    };
    let mut name = PathBuf::from("HEAD");
    for _ in 0..MAX_REFERENCES {
        let found = read_file(&git_dir.join(&name)).or_else(|| read_file(&common.join(&name)));
        let Some(text) = found else { return find_packed(&common, &name) };
        match text.strip_prefix(b"ref:") {
            Some(reference) => name = to_reference(reference)?,
            None => return to_commit(&text),
        }
    }
    None
}

/// The folder with git's files, if this is the top folder of a worktree.
fn find_git_dir(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(".git");
    if path.is_dir() {
        return Some(path);
    }
    // Of a worktree or a submodule.
    let text = read_file(&path)?;
    Some(folder.join(to_path(text.strip_prefix(b"gitdir:")?)))
}

/// The beginning of a regular file, without blanks around it. Other files could block.
fn read_file(path: &Path) -> Option<Vec<u8>> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes.trim_ascii().to_owned())
}

fn to_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes.trim_ascii()))
}

/// A name below `refs`: no other file is read.
fn to_reference(bytes: &[u8]) -> Option<PathBuf> {
    let path = to_path(bytes);
    let is_normal = path.components().all(|part| matches!(part, Component::Normal(_)));
    (is_normal && path.starts_with("refs")).then(|| path.to_owned())
}

/// A SHA-1 or SHA-256 in hexadecimal digits.
fn to_commit(bytes: &[u8]) -> Option<String> {
    let is_hash = matches!(bytes.len(), 40 | 64) && bytes.iter().all(u8::is_ascii_hexdigit);
    is_hash.then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// The commit of a reference that has no file of its own.
fn find_packed(common: &Path, name: &Path) -> Option<String> {
    let file = File::open(common.join("packed-refs")).ok()?;
    let lines = BufReader::new(file.take(MAX_PACKED_BYTES)).split(b'\n');
    lines.map_while(Result::ok).find_map(|line| {
        let (hash, reference) = line.split_at_checked(line.iter().position(|it| *it == b' ')?)?;
        (to_path(reference) == name).then(|| to_commit(hash)).flatten()
    })
}

/// Whether tracked files of the folder's repository differ from its commit, by git itself. It may
/// read every file. None if git is missing or refuses.
#[must_use]
pub fn has_changes(folder: &Path) -> Option<bool> {
    let mut git = Command::new("git");
    // A monitor of git's own would outlive this.
    git.args(["-c", "core.fsmonitor=false", "--no-optional-locks", "status", "--porcelain"]);
    git.args(["--branch", "--untracked-files=no"]).current_dir(folder);
    // Variables such as GIT_DIR, which a hook has, name another repository.
    for (key, _) in std::env::vars_os() {
        if key.as_bytes().starts_with(b"GIT_") {
            git.env_remove(key);
        }
    }
    git.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = git.spawn().ok()?;
    let output = BufReader::new(child.stdout.take()?);
    // The exit status may be unknown: a ganger reaps all of its children. A git that succeeds
    // prints the branch first.
    let mut lines = output.split(b'\n').map_while(Result::ok);
    let has_succeeded = lines.next().is_some_and(|line| line.starts_with(b"##"));
    let has_changes = lines.next().is_some();
    drop(lines);
    let _ = child.wait();
    has_succeeded.then_some(has_changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    /// A folder with these files.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn commit(files: &[(&str, &str)], below: &str) -> Option<String> {
        find_commit(&folder(files).path().join(below))
    }

    #[test]
    fn commit_is_found_by_head_reference_and_packed_references() {
        let head = (".git/HEAD", "ref: refs/heads/main\n");
        let loose = (".git/refs/heads/main", &*format!("{ONE}\n"));
        let packed = format!("# pack-refs with: peeled\n{TWO} refs/heads/main\n^{ONE}\n");
        let packed = (".git/packed-refs", &*packed);
        assert_eq!(commit(&[(".git/HEAD", ONE)], ""), Some(ONE.into()), "detached");
        assert_eq!(commit(&[head, loose], ""), Some(ONE.into()));
        assert_eq!(commit(&[head, packed], ""), Some(TWO.into()));
        assert_eq!(commit(&[head, packed, loose], "app/web"), Some(ONE.into()), "loose ones win");
        let symbolic = (".git/refs/heads/main", "ref: refs/heads/other");
        assert_eq!(commit(&[head, symbolic, (".git/refs/heads/other", TWO)], ""), Some(TWO.into()));
    }

    #[test]
    fn worktree_has_its_own_head_and_shares_references() {
        let files = [
            ("main/.git/HEAD", "ref: refs/heads/main"),
            ("main/.git/refs/heads/main", ONE),
            ("main/.git/refs/heads/topic", TWO),
            ("main/.git/worktrees/topic/HEAD", "ref: refs/heads/topic"),
            ("main/.git/worktrees/topic/commondir", "../..\n"),
            ("topic/.git", "gitdir: ../main/.git/worktrees/topic\n"),
        ];
        assert_eq!(commit(&files, "main"), Some(ONE.into()));
        assert_eq!(commit(&files, "topic"), Some(TWO.into()));
    }

    #[test]
    fn repository_without_a_readable_commit_has_none() {
        let head = |text| commit(&[(".git/HEAD", text)], "");
        for text in ["", "ref:", "ref: refs/heads/unborn", "ref: ../secret", "ref: /etc/passwd"] {
            assert_eq!(head(text), None, "{text}");
        }
        assert_eq!(head("ref: refs/heads/.invalid"), None, "a reftable");
        let circle = [(".git/HEAD", "ref: refs/a"), (".git/refs/a", "ref: refs/a")];
        assert_eq!(commit(&circle, ""), None);
        assert_eq!(commit(&[(".git", "gitdir: nowhere")], ""), None);
        assert_eq!(commit(&[], ""), None);
    }

    #[test]
    fn commit_and_changes_are_those_of_git() {
        let folder = folder(&[("a", "1"), ("b", "1")]);
        let git = |args: &str| {
            let mut git = Command::new("git");
            git.current_dir(folder.path()).args(["-c", "user.name=a", "-c", "user.email=a@b.c"]);
            let output = git.args(args.split(' ')).output();
            output.ok().map(|output| String::from_utf8(output.stdout).unwrap().trim().to_owned())
        };
        if git("init --quiet").is_none() {
            return; // There is no git here.
        }
        assert_eq!(find_commit(folder.path()), None, "there is no commit yet");
        git("add a");
        git("commit --quiet -m first");
        let first = git("rev-parse HEAD");
        assert!(first.as_deref().is_some_and(|hash| hash.len() >= 40));
        assert_eq!(find_commit(folder.path()), first);
        assert_eq!(has_changes(folder.path()), Some(false), "b is not tracked");
        fs::write(folder.path().join("a"), "2").unwrap();
        assert_eq!(has_changes(folder.path()), Some(true));
        git("commit --quiet -a -m second");
        git("tag v1");
        git("pack-refs --all");
        git("gc --quiet");
        assert_eq!(find_commit(folder.path()), git("rev-parse HEAD"));
        git("checkout --quiet v1");
        assert_eq!(find_commit(folder.path()), git("rev-parse HEAD"));
    }

    proptest! {
        #[test]
        fn any_files_are_survived(head in ".{0,60}", main in ".{0,60}", packed in "[^\0]{0,80}") {
            let files = [
                (".git/HEAD", &*head),
                (".git/refs/heads/main", &*main),
                (".git/packed-refs", &*packed),
            ];
            let found = commit(&files, "");
            prop_assert!(found.is_none_or(|hash| hash.bytes().all(|it| it.is_ascii_hexdigit())));
        }
    }
}
