//! `.env` files: the variables that a process gets, and the values that are never shown.

use crate::scenario::{Finished, Scenario};

/// The value of `$A` in a process, with this `.env`.
fn value(env: impl AsRef<[u8]>) -> String {
    let scenario = Scenario::procfile("a: printf '%s|' \"$A\"\n").file(".env", env);
    let out = scenario.args("start").run().code(0).stdout();
    out.strip_prefix("a.1    | ").unwrap().replace("\na.1    | ", "\n").trim_end().to_owned()
}

#[test]
fn env_values_are_parsed_as_foreman_does() {
    for (env, expected) in [
        ("A=b", "b"),
        ("A=foo bar", "foo bar"),
        ("A=b=c", "b=c"),
        ("A='single'", "single"),
        ("A=\"double\"", "double"),
        ("A=\"a\\nb\"", "a\nb"),
        ("A='a\\nb'", "a\\nb"),
        ("A=it's", "it's"),
        ("A=abc\\def", "abc\\def"),
        ("A=\"a\\tb\"", "atb"),
        ("A={\"x\": [1, 2]}", "{\"x\": [1, 2]}"),
        ("A=", ""),
        ("\u{feff}A=b\r\nB=c\r\n", "b"),
        ("# A=no\n\nA=b\n", "b"),
        ("A=1\nA=2\n", "2"),
        ("A=pa$$word", "pa$$word"),
        ("A=a#b", "a#b"),
    ] {
        assert_eq!(value(env), format!("{expected}|"), "{env:?}");
    }
}

#[test]
fn env_differences_from_foreman_are_documented() {
    for (env, expected) in [
        ("export A=b", "b"),
        ("A=b # comment", "b"),
        ("A = b ", "b"),
        ("B=1\nA=x${B}y", "x1y"),
        ("B=1\nA=x$B\nB=2", "x1"),
        ("A=x$B\nB=1", "x$B"),
        ("B=1\nA='x$B'", "x$B"),
        ("A=\"a\\\\nb\"", "a\\nb"),
        ("A=b\nexport A", "b"),
        ("A=$NOWHERE", "$NOWHERE"),
        (
            "A=\"-----BEGIN KEY-----\nabc=\n-----END KEY-----\n\" # a key",
            "-----BEGIN KEY-----\nabc=\n-----END KEY-----\n",
        ),
    ] {
        assert_eq!(value(env), format!("{expected}|"), "{env:?}");
    }
    // A shell would drop these, and a program that needs no shell gets them.
    let env = "1A=x\nmy.key-1=y\n";
    let finished = Scenario::procfile("a: env\n").file(".env", env).args("start").run().code(0);
    let lines = finished.lines_of("a.1");
    assert!(lines.contains(&"1A=x".to_owned()) && lines.contains(&"my.key-1=y".to_owned()));
}

#[test]
fn environment_of_ganger_reaches_no_value_by_another_way() {
    // An earlier version resolved references through variables with these names.
    let scenario = Scenario::procfile("a: printf '%s|' \"$A\"\n").file(".env", "B=b\nA=${B}\n");
    let scenario = scenario.env("GANGER_ASSIGNMENT_0", "leak").env("GANGER_ASSIGNMENT_1", "leak");
    assert_eq!(scenario.args("start").run().code(0).lines_of("a.1"), ["b|"]);
    let overridden = Scenario::procfile("a: printf '%s|' \"$A\"\n").file(".env", "B=b\nA=${B}\n");
    let overridden = overridden.env("B", "leak").args("start --env-override");
    assert_eq!(overridden.run().code(0).lines_of("a.1"), ["b|"]);
}

#[test]
fn bytes_of_a_reference_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"a\xffb");
    let scenario = Scenario::procfile("a: printf '%s|' \"$A\"\n").file(".env", "A=\"x ${ODD}\"\n");
    let scenario = scenario.command(|command| {
        command.env("ODD", odd);
    });
    assert_eq!(scenario.args("start").run().code(0).out, b"a.1    | x a\xffb|\n");
}

