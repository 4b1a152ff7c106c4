//! Procfiles as people write them, and what is refused.

use std::io::Write;
use std::process::Stdio;

use crate::scenario::Scenario;

fn output_lines(procfile: impl AsRef<[u8]>) -> Vec<String> {
    Scenario::procfile(procfile).args("start").run().code(0).lines_of("web.1")
}

#[track_caller]
fn refused(procfile: impl AsRef<[u8]>, expected: &str) {
    Scenario::procfile(procfile).args("start").run().refused(expected);
}

#[test]
fn procfile_commands_are_run_unchanged() {
    assert_eq!(output_lines("# a comment\n\n  # another\nweb: echo a\n"), ["a"]);
    assert_eq!(output_lines("web: echo a\r\n\r\n# c\r\n"), ["a"]);
    assert_eq!(output_lines("\u{feff}web: echo a\n"), ["a"]);
    assert_eq!(output_lines("web: echo a"), ["a"]);
    assert_eq!(output_lines("web:echo a"), ["a"]);
    assert_eq!(output_lines("web: echo a \\\n  b\\\nc\n"), ["a bc"]);
    assert_eq!(output_lines("web: echo http://x:80\n"), ["http://x:80"]);
    assert_eq!(output_lines("web: echo \"it's\" 'a \"b\"' | tr a-z A-Z\n"), ["IT'S A \"B\""]);
    assert_eq!(output_lines("web: X=1; echo $X && echo '$X' # not this\n"), ["1", "$X"]);
    assert_eq!(
        output_lines("web: for i in 1 2; do echo \"$i $PS\"; done\n"),
        ["1 web.1", "2 web.1"]
    );
}

#[test]
fn invalid_procfile_line_is_refused_with_its_number() {
    refused("web: a\nweb: b\n", "`Procfile` line 2: `web` is already defined on line 1");
    refused(
        "web: a\n<<<<<<< HEAD\nworker: b\n=======\n",
        "`Procfile` line 2: `<<<<<<<` is a merge conflict marker",
    );
    refused(
        "web: a\nworker\n",
        "`Procfile` line 2: expected `name: command`, found `worker` (comments begin with `#`)",
    );
    refused(
        "// the web server\nweb: a\n",
        "`Procfile` line 1: expected `name: command`, found `// the web server` (comments begin with \
         `#`)",
    );
    refused("web:\n", "`Procfile` line 1: `web:` has no command");
    refused(
        "web: a\nTOKEN=hunter2\n",
        "`Procfile` line 2: expected `name: command`, found an assignment (variables belong in `.env`)",
    );
    refused("web: a \\", "`Procfile` line 1: ends in a `\\`, but no line follows");
    refused("", "`Procfile` defines no process type: a line is `name: command`");
    refused(b"\x7fELF\x02\x01\x01\0\0", "`Procfile` line 1: is not UTF-8 text");
    refused(b"web: a\n\xfe\xff", "`Procfile` line 2: is not UTF-8 text");
}

#[test]
fn backslash_continues_a_line_but_does_not_swallow_an_entry() {
    assert_eq!(output_lines("web: echo a \\\n  b: c\n"), ["a b: c"]);
    refused(
        "web: echo a \\\nworker: echo b\n",
        "`Procfile` line 2: `worker` would be part of line 1, which ends in a `\\` (remove that, or \
         indent line 2)",
    );
}

#[test]
fn procfile_that_is_no_file_is_refused() {
    Scenario::new().args("start").run().refused(
        "failed to read `Procfile`: No such file or directory \
         (go to the folder that has one, or name it: `-f PROCFILE`)",
    );
    Scenario::new()
        .args("start -f dev/Procfile.dev")
        .run()
        .refused("failed to read `dev/Procfile.dev`: No such file or directory");
    Scenario::new()
        .file("Procfile/web", "a")
        .args("start")
        .run()
        .refused("failed to read `Procfile`: Is a directory (go to the folder that has one, or name it: `-f PROCFILE`)");
}

#[test]
fn folder_in_place_of_a_file_is_reported() {
    let refused = |args: &str, expected: &str| {
        Scenario::new().file("app/x", "").args(args).run().refused(expected);
    };
    refused("start -f app", "`app` is a folder: use `-d`");
    refused("check -d nope", "the folder `nope` does not exist");
    refused("ps -d nope", "the folder `nope` does not exist");
    refused("start -d app/x", "`app/x` is not a folder");
    refused(
        "start -d app",
        "failed to read `Procfile`: No such file or directory (go to the folder that has one, or name \
         it: `-f PROCFILE`)",
    );
}

#[test]
fn missing_procfile_suggests_another_one() {
    let app =
        || Scenario::new().file("app/Procfile.test", "a: a\n").file("app/Procfile.dev", "a: a\n");
    app().args("start -d app").run().refused(
        "failed to read `Procfile`: No such file or directory (there is a `app/Procfile.dev`: \
         `-f app/Procfile.dev`)",
    );
    Scenario::new().file("Procfile.dev", "a: a\n").args("check").run().refused(
        "failed to read `Procfile`: No such file or directory (there is a `Procfile.dev`: \
         `-f Procfile.dev`)",
    );
}

#[test]
fn procfile_may_be_in_another_folder() {
    let app = || Scenario::new().file("app/Procfile.dev", "web: pwd; echo $PWD\n");
    let folder_of = |args: &str| {
        let scenario = app().args(args);
        let root = scenario.folder().canonicalize().unwrap();
        let lines = scenario.run().code(0).lines_of("web.1");
        assert_eq!(lines[0], lines[1], "PWD is the folder");
        std::path::PathBuf::from(&lines[0]).strip_prefix(root).unwrap().display().to_string()
    };
    assert_eq!(folder_of("start -f app/Procfile.dev"), "app");
    assert_eq!(folder_of("-f app/Procfile.dev start"), "app");
    assert_eq!(folder_of("start -f app/Procfile.dev -d ."), "");
    let inside = Scenario::new().file("app/Procfile", "web: pwd\n").args("start -d app").run();
    assert!(inside.code(0).lines_of("web.1")[0].ends_with("/app"));
}

#[test]
fn procfile_may_be_read_from_stdin() {
    let scenario = Scenario::new().args("start -f -").command(|command| {
        command.stdin(Stdio::piped());
    });
    let mut running = scenario.start();
    running.child.stdin.take().unwrap().write_all(b"web: echo from a pipe\n").unwrap();
    assert_eq!(running.finish().code(0).lines_of("web.1"), ["from a pipe"]);
    Scenario::new()
        .args("start -f -")
        .run()
        .refused("`standard input` defines no process type: a line is `name: command`");
}
