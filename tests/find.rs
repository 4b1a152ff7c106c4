//! Several gangers of one user: how clients find them and distinguish them.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde_json::Value;

use crate::control::{ClientOutput, client_output, request};
use crate::scenario::{GANGER, Running, Scenario, User, runtime_dir, use_runtime_dir};

const SLEEPER: &str = "a: exec sleep 1000\n";

/// A command in the folder `below` of a scenario's folder.
fn ask(folder: &Path, below: &str, args: &str) -> ClientOutput {
    let mut command = Command::new(GANGER);
    command.args(args.split_whitespace()).current_dir(folder.join(below)).env_remove("PWD");
    use_runtime_dir(&mut command, folder);
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    ClientOutput(text, output.status.code().unwrap())
}

/// ganger in the folder `below` of a scenario's folder, up.
fn up(folder: &Path, below: &str, args: &str) -> Running {
    let scenario = Scenario::new().in_folder(&folder.join(below)).beside(folder);
    let mut running = scenario.args("start").args(args).start();
    running.wait_for(" started, pid ");
    running
}

/// The names of the processes that `ps` lists, and the messages before the table.
fn processes(folder: &Path, below: &str, args: &str) -> (Vec<String>, String) {
    let ClientOutput(text, code) = ask(folder, below, &format!("ps {args}"));
    assert_eq!(code, 0, "{below}: {text}");
    let (messages, table): (Vec<_>, Vec<_>) =
        text.lines().partition(|line| line.starts_with("ganger: "));
    let names = table[1..].iter().filter_map(|line| line.split_whitespace().next());
    (names.map(str::to_owned).collect(), messages.join("\n"))
}

#[test]
fn procfiles_of_one_root_run_side_by_side() {
    let scenario = Scenario::procfile("web: exec sleep 1000\n")
        .file("Procfile.dev", "dev: exec sleep 1000\n")
        .file("below/x", "");
    let folder = scenario.folder().to_owned();
    let root = fs::canonicalize(&folder).unwrap().display().to_string();
    let dev = up(&folder, "", "-f Procfile.dev");
    // It is the only ganger there.
    assert_eq!(processes(&folder, "", ""), (vec!["dev.1".into()], String::new()));
    let mut web = scenario.args("start").start();
    web.wait_for("web.1 started");
    let notice =
        format!("ganger: `Procfile` is meant; in `{root}` these run, too: `-f Procfile.dev`");
    for below in ["", "below"] {
        assert_eq!(processes(&folder, below, ""), (vec!["web.1".into()], notice.clone()));
        for (procfile, name) in [("Procfile", "web.1"), ("Procfile.dev", "dev.1")] {
            let args = format!("-f {procfile}");
            assert_eq!(processes(&folder, below, &args), (vec![name.into()], String::new()));
        }
    }
    assert_eq!(processes(&folder, "below", "-f ../Procfile.dev").0, ["dev.1"]);
    for args in ["start", "start -f Procfile.dev", "start -d . -f ./Procfile.dev"] {
        let ClientOutput(refusal, code) = ask(&folder, "", args);
        assert!(refusal.starts_with("ganger: already running for ") && code == 2, "{refusal}");
    }
    assert_eq!(ask(&folder, "", "quit -f Procfile"), client_output("", 0));
    let _web = web.finish_but_keep();
    assert_eq!(processes(&folder, "below", ""), (vec!["dev.1".into()], String::new()));
    assert_eq!(ask(&folder, "below", "quit"), client_output("", 0));
    dev.finish().code(0);
}