#[test]
fn exported_name_without_a_value_is_an_error() {
    let app = || Scenario::procfile("a: env\n").file(".env", "export NAME\n").args("start");
    app().run().refused("`.env` line 1: `NAME` has no value to export (`export NAME=value`)");
    let set = app().env("NAME", "real").run().code(0);
    assert!(set.lines_of("a.1").contains(&"NAME=real".to_owned()));
}

#[test]
fn secret_on_an_invalid_line_is_not_printed() {
    let refused = |env: &[u8], expected: &str| {
        let start = Scenario::procfile("a: true\n").file(".env", env).args("start").run();
        start.refused(expected);
        let verbose =
            Scenario::procfile("a: true\n").file(".env", env).args("start --verbose").run();
        assert!(!verbose.code(2).stderr().contains("hunter2"));
    };
    refused(b"A=1\nhunter2\n", "`.env` line 2: expected `KEY=value`, found no `=`");
    refused(
        b"MY PASSWORD=hunter2\n",
        "`.env` line 1: `MY PASSWORD` is not a valid key (letters, digits, `_`, `.` and `-`)",
    );
    refused(
        b"A=-----BEGIN KEY-----\nhunter2/hunter2+hunter2=\n",
        "`.env` line 2: the text before `=` is not a valid key (letters, digits, `_`, `.` and `-`)",
    );
    refused(
        b"PASSWORD: hunter2\n",
        "`.env` line 1: expected `PASSWORD=value`, found `PASSWORD: \u{2026}`",
    );
    refused(
        b"A=1\nB=\"hunter2\nC=1\n",
        "`.env` line 2: the value of `B` opens a quote that never closes",
    );
    refused(b"A='hunter2\nx' y\n", "`.env` line 2: something follows the closing quote of `A`");
    refused(b"A=hunter2\xff\n", "`.env` line 1: is not UTF-8 text");
    refused(b"PORT=hunter2\n", "`PORT` (.env:1) is not a port; expected 1 to 65535");
}

#[test]
fn errors_never_show_env_values() {
    let shown = |args: &str| {
        let app = Scenario::procfile("a: true\n").file(".env", "A=hunter2\nB=x$A\n");
        let finished = app.env("A", "hunter2too").args(args).run().code(0);
        finished.stdout() + &finished.stderr()
    };
    for args in ["start --verbose", "check --explain", "check --verbose"] {
        assert!(!shown(args).contains("hunter2"), "{args}");
    }
}

const BOTH: &str = "a: echo $A $B\n";

fn layers(args: &str) -> Finished {
    Scenario::procfile(BOTH)
        .file(".env", "A=file\nB=file\n")
        .file(".env.local", "B=local\n")
        .args("start")
        .args(args)
        .run()
}

#[test]
fn later_env_file_overrides_an_earlier_one() {
    assert_eq!(layers("").code(0).lines_of("a.1"), ["file file"]);
    assert_eq!(layers("-e .env,.env.local").code(0).lines_of("a.1"), ["file local"]);
    assert_eq!(layers("-e .env.local -e .env").code(0).lines_of("a.1"), ["file file"]);
    assert_eq!(layers("-e .env.local").code(0).lines_of("a.1"), ["local"]);
    layers("-e .env,.env.none").refused("failed to read `.env.none`: No such file or directory");
}

#[test]
fn folder_named_dot_env_is_ignored() {
    let app = || Scenario::procfile("a: echo $A\n").file(".env/bin/python", "");
    assert_eq!(app().args("start").run().code(0).lines_of("a.1"), [""]);
    app().args("check").run().code(0);
    app().args("run true").run().code(0);
    app().args("start -e .env").run().refused("failed to read `.env`: Is a directory");
}

