//! How a command is run: by the shell, unchanged.
//!
//! There are two shortcuts where they can't change the meaning of the command: a command of plain
//! words is run without a shell, and `exec` before a simple command replaces the shell by the
//! program.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;

/// The default shell.
pub const DEFAULT: &str = "/bin/sh";

/// Reserved words and builtins of POSIX, dash and bash: as the first word of a command, `exec`
/// would run another program for them, or none.
const BUILTINS: &[&str] = &[
    "!",
    ".",
    ":",
    "[",
    "[[",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "case",
    "cd",
    "chdir",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "coproc",
    "declare",
    "dirs",
    "disown",
    "do",
    "done",
    "echo",
    "elif",
    "else",
    "enable",
    "esac",
    "eval",
    "exec",
    "exit",
    "export",
    "false",
    "fc",
    "fg",
    "fi",
    "for",
    "function",
    "getopts",
    "hash",
    "help",
    "history",
    "if",
    "in",
    "jobs",
    "kill",
    "let",
    "local",
    "logout",
    "mapfile",
    "newgrp",
    "popd",
    "printf",
    "pushd",
    "pwd",
    "read",
    "readarray",
    "readonly",
    "return",
    "select",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "test",
    "then",
    "time",
    "times",
    "trap",
    "true",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "until",
    "wait",
    "while",
    "{",
    "}",
];

/// The program and arguments that run a command. A program without a slash is
/// looked up in the PATH of its environment.
#[must_use]
pub fn argv(shell: &Path, command: &str) -> Vec<OsString> {
    if shell == Path::new(DEFAULT) && is_plain(command) {
        return command.split_ascii_whitespace().map(OsString::from).collect();
    }
    vec![shell.into(), "-c".into(), with_exec(command).into_owned().into()]
}

/// Whether no shell stays between ganger and the program of `command`: the process that is
/// started becomes the program itself.
#[must_use]
pub fn is_replaced(command: &str) -> bool {
    // Only the last of several commands matters: the shell has run the others by then.
    let closed = |text: &str| ['\'', '"'].iter().all(|quote| text.matches(*quote).count() % 2 == 0);
    let last = |separator| {
        let (before, last) = command.rsplit_once(separator)?;
        closed(before).then_some(last)
    };
    let ends = [last("&&"), last(";")].into_iter().flatten();
    is_simple(command) || std::iter::once(command).chain(ends).any(is_exec)
}

/// Whether the command is `exec` and a simple command, optionally with assignments before it.
fn is_exec(command: &str) -> bool {
    let mut rest = command.trim_start();
    loop {
        let Some((word, after)) = rest.split_once([' ', '\t']) else { return false };
        rest = after.trim_start();
        let (key, value) = word.split_once('=').unwrap_or_default();
        let name = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+,-".contains(&byte);
        if word == "exec" {
            return !rest.is_empty() && is_single(rest);
        }
        if key.is_empty() || !key.bytes().chain(value.bytes()).all(name) {
            return false;
        }
    }
}

/// Whether the command consists of words without a special meaning to a shell.
fn is_plain(command: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./+@%:,= \t".contains(&byte);
    let mut words = command.split_ascii_whitespace();
    let is_program = |word: &str| !word.contains('=') && !BUILTINS.contains(&word);
    command.bytes().all(plain) && words.next().is_some_and(is_program)
}

/// The command with `exec` before it if it is one simple command, else unchanged.
fn with_exec(command: &str) -> Cow<'_, str> {
    if is_simple(command) { format!("exec {command}").into() } else { command.into() }
}

/// Whether the command is a plain program name with arguments and redirections, and the shell
/// has nothing to do after it.
fn is_simple(command: &str) -> bool {
    let first = command.split_ascii_whitespace().next().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./+@%:,".contains(&byte);
    let is_program = !first.is_empty() && first.bytes().all(plain) && !BUILTINS.contains(&first);
    is_program && is_single(command)
}

/// Whether this is exactly one command, without work for the shell itself.
fn is_single(command: &str) -> bool {
    let mut quote = None;
    let mut bytes = command.bytes().peekable();
    let mut before = b' ';
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(b'\''), b'\'') | (Some(b'"'), b'"') => quote = None,
            (Some(b'\''), _) => {}
            // A substitution may contain any command.
            (_, b'`') => return false,
            (_, b'$') if bytes.peek() == Some(&b'(') => return false,
            (_, b'\\') => {
                bytes.next();
            }
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'<') if bytes.peek() == Some(&b'<') => return false,
            // `2>&1` is a redirection, every other `&` a second command.
            (None, b'&') if !matches!(before, b'>' | b'<') => return false,
            (None, b';' | b'|' | b'(' | b')' | b'\n') => return false,
            (None, _) => {}
        }
        before = byte;
    }
    quote.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_command_runs_without_a_shell() {
        let run = |shell: &str, command| argv(Path::new(shell), command);
        assert_eq!(run(DEFAULT, "bin/web  -p 80 --x=y\t"), ["bin/web", "-p", "80", "--x=y"]);
        assert_eq!(run("/bin/bash", "bin/web"), ["/bin/bash", "-c", "exec bin/web"]);
        assert_eq!(run(DEFAULT, "web $PORT"), [DEFAULT, "-c", "exec web $PORT"]);
        for command in ["A=b web", "cd api", "echo a", "~/web", "a*", "a 'b'", "#a", "a;b", "a [b]"]
        {
            assert_eq!(run(DEFAULT, command)[0], DEFAULT, "{command}");
        }
    }

    #[test]
    fn simple_command_replaces_the_shell() {
        for command in [
            "bin/web -p $PORT",
            "bundle exec puma -C config/puma.rb",
            "node server.js > log 2>&1",
            "python3 -c 'import os; print(1 | 2)'",
            "ruby -e \"puts 1; sleep\" # a comment",
            "perl -e 'a && b'  \\; x",
        ] {
            assert_eq!(with_exec(command), format!("exec {command}"));
        }
    }

    #[test]
    fn command_that_replaces_its_shell_is_recognized() {
        for command in [
            "bin/web -p 80",
            "web --bind 'a b' > log",
            "exec web",
            "exec $WEB -x",
            "cd api && exec bundle exec puma",
            "ulimit -n 99; RAILS_ENV=production A=b exec web \"$X\"",
            "exec sh -c 'a && b'",
        ] {
            assert!(is_replaced(command), "{command}");
        }
        for command in [
            "cd api && web",
            "A=b web",
            "a | exec b",
            "exec a; b",
            "exec a | b",
            "(cd x && exec a)",
            "if x; then exec a; fi",
            "{ a; exec b; }",
            "exec",
            "'a && exec b",
            "A='b; exec c' d 'e'",
        ] {
            assert!(!is_replaced(command), "{command}");
        }
    }

    #[test]
    fn command_that_needs_the_shell_is_unchanged() {
        for command in [
            "sleep 1; bin/web",
            "a && b",
            "a | b",
            "a &",
            "(a)",
            "a `b`",
            "a $(b)",
            "a \"$(b)\"",
            "FOO=bar a",
            "cd api && run",
            "cd api",
            "echo hello",
            "exec bin/web",
            "$CMD",
            "'a b' c",
            "a &>log",
            "a <<EOF",
            "a 'b",
            "if true",
            "{ a",
            "! a",
            "a <(b)",
            "~/bin/web",
            "a\nb",
            "",
        ] {
            assert_eq!(with_exec(command), command);
        }
    }
}
