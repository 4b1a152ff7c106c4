//! What scripts do with ganger: the scripts in `tests/scripts`, the page `ganger help scripting`,
//! and a debugging session in JSON.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::control::ClientOutput;
use crate::scenario::{Finished, GANGER, Running, Scenario, free_port};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
const PAGE: &str = include_str!("../docs/scripting.md");

/// An app with a job, a server that comes after it, and a worker that writes.
const PROCFILE: &str = "web: echo \"listening on port $PORT\"; exec $HOSTILE listen $PORT x\n\
                        worker: trap 'echo ERROR: asked' USR1; i=0; while :; do i=$((i + 1)); \
                        echo \"job $i is done\"; sleep 0.1; done\n\
                        db: exec $HOSTILE listen $PORT x\n\
                        migrate: touch migrated; echo migrated\n";
const CONFIG: &str = "[process.web]\nafter = ['migrate', 'db']\n\
                      [process.migrate]\nready = { exit = true }\n";

/// A shell in the folder of the app, with `ganger` and `npm` in its PATH.
fn shell(script: &str) -> Scenario {
    let scenario = Scenario::of("sh").file("Procfile", PROCFILE).file("ganger.toml", CONFIG);
    let scenario = scenario.file("bin/npm", "#!/bin/sh\necho tested\n");
    let bin = scenario.folder().join("bin");
    std::os::unix::fs::symlink(GANGER, bin.join("ganger")).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(bin.join("npm")).status().unwrap().success());
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    let port = free_port().to_string();
    scenario.env("PATH", &path).env("GANGER_PORT", &port).arg("-euc").arg(script)
}

fn run(script: &str) -> Finished {
    shell(script).run()
}

fn scripts() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(SCRIPTS).unwrap().flatten();
    let mut scripts: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    scripts.sort();
    scripts
}

fn run_scripts(of: impl Fn(usize) -> bool) {
    for (_, path) in scripts().into_iter().enumerate().filter(|(index, _)| of(*index)) {
        let script = std::fs::read_to_string(&path).unwrap();
        assert!(script.lines().count() <= 10, "{}", path.display());
        let finished = run(&script);
        assert!(
            finished.status.success(),
            "{}: {:?}\n{}{}",
            path.display(),
            finished.status,
            finished.stdout(),
            finished.stderr()
        );
    }
}

#[test]
fn first_half_of_the_scripts_run() {
    assert_eq!(scripts().len(), 20);
    run_scripts(|index| index < 10);
}

#[test]
fn second_half_of_the_scripts_run() {
    run_scripts(|index| index >= 10);
}

/// The blocks of the page in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    PAGE.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn page_for_scripts_is_short_and_each_of_its_lines_runs() {
    let finished = Scenario::new().args("help scripting").run().code(0);
    assert_eq!(finished.stdout(), PAGE);
    let words = PAGE.split_whitespace().count();
    assert!(words < 700, "{words} words");
    let all = blocks("sh");
    assert_eq!(all.len(), 3);
    for block in all {
        let finished = run(block).code(0);
        if block.contains("with") {
            assert_eq!(finished.stdout(), "tested\ntested\n");
        }
        if block.contains("cursor") {
            assert!(
                finished.stdout().contains("\"line\":\"listening on port "),
                "{}",
                finished.stdout()
            );
        }
    }
    for line in blocks("json").iter().flat_map(|block| block.lines()) {
        let _: Value = serde_json::from_str(line).unwrap();
    }
}

#[test]
fn help_of_every_command_says_whether_it_changes_something() {
    let help = Scenario::new().args("--help").run().code(0).stdout();
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"ps") && names.contains(&"with"), "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let help = Scenario::new().args(name).args("--help").run().code(0).stdout();
        let says = ["It only reads", "It changes", "It starts"].iter().any(|it| help.contains(it));
        assert!(says, "`ganger {name} --help` does not say whether it changes something");
    }
    assert!(help.contains("ganger help scripting"), "{help}");
}

fn json(running: &Running, args: &str) -> Value {
    let ClientOutput(text, 0) = running.run_client(args) else { panic!("no answer to `{args}`") };
    serde_json::from_str(&text).unwrap()
}

/// The records of `logs --json`, and its cursor.
fn logs(running: &Running, args: &str) -> (Vec<Value>, String) {
    let ClientOutput(text, 0) = running.run_client(args) else { panic!("no answer to `{args}`") };
    let mut records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let cursor = records.pop().unwrap()["cursor"].as_str().unwrap().to_owned();
    (records, cursor)
}