#[test]
fn name_runs_another_of_the_same_procfile() {
    let scenario = Scenario::procfile("web: exec sleep 1000\njobs: exec sleep 1000\n");
    let folder = scenario.folder().to_owned();
    let root = fs::canonicalize(&folder).unwrap().display().to_string();
    let mut web = scenario.args("start web --name web").start();
    web.wait_for("web.1 started");
    let jobs = up(&folder, "", "jobs --name jobs");
    let ClientOutput(refusal, code) = ask(&folder, "", "ps");
    let expected = format!(
        "ganger: several gangers run in `{root}`: choose one with `--name jobs` or `--name web`\n"
    );
    assert_eq!((refusal, code), (expected, 2));
    assert_eq!(processes(&folder, "", "--name web").0, ["web.1"]);
    assert_eq!(processes(&folder, "", "--name jobs").0, ["jobs.1"]);
    let ClientOutput(text, code) = ask(&folder, "", "ps --name other");
    assert_eq!(code, 3, "{text}");
    let ClientOutput(refusal, code) = ask(&folder, "", "start jobs --name jobs");
    assert!(refusal.contains("already running") && code == 2, "{refusal}");
    // A ganger without a name is the default.
    let all = up(&folder, "", "");
    assert_eq!(processes(&folder, "", "").0, ["web.1", "jobs.1"]);
    let ClientOutput(text, code) = ask(&folder, "", "start --name a/b");
    let expected = "is not a name; expected at most 64 letters, digits, `_`, `-` and `.`";
    assert!(text.contains(expected) && code == 2, "{text}");
    for args in ["quit", "quit --name web", "quit"] {
        let ClientOutput(text, code) = ask(&folder, "", args);
        assert_eq!(code, 0, "{text}");
    }
    for running in [web, jobs, all] {
        running.finish().code(0);
    }
}

#[test]
fn client_means_the_nearest_root() {
    let scenario = Scenario::procfile("outer: exec sleep 1000\n")
        .file("api/Procfile", "inner: exec sleep 1000\n")
        .file("api/src/deep/x", "")
        .file("docs/x", "");
    let folder = scenario.folder().to_owned();
    let root = fs::canonicalize(&folder).unwrap().display().to_string();
    let mut outer = scenario.args("start").start();
    outer.wait_for("outer.1 started");
    assert_eq!(processes(&folder, "docs", "").0, ["outer.1"]);
    // A folder with a Procfile is a root, although no ganger runs there.
    let expected =
        format!("ganger: no ganger runs in `{root}/api` (one runs in `{root}`: `-d {root}`)\n");
    for below in ["api", "api/src/deep"] {
        assert_eq!(ask(&folder, below, "quit"), client_output(&expected, 3));
    }
    assert_eq!(processes(&folder, "api", "-d ..").0, ["outer.1"]);
    let inner = up(&folder, "api", "");
    assert_eq!(processes(&folder, "api/src/deep", "").0, ["inner.1"]);
    assert_eq!(processes(&folder, "docs", "").0, ["outer.1"]);
    assert_eq!(ask(&folder, "docs", "ps -d ../docs").1, 3, "that is no root");
    assert_eq!(ask(&folder, "api/src", "quit"), client_output("", 0));
    inner.finish().code(0);
    assert_eq!(ask(&folder, "docs", "quit"), client_output("", 0));
    outer.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn root_finds_the_ganger_of_the_user_who_owns_the_folder() {
    let user = User::new();
    let mut running = user.scenario(SLEEPER).args("./ganger start").start();
    running.wait_for("a.1 started");
    let folder = running.folder().to_owned();
    // sudo(8) sets a variable with the user id, and the owner of the folder is another hint.
    let ask = |args: &str, sudo: Option<u32>| {
        let mut command = Command::new(GANGER);
        command.args(args.split_whitespace()).current_dir(&folder);
        command.envs(sudo.map(|uid| ("SUDO_UID", uid.to_string())));
        let output = command.output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code())
    };
    assert_eq!(ask("ps", None).1, Some(3), "the folder is root's");
    let (table, code) = ask("ps", Some(user.id));
    assert!(table.contains("\na.1 ") && code == Some(0), "{table}");
    std::os::unix::fs::chown(&folder, Some(user.id), None).unwrap();
    assert_eq!(ask("ps", None).1, Some(0));
    assert_eq!(ask("quit", Some(user.id)), (String::new(), Some(0)));
    running.finish().code(0);
}