#[test]
fn env_file_is_read_from_the_current_folder_or_the_root() {
    let app = || {
        let app = Scenario::new().file("config/Procfile.dev", "a: echo $A; pwd\n");
        app.file(".env", "A=here\n").file("config/.env", "A=there\n")
    };
    let finished = app().args("start -f config/Procfile.dev").run().code(0);
    let lines = finished.lines_of("a.1");
    assert!(lines[0] == "here" && lines[1].ends_with("/config"), "{lines:?}");
    let unread = "`config/.env` is not read: without `-d`, `.env` is that of the current folder \
                  (`-e config/.env` reads this one)\n";
    assert!(finished.stderr().starts_with(&format!("ganger | {unread}")), "{}", finished.stderr());
    let check = app().args("check -f config/Procfile.dev").run().code(0);
    assert_eq!(check.stderr(), format!("ganger: {unread}"));
    for (args, expected) in [
        ("-d config -f config/Procfile.dev", "there"),
        ("-f config/Procfile.dev -e config/.env", "there"),
        ("-f config/Procfile.dev -d .", "here"),
    ] {
        let finished = app().args("start").args(args).run().code(0);
        assert_eq!(finished.lines_of("a.1")[0], expected, "{args}");
        assert!(!finished.stderr().contains("is not read"), "{args}");
    }
    assert_eq!(
        app().args("run -f config/Procfile.dev a").run().code(0).stdout().lines().next(),
        Some("here")
    );
    let config = app().file("config/ganger.toml", "env = ['.env']\n");
    let finished = config.args("start -f config/Procfile.dev").run().code(0);
    assert!(finished.lines_of("a.1")[0] == "there" && !finished.stderr().contains("is not read"));
}

#[test]
fn real_environment_wins_unless_overridden() {
    let app = || Scenario::procfile(BOTH).file(".env", "A=file\nB=$A\n").env("A", "real");
    let finished = app().args("start").run().code(0);
    assert_eq!(finished.lines_of("a.1"), ["real real"]);
    let notice = "ganger | `A`: the environment wins over the `.env` file \
                  (`--env-override` reverses this)\n";
    assert!(finished.stderr().starts_with(notice), "{}", finished.stderr());
    let finished = app().args("start --env-override").run().code(0);
    assert_eq!(finished.lines_of("a.1"), ["file file"]);
    let notice = "ganger | `A`: the `.env` file wins over the environment, as you asked\n";
    assert!(finished.stderr().starts_with(notice), "{}", finished.stderr());
    let same = Scenario::procfile(BOTH).file(".env", "A=real\n").env("A", "real");
    assert!(same.args("start").run().code(0).stderr().starts_with("ganger | a.1 started"));
}

#[test]
fn process_gets_its_name_and_the_ports_of_others() {
    let procfile = "web: env\nmy-worker: sleep 1000\n";
    let of = |args: &str| {
        let finished = Scenario::procfile(procfile).args("start").args(args).run().code(0);
        let ours = |line: &String| {
            ["PORT", "PS", "GANGER_PROCESS", "FOREMAN", "HONCHO", "DYNO"]
                .iter()
                .any(|name| line.starts_with(name))
        };
        let mut lines: Vec<String> = finished.lines_of("web.1").into_iter().filter(ours).collect();
        lines.sort();
        lines
    };
    let plain = [
        "GANGER_PROCESS_my_worker_PORT=5100",
        "GANGER_PROCESS_web_PORT=5000",
        "PORT=5000",
        "PS=web.1",
    ];
    assert_eq!(of(""), plain);
    let compat = ["DYNO=web.1", "FOREMAN_WORKER_NAME=web.1"]
        .into_iter()
        .chain(plain[..2].iter().copied())
        .chain(["HONCHO_PROCESS_NAME=web.1"])
        .chain(plain[2..].iter().copied());
    assert_eq!(of("--compat-env"), compat.collect::<Vec<_>>());
}

#[test]
fn nested_ganger_replaces_the_session_marker() {
    let finished = Scenario::procfile("a: exec $GANGER start -d inner\n")
        .file("inner/Procfile", "b: env\n")
        .args("start")
        .run()
        .code(0);
    let out = finished.stdout();
    let marks: Vec<&str> = out.lines().filter(|line| line.contains("GANGER_SESSION=")).collect();
    assert!(marks.len() == 1 && marks[0].ends_with("/4294967296"), "{marks:?}");
}

#[test]
fn too_long_environment_is_reported_before_the_start() {
    let one = |name: usize| format!("A{name}={}\n", "x".repeat(100_000));
    let all: String = (0..200).map(one).collect::<Vec<_>>().concat();
    let finished = Scenario::procfile("a: true\n").file(".env", all).args("start").run().code(126);
    let expected = "ganger | a.1 could not be started: Argument list too long, stopping all\n";
    assert_eq!(finished.stderr(), expected);
}
