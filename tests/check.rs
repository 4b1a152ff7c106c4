//! `check`, `version` and help.

use crate::scenario::Scenario;

#[test]
fn check_lists_process_types_in_procfile_order() {
    let procfile = "foo: a\nbar: b\nbaz: c\n";
    let finished = Scenario::procfile(procfile).args("check").run().code(0);
    assert_eq!(finished.stdout(), "valid procfile detected (foo, bar, baz)\n");
    assert_eq!(finished.stderr(), "");
}

#[test]
fn check_reports_the_errors_that_start_would_report() {
    Scenario::procfile("web a\n").args("check").run().refused(
        "`Procfile` line 1: expected `name: command`, found `web a` (comments begin with `#`)",
    );
    Scenario::procfile("web: a\n")
        .file(".env", "hunter2\n")
        .args("check")
        .run()
        .refused("`.env` line 1: expected `KEY=value`, found no `=`");
    Scenario::procfile("web: a\n")
        .file("ganger.toml", "[proces.web]\n")
        .args("check")
        .run()
        .refused("`ganger.toml` line 1: unknown key `proces` (did you mean `process`?)");
    let scenario = Scenario::procfile("web: a\n").file("ganger.toml", "[process.web]\ndir = 'x'\n");
    let folder = scenario.folder().canonicalize().unwrap().join("x");
    let refusal = format!("`dir` of `web`: the folder `{}` does not exist", folder.display());
    scenario.args("check").run().refused(&refusal);
    Scenario::procfile("web: a\n")
        .args("check -m wbe=2")
        .run()
        .refused("the Procfile has no `wbe` (did you mean `web`?)");
}

#[test]
fn check_explain_shows_every_process_without_secrets() {
    let scenario = Scenario::procfile("web: bin/web -p $PORT\nworker: bin/work\n")
        .file(".env", "KEY=hunter2\nTHEIRS=hunter2\n")
        .env("THEIRS", "hunter3")
        .file("ganger.toml", "[process.worker]\ndir = 'api'\nenv = { THREADS = '5' }\n")
        .file("api/x", "")
        .args("check --explain -m web=2");
    let root = scenario.folder().canonicalize().unwrap().display().to_string();
    let text = scenario.run().code(0).stdout().replace(&root, "ROOT");
    insta::assert_snapshot!(text);
}

#[test]
fn unknown_command_suggests_the_right_one() {
    let refused = |args: &str, expected: &str| {
        let app = Scenario::procfile("web: a\nkill: a\nrelease: a\n");
        app.args(args).run().refused(expected);
    };
    refused("web", "there is no command `web`; to start it: `ganger start web`");
    refused("web --verbose -x", "there is no command `web`; to start it: `ganger start web`");
    refused("release", "there is no command `release`; to start it: `ganger run release`");
    refused("kill", "there is no command `kill`; to start it: `ganger start kill`");
    refused("up", "there is no command `up`; use `ganger start`");
    refused("down", "there is no command `down`; use `ganger quit`");
    refused("tail", "there is no command `tail`; use `ganger logs -f`");
    refused("list", "there is no command `list`; use `ganger ps`");
    refused("strat", "there is no command `strat` (did you mean `start`?)");
    refused("qqqqq", "there is no command `qqqqq`: see `ganger help`");
    let elsewhere = Scenario::new().args("kill").run();
    elsewhere.refused("there is no command `kill`; use `ganger signal KILL`");
}

#[test]
fn scale_without_a_number_asks_how_many() {
    let finished = Scenario::procfile("web: a\n").args("scale web 2").run().code(2);
    let message = finished.stderr();
    assert!(message.contains(": how many? `ganger scale web=2`\n"), "{message}");
}

#[test]
fn help_of_logs_lists_f_as_follow() {
    let help = Scenario::new().args("logs --help").run().code(0).stdout();
    let flags: Vec<&str> = help.lines().filter(|line| line.contains("-f,")).collect();
    assert!(flags.len() == 1 && flags[0].contains("-f, --follow"), "{help}");
}

#[test]
fn version_and_help_list_all_commands() {
    let version = concat!("ganger ", env!("CARGO_PKG_VERSION"), "\n");
    for args in ["version", "--version", "-v"] {
        assert_eq!(Scenario::new().args(args).run().code(0).stdout(), version);
    }
    let help = Scenario::new().args("help").run().code(0).stdout();
    for command in ["start", "run", "check", "version"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    Scenario::new().run().code(2);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let scenario = Scenario::new().args("version").command(|command| {
        command.stdout(full);
    });
    scenario.run().refused("No space left on device (os error 28)");
}

#[test]
fn help_fits_80_columns_and_groups_the_options_of_start() {
    let help = |args: &str| Scenario::new().args(args).run().code(0).stdout();
    for command in ["", "start", "run", "check", "ps", "logs", "wait", "reload", "restart"] {
        for help in [help(&format!("help {command}")), help(&format!("{command} -h"))] {
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{command}: {line}");
            }
        }
    }
    let start = help("start --help");
    let headings: Vec<&str> = start
        .lines()
        .filter(|line| line.ends_with(':') && line.starts_with(char::is_uppercase))
        .collect();
    assert_eq!(
        headings,
        [
            "Options:",
            "What runs:",
            "Ports:",
            "Environment:",
            "Restarting and stopping:",
            "Output:",
            "Files:",
            "General:"
        ]
    );
}

#[test]
fn help_is_as_wide_as_the_terminal() {
    let help = |columns: &str| {
        let help = Scenario::new().args("start --help").env("COLUMNS", columns).run().code(0);
        help.stdout().lines().map(|line| line.chars().count()).max().unwrap()
    };
    assert!((81..=100).contains(&help("200")));
    assert!(help("60") <= 60);
}

#[test]
fn json_describes_every_process() {
    let config = "[process.web]\nready = { http = '/up' }\nafter = ['db']\n";
    let scenario = Scenario::procfile("web: serve\ndb: database\n").file("ganger.toml", config);
    let text = scenario.args("check --json -m web=2").run().code(0).stdout();
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let names: Vec<&str> = answer["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["web.1", "web.2", "db.1"]);
    let web = &answer["processes"][1];
    assert_eq!((&web["port"], &web["ready"]["http"]), (&5001.into(), &"/up".into()));
    assert_eq!(answer["schema_version"], 1);
}