/// The gangers in this folder, by `ps --all`.
fn list(folder: &Path) -> Vec<Value> {
    let ClientOutput(text, code) = ask(folder, "", "ps --all --json");
    assert_eq!(code, 0, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let root = fs::canonicalize(folder).unwrap().display().to_string();
    answer["gangers"]
        .as_array()
        .unwrap()
        .clone()
        .into_iter()
        .filter(|it| it["root"].as_str().unwrap().starts_with(&root))
        .collect()
}

#[test]
fn ps_all_lists_every_ganger_of_this_user() {
    let scenario = Scenario::procfile(SLEEPER).file("b/Procfile.dev", SLEEPER);
    let folder = scenario.folder().to_owned();
    assert_eq!(list(&folder), Vec::<Value>::new());
    let mut first = scenario.args("start -p 41000").start();
    first.wait_for("a.1 started");
    let dev = up(&folder, "b", "-f Procfile.dev --name x -N");
    let own = up(&folder, "", "-s own.sock -p 42000");
    let all = list(&folder);
    let keys = |it: &Value| {
        let text = |key: &str| it[key].as_str().unwrap_or("-").to_owned();
        let root = text("root").rsplit('/').next().unwrap().to_owned();
        (root == "b", text("procfile"), text("name"), it["ports"].to_string(), it["pid"].clone())
    };
    let mut shown: Vec<_> = all.iter().map(keys).collect();
    shown.sort_by_key(|it| (it.0, it.3.clone()));
    let pid = |running: &Running| Value::from(running.child.id());
    let plain = |ports: &str, pid| (false, "Procfile".into(), "-".into(), ports.into(), pid);
    let expected = [
        plain("[41000]", pid(&first)),
        plain("[42000]", pid(&own)),
        (true, "Procfile.dev".into(), "x".into(), "[]".into(), pid(&dev)),
    ];
    assert_eq!(shown, expected);
    assert!(all.iter().all(|it| it["uptime"].is_f64() && it["answers"] == true), "{all:?}");
    let ClientOutput(table, 0) = ask(&folder, "", "ps --all") else { panic!("no table") };
    assert!(table.starts_with("ROOT ") && table.contains("  Procfile.dev  x "), "{table}");
    // A ganger with `-s` is found only by clients with the same `-s`.
    assert_eq!(processes(&folder, "", ""), (vec!["a.1".into()], String::new()));
    // A ganger that does not respond is listed, too.
    kill(dev.pid(), Signal::SIGSTOP).unwrap();
    let silent = list(&folder).into_iter().find(|it| it["name"] == "x").unwrap();
    assert_eq!((&silent["answers"], &silent["uptime"]), (&false.into(), &Value::Null));
    kill(dev.pid(), Signal::SIGCONT).unwrap();
    // A ganger that was killed is not listed.
    kill(own.pid(), Signal::SIGKILL).unwrap();
    drop(own.finish_but_keep());
    assert_eq!(list(&folder).len(), 2);
    for args in ["quit", "quit -d b --name x"] {
        assert_eq!(ask(&folder, "", args), client_output("", 0));
    }
    let _first = first.finish_but_keep();
    dev.finish().code(0);
    assert_eq!(list(&folder), Vec::<Value>::new());
}

#[test]
fn suspended_ganger_whose_queue_is_full_blocks_no_client_of_others() {
    let suspended = Scenario::procfile(SLEEPER).file("b/Procfile", SLEEPER);
    let folder = suspended.folder().to_owned();
    let mut suspended = suspended.args("start -N").start();
    suspended.wait_for("a.1 started");
    let other = up(&folder, "b", "-N");
    suspended.signal(Signal::SIGSTOP);
    let socket = suspended.socket();
    // Each waits in the queue although its client is gone.
    let connect = || {
        let (unix, stream) = (AddressFamily::UNIX, SocketType::STREAM);
        let client = socket_with(unix, stream, SocketFlags::NONBLOCK, None).unwrap();
        rustix::net::connect(client, &SocketAddrUnix::new(&socket).unwrap())
    };
    let full = (0..100_000).find_map(|_| connect().err());
    assert_eq!(full, Some(rustix::io::Errno::AGAIN));
    assert_eq!(processes(&folder, "b", ""), (vec!["a.1".into()], String::new()));
    assert_eq!(list(&folder).len(), 2);
    let ClientOutput(text, code) = ask(&folder, "", "ps");
    assert_eq!((code, text.contains("does not answer")), (1, true), "{text}");
    // A start there is refused.
    let refused = Scenario::new().in_folder(&folder).args("start").run().code(2);
    assert!(refused.stderr().contains("already running"), "{}", refused.stderr());
    suspended.signal(Signal::SIGCONT);
    suspended.signal(Signal::SIGTERM);
    assert_eq!(ask(&folder, "b", "quit"), client_output("", 0));
    other.finish().code(0);
    suspended.finish().code(0);
}

#[test]
fn files_about_a_ganger_are_for_its_user_alone() {
    use std::os::unix::fs::MetadataExt;
    let mut running = Scenario::procfile(SLEEPER).args("start").start();
    running.wait_for("a.1 started");
    let name = running.socket().with_extension("run");
    assert_eq!(fs::metadata(&name).unwrap().mode() & 0o777, 0o600);
    // A file with other contents is ignored.
    let other = runtime_dir(running.folder()).join(format!("{}.run", std::process::id()));
    fs::write(&other, "{}").unwrap();
    assert_eq!(running.run_client("ps").1, 0);
    fs::remove_file(other).unwrap();
    assert_eq!(running.run_client("quit").1, 0);
    assert!(!name.exists());
    running.finish().code(0);
}

/// git in this folder.
fn git(folder: &Path, args: &str) -> String {
    let mut git = Command::new("git");
    git.current_dir(folder).args(["-c", "user.name=a", "-c", "user.email=a@b.c"]);
    let output = git.args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{args}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs git")]
fn revision_is_that_of_the_start_or_the_last_reload() {
    let scenario = Scenario::procfile(SLEEPER).file("code", "1");
    let folder = scenario.folder().to_owned();
    git(&folder, "init --quiet");
    git(&folder, "add Procfile code");
    git(&folder, "commit --quiet -m first");
    let first = git(&folder, "rev-parse HEAD");
    let mut running = scenario.args("start").start();
    let about = |running: &Running| request(&running.socket(), "GET", "/")["revision"].clone();
    let mut is = |commit: &str, dirty: bool| {
        let expected = serde_json::json!({ "commit": commit, "dirty": dirty });
        running.wait_for("a.1 started");
        running.wait_until("the revision", |running| about(running) == expected);
    };
    is(&first, false);
    fs::write(folder.join("code"), "2").unwrap();
    assert_eq!(ask(&folder, "", "reload").1, 0);
    is(&first, true);
    git(&folder, "commit --quiet -a -m second");
    is(&first, true);
    let second = git(&folder, "rev-parse HEAD");
    assert_eq!(ask(&folder, "", "reload").1, 0);
    is(&second, false);
    assert_eq!(list(&folder)[0]["revision"]["commit"], Value::from(second.clone()));
    let ClientOutput(answer, 0) = ask(&folder, "", "ps --json") else { panic!("no answer") };
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["revision"]["commit"], Value::from(second.clone()));
    assert_eq!(answer["processes"][0]["name"], "a.1");
    let ClientOutput(table, _) = ask(&folder, "", "ps --all");
    assert!(table.contains(&format!(" {}  ", &second[..7])), "{table}");
    assert_eq!(ask(&folder, "", "quit"), client_output("", 0));
    running.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs git")]
fn json_of_a_start_tells_the_revision() {
    let scenario = Scenario::procfile(SLEEPER);
    let folder = scenario.folder().to_owned();
    for args in ["init --quiet", "add Procfile", "commit --quiet -m first"] {
        git(&folder, args);
    }
    let finished = Scenario::new().in_folder(&folder).args("start -ND --json").run().code(0);
    let answer: Value = serde_json::from_slice(&finished.out).unwrap();
    let expected = serde_json::json!({ "commit": git(&folder, "rev-parse HEAD"), "dirty": false });
    assert_eq!(answer["revision"], expected);
    assert_eq!(ask(&folder, "", "quit"), client_output("", 0));
}

#[test]
fn folder_without_a_repository_has_no_revision() {
    let mut running = Scenario::procfile(SLEEPER).args("start").start();
    running.wait_for("a.1 started");
    let about = request(&running.socket(), "GET", "/");
    assert!(about.get("revision").is_none(), "{about}");
    let pid = Pid::from_raw(about["pid"].as_i64().unwrap().try_into().unwrap());
    assert_eq!(pid, running.pid());
    assert_eq!((about["procfile"].as_str(), about["name"].as_str()), (Some("Procfile"), None));
    running.quit();
}
