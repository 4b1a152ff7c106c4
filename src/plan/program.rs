//! Why a program can't be executed, and what the user can do about it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// The kernel reads no more of a script to find its interpreter (execve(2)).
const MAX_INTERPRETER_LINE: u64 = 256;

/// The reason why `program` can't be executed in the folder `dir`, where execve(2) fails with
/// `errno`. A program without a slash is looked up in `search_path`, the value of PATH.
#[must_use]
pub fn exec_error(
    program: &OsStr,
    dir: &Path,
    search_path: Option<&OsStr>,
    errno: Errno,
) -> String {
    let name = program.to_string_lossy();
    let path = if name.contains('/') {
        Some(dir.join(program))
    } else {
        find_file(program, dir, search_path.unwrap_or_default())
    };
    match (errno, path) {
        (Errno::ENOENT, None) => format!("can't run `{name}`: not found in PATH"),
        (Errno::ENOENT, Some(path)) if path.exists() => match interpreter(&path) {
            Some(interpreter) => format!("`{name}`: its interpreter `{interpreter}` is missing"),
            None => format!("`{name}`: its interpreter or loader is missing"),
        },
        (Errno::ENOENT | Errno::ENOTDIR, Some(_)) => {
            format!("can't run `{name}`: there is no such file")
        }
        (Errno::EACCES, Some(path)) if path.is_dir() => {
            format!("can't run `{name}`: it is a folder")
        }
        (Errno::EACCES, Some(path)) if path.is_file() && !is_executable(&path) => {
            let shown = if name.contains('/') { name.clone() } else { path.to_string_lossy() };
            format!("`{shown}` is not executable (`chmod +x {shown}`)")
        }
        (errno, _) => format!("failed to run `{name}`: {}", errno.desc()),
    }
}

/// The first file of this name in the folders of PATH.
fn find_file(program: &OsStr, dir: &Path, search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .map(|folder| dir.join(folder).join(program))
        .find(|path| path.is_file())
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
}

/// The program that the first line of a script names.
fn interpreter(script: &Path) -> Option<String> {
    let mut line = Vec::new();
    let start = File::open(script).ok()?.take(MAX_INTERPRETER_LINE);
    BufReader::new(start).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8_lossy(line.strip_prefix(b"#!")?).into_owned();
    line.split_ascii_whitespace().next().map(|word| word.escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_error_names_program_interpreter_or_permission() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("script"), "#!/usr/bin/rubyy -w\n").unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::write(folder.path().join("bin/tool"), "").unwrap();
        let error = |program: &str, errno| {
            exec_error(program.as_ref(), folder.path(), Some("/nowhere:bin".as_ref()), errno)
        };
        let tool = folder.path().join("bin/tool");
        let tool = tool.display();
        for (program, errno, expected) in [
            ("bundel", Errno::ENOENT, "can't run `bundel`: not found in PATH"),
            ("./bad", Errno::ENOENT, "can't run `./bad`: there is no such file"),
            ("./script", Errno::ENOENT, "`./script`: its interpreter `/usr/bin/rubyy` is missing"),
            ("bin/tool", Errno::ENOENT, "`bin/tool`: its interpreter or loader is missing"),
            ("./script", Errno::EACCES, "`./script` is not executable (`chmod +x ./script`)"),
            ("tool", Errno::EACCES, &format!("`{tool}` is not executable (`chmod +x {tool}`)")),
            ("./bin", Errno::EACCES, "can't run `./bin`: it is a folder"),
            ("./script", Errno::E2BIG, "failed to run `./script`: Argument list too long"),
        ] {
            assert_eq!(error(program, errno), expected);
        }
    }
}