/// An assistant finds out why requests fail, repairs that, and checks that it has.
#[test]
fn debugging_session_needs_json_commands_only() {
    let port = free_port();
    let procfile = "web: echo \"color is ${COLOR:-unknown}\"; test -n \"$COLOR\" || echo 'ERROR: no COLOR'; \
                    exec $HOSTILE listen $PORT x\nworker: echo working; exec sleep 1000\n";
    // $ ganger start -D --json
    let scenario = Scenario::procfile(procfile).args(&format!("start -D --json -p {port}"));
    let mut running = scenario.start();
    running.wait_for("\n}\n");
    assert!(running.wait().success());
    let output = running.output();
    let started: Value =
        serde_json::from_str(&output[..=output.find("\n}\n").unwrap() + 1]).unwrap();
    // $ ganger ps --json
    let ps = json(&running, "ps --json");
    for answer in [started, ps] {
        let web = &answer["processes"][0];
        assert_eq!((&web["ready"], &web["port"]), (&true.into(), &port.into()));
    }
    // $ ganger wait web --log 'color is' --this-run --json
    let found = json(&running, "wait web --log color.is --this-run --json --timeout 30");
    assert_eq!(found["lines"][0]["line"], "color is unknown");
    // $ ganger logs --json --grep ERROR
    let (errors, cursor) = logs(&running, "logs --json --grep ERROR");
    assert_eq!(errors[0]["line"], "ERROR: no COLOR");
    assert_eq!(errors[0]["name"], "web.1");
    // It repairs what is missing.
    std::fs::write(running.folder().join(".env"), "COLOR=green\n").unwrap();
    // $ ganger reload --wait --json
    let changes = json(&running, "reload --wait --json");
    assert_eq!(changes["restarted"], serde_json::json!(["web.1", "worker.1"]));
    // $ ganger restart web --wait --json
    assert_eq!(json(&running, "restart web --wait --json")["restarted"][0], "web.1");
    // $ ganger logs --json --cursor C web
    let (lines, _) = logs(&running, &format!("logs --json --cursor {cursor} web"));
    let lines: Vec<&str> = lines.iter().map(|it| it["line"].as_str().unwrap()).collect();
    assert_eq!(lines, ["color is green", "port bound", "color is green", "port bound"]);
    // $ ganger quit
    assert_eq!(running.run_client("quit").1, 0);
    assert_eq!(running.run_client("ps --json").1, 3);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs python3-jsonschema")]
fn json_of_every_command_has_its_schema() {
    let port = free_port();
    let app = Scenario::procfile(PROCFILE).file("ganger.toml", CONFIG);
    let start = format!("start -D --json -p {port}");
    let outputs = [
        ("ps", start.as_str()),
        ("ps", "ps --json"),
        ("ps", "ps web --json"),
        ("ps-all", "ps --all --json"),
        ("wait", "wait web --ready --json"),
        ("wait-log", "wait worker --log job --this-run --json"),
        ("changes", "scale web=2 --json"),
        ("changes", "restart worker --json"),
        ("changes", "stop web.2 --json"),
        ("changes", "reload --json"),
        ("changes", "signal CONT web.1 --json"),
        ("check", "check --json"),
        ("version", "version --json"),
        ("logs", "logs --json"),
        ("logs", "logs --json --cursor 1:"),
        ("", "quit"),
        ("ps-ended", "ps --json"),
    ];
    let folder = app.folder().join("outputs");
    std::fs::create_dir(&folder).unwrap();
    for (index, (definition, args)) in outputs.iter().enumerate() {
        let finished = Scenario::new().in_folder(app.folder()).args(args).run();
        // The last one shows how the app has ended.
        let finished = finished.code(if index == outputs.len() - 1 { 3 } else { 0 });
        if definition.is_empty() {
            continue;
        }
        let text = finished.stdout();
        // `logs` prints an object on each line.
        let text = if *definition == "logs" {
            format!("[{}]", text.trim_end().replace('\n', ","))
        } else {
            format!("[{text}]")
        };
        std::fs::write(folder.join(format!("{index}.{definition}")), text).unwrap();
    }
    // What the page shows is true as well.
    for (index, block) in blocks("json").into_iter().enumerate() {
        let lines = format!("[{}]", block.trim_end().replace('\n', ","));
        std::fs::write(folder.join(format!("page-{index}.logs")), lines).unwrap();
    }
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/output.schema.json");
    let script = "import json, jsonschema, pathlib, sys\n\
                  schema = json.load(open(sys.argv[1]))\n\
                  jsonschema.Draft7Validator.check_schema(schema)\n\
                  def close(node):\n\
                  \x20   if isinstance(node, dict) and 'properties' in node:\n\
                  \x20       node['additionalProperties'] = False\n\
                  \x20   for part in node.values() if isinstance(node, dict) else node:\n\
                  \x20       if isinstance(part, (dict, list)): close(part)\n\
                  close(schema)\n\
                  for file in pathlib.Path(sys.argv[2]).iterdir():\n\
                  \x20   for output in json.load(open(file)):\n\
                  \x20       part = {'$ref': '#/definitions/' + file.suffix[1:], **schema}\n\
                  \x20       part.pop('oneOf')\n\
                  \x20       jsonschema.validate(output, part)\n\
                  \x20       jsonschema.validate(output, schema)\n";
    let mut python = Command::new("/usr/bin/python3");
    let output = python.args(["-c", script]).arg(schema).arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
