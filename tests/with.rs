//! `ganger with`: a command beside the app.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::postgres;
use crate::random::Random;
use crate::scenario::{
    Finished, Running, Scenario, children, free_port, tag, tagged, wait_until_gone,
};
use crate::screen::Screen;

/// Two processes that are ready when they listen, and one that is ready at once.
fn app(tag: &str) -> Scenario {
    let procfile = format!(
        "web: echo noise; exec $HOSTILE listen $PORT {tag}\n\
         api: exec $HOSTILE listen $PORT {tag}\n\
         worker: exec $HOSTILE tree {tag}\n"
    );
    let config = "[process.api]\nready = { port = true }\n";
    let port = free_port();
    Scenario::procfile(procfile).file("ganger.toml", config).args(&format!("with -p {port}"))
}

fn sh(scenario: Scenario, script: &str) -> Scenario {
    // In a process group of its own, it is in the foreground of no terminal.
    let scenario = scenario.command(|command| {
        command.process_group(0);
    });
    scenario.arg("--").arg("sh").arg("-c").arg(script)
}

fn run(scenario: Scenario, script: &str) -> Finished {
    sh(scenario, script).run()
}

#[test]
fn command_runs_beside_the_app_when_all_is_ready() {
    let tag = tag();
    let script = "$GANGER ps --json | grep -c '\"ready\": true'; cat; echo err >&2; \
                  test $GANGER_PROCESS_api_PORT -gt 12000 && exit 7";
    let scenario = app(&tag).command(|command| {
        command.stdin(std::process::Stdio::from(std::fs::File::open("/etc/hostname").unwrap()));
    });
    let finished = run(scenario, script).code(7);
    let host = std::fs::read_to_string("/etc/hostname").unwrap();
    assert_eq!(finished.stdout(), format!("3\n{host}"));
    assert_eq!(finished.stderr(), "err\n", "the app's own output is held back");
    assert_eq!(tagged(&tag), []);
}

#[test]
fn output_of_the_app_is_shown_on_request_on_standard_error() {
    let tag = tag();
    let finished = run(app(&tag).args("--show"), "echo out").code(0);
    assert_eq!(finished.stdout(), "out\n");
    let stderr = finished.stderr();
    assert!(stderr.contains("web.1    | noise\n") && stderr.contains("api.1 is ready"), "{stderr}");
}

#[test]
fn app_that_does_not_start_is_reported() {
    let procfile = "web: echo booting; echo cannot boot; exit 3\nother: exec sleep 1000\n";
    let finished = run(Scenario::procfile(procfile).args("with -N"), "echo never").code(125);
    assert_eq!(finished.stdout(), "");
    let stderr = finished.stderr();
    assert!(stderr.contains("web.1 exited (3), stopping all\n"), "{stderr}");
    assert!(stderr.contains("cannot boot\n"), "{stderr}");
    // A mistake is one.
    let finished = run(Scenario::procfile("web: a\nweb: b\n").args("with"), "true").code(2);
    assert!(finished.stderr().starts_with("ganger: `Procfile` line 2"), "{}", finished.stderr());
    let finished = Scenario::procfile("a: exec sleep 1000\n").args("with -N -- /nowhere/x").run();
    let stderr = finished.code(127).stderr();
    assert!(stderr.contains("/nowhere/x"), "{stderr}");
}

#[test]
fn process_that_is_not_ready_in_time_is_named_with_its_output() {
    let config = "[process.web]\nready = { log = 'never' }\n";
    let procfile = "web: echo starting; exec sleep 1000\nother: echo fine; exec sleep 1000\n";
    for args in ["with -N --timeout 1s", "with -N"] {
        let config = if args.ends_with("-N") {
            format!("{config}ready_timeout = '1s'\n")
        } else {
            config.to_owned()
        };
        let scenario = Scenario::procfile(procfile).file("ganger.toml", config).args(args);
        let stderr = run(scenario, "echo never").code(125).stderr();
        assert!(stderr.contains("ganger: web.1 is not ready"), "{stderr}");
        assert!(stderr.contains("| starting\n") && !stderr.contains("| fine"), "{stderr}");
    }
}

#[test]
fn command_is_stopped_when_a_process_dies() {
    let tag = tag();
    let procfile = format!(
        "web: until test -e die; do sleep 0.01; done; echo last words; exit 3\n\
         worker: exec $HOSTILE tree {tag}\n"
    );
    let script = format!("touch die; $HOSTILE tree {tag}");
    for (config, code) in [("", "web.1 exited (3)"), ("[process.web]\non_exit = 'ignore'\n", "")] {
        let scenario = Scenario::procfile(&procfile).file("ganger.toml", config).args("with -N");
        let finished = run(scenario, &script).code(125);
        let stderr = finished.stderr();
        assert!(stderr.contains("last words\n") && stderr.contains(code), "{stderr}");
        assert!(stderr.contains("web.1 exited (3)"), "{stderr}");
        assert_eq!(tagged(&tag), []);
    }
}

#[test]
fn command_and_what_it_started_have_the_grace_period_to_end() {
    let procfile = "web: until test -e die; do sleep 0.01; done; exit 3\n";
    let cleans = "sh -c \"trap 'sleep 0.3; touch cleaned; exit' TERM HUP; touch begun; \
                  while :; do sleep 0.02; done\"; touch after";
    // The app fails, or the caller stops it all.
    for (signal, code) in [(None, 125), (Some(Signal::SIGTERM), 143), (Some(Signal::SIGHUP), 129)] {
        let mut running = sh(Scenario::procfile(procfile).args("with -N"), cleans).start();
        running.wait_until("the command", |running| running.folder().join("begun").exists());
        match signal {
            Some(signal) => running.signal(signal),
            None => std::fs::write(running.folder().join("die"), "").unwrap(),
        }
        assert_eq!(running.wait().code(), Some(code));
        assert!(running.folder().join("cleaned").exists(), "{signal:?}");
        assert!(!running.folder().join("after").exists(), "{signal:?}");
    }
    let stubborn = "trap '' TERM INT; touch begun; while :; do sleep 0.02; done";
    for (signal, code) in [(None, 125), (Some(Signal::SIGTERM), 137)] {
        let scenario = Scenario::procfile(procfile).args("with -N --grace 0.3s");
        let mut running = sh(scenario, stubborn).start();
        running.wait_until("the command", |running| running.folder().join("begun").exists());
        match signal {
            Some(signal) => running.signal(signal),
            None => std::fs::write(running.folder().join("die"), "").unwrap(),
        }
        assert_eq!(running.wait().code(), Some(code), "{signal:?}");
    }
}

#[test]
fn first_interrupt_is_for_the_command_and_a_second_one_stops_it() {
    let scenario = Scenario::procfile("web: exec sleep 1000\n").args("with -N --grace 0.2s");
    let script = "trap 'echo int' INT; trap 'echo term' TERM; echo begun; \
                  i=0; while :; do sleep 0.05; i=$((i+1)); [ $i != 20 ] || echo later; done";
    let mut running = sh(scenario, script).start();
    running.wait_for("begun\n").signal(Signal::SIGINT);
    // Long after the grace period it goes on.
    running.wait_for("int\n").wait_for("later\n").signal(Signal::SIGINT);
    let stdout = running.finish().code(137).stdout();
    assert_eq!(stdout, "begun\nint\nlater\nterm\n");
}

#[test]
fn every_process_of_a_command_gets_one_signal() {
    let scenario = Scenario::procfile("web: exec sleep 1000\n").args("with -N");
    let inner = "trap 'echo x >> signals-$1; exit' TERM; touch up-$1; while :; do sleep 0.02; done";
    // One that is deep, and one whose environment is another.
    let script =
        "sh -c 'sh inner a; true' & env -i PATH=/bin:/usr/bin sh -c 'sh inner b; true' & wait";
    let mut running = sh(scenario.file("inner", inner), script).start();
    let folder = running.folder().to_owned();
    running.wait_until("both", |_| ["up-a", "up-b"].iter().all(|it| folder.join(it).exists()));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), Some(143));
    for name in ["signals-a", "signals-b"] {
        assert_eq!(std::fs::read_to_string(folder.join(name)).unwrap(), "x\n", "{name}");
    }
}

#[test]
fn fixed_port_of_the_running_app_is_left_to_it() {
    let (port, fixed) = (free_port(), free_port());
    let procfile = "web: exec $HOSTILE listen $PORT x\napi: exec $HOSTILE listen $PORT x\n";
    let config = format!("[process.api]\nport = {fixed}\nready = {{ port = true }}\n");
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.args(&format!("start -p {port}")).start();
    running.wait_for("api.1 is ready");
    let scenario = Scenario::new().in_folder(running.folder()).args("with --fresh");
    // Commands in it mean the app that is there for it.
    let script = "echo $GANGER_PROCESS_api_PORT; $GANGER ps --json | grep '\"port\"'; \
                  $GANGER restart --wait api > /dev/null";
    let shown = run(scenario, script).code(0).stdout();
    let other = shown.lines().next().unwrap().to_owned();
    assert_ne!(other, fixed.to_string());
    assert!(shown.contains(&format!("\"port\": {other}")), "{shown}");
    assert!(!shown.contains(&format!("\"port\": {fixed}")), "{shown}");
    assert_eq!(running.states(), ["web.1 up", "api.1 up"]);
    assert_eq!(running.count_in_output("api.1 started"), 1);
    running.quit();
}

#[test]
fn running_app_is_used_and_goes_on() {
    let port = free_port();
    let scenario = Scenario::procfile("web: exec $HOSTILE listen $PORT x\n");
    let mut running = scenario.args(&format!("start -p {port}")).start();
    running.wait_for("web.1 is ready");
    let beside = |args: &str, script: &str| {
        let scenario = Scenario::new().in_folder(running.folder()).args("with").args(args);
        run(scenario, script)
    };
    let script = "echo $GANGER_PROCESS_web_PORT; exit 3";
    assert_eq!(beside("", script).code(3).stdout(), format!("{port}\n"));
    // Another one, which is gone afterwards.
    let fresh = beside("--fresh", "echo $GANGER_PROCESS_web_PORT").code(0).stdout();
    assert_ne!(fresh, format!("{port}\n"));
    // The variable is that of the running app; a flag is for the other one.
    let other = free_port();
    for (args, expected) in [(String::new(), None), (format!("-p {other}"), Some(other))] {
        let scenario = Scenario::new().in_folder(running.folder()).args("with --fresh").args(&args);
        let scenario = scenario.env("GANGER_PORT", &port.to_string());
        let shown = run(scenario, "echo $GANGER_PROCESS_web_PORT").code(0).stdout();
        assert_ne!(shown, format!("{port}\n"), "{args}");
        assert!(expected.is_none_or(|port| shown == format!("{port}\n")), "{args}: {shown}");
    }
    assert_eq!(running.states(), ["web.1 up"]);
    // It may end meanwhile.
    let finished = beside("", "$GANGER quit; exec sleep 1000").code(125);
    assert!(finished.stderr().starts_with("ganger: the app did not stay up"));
    running.finish().code(0);
}

#[test]
fn app_that_does_not_answer_is_an_error_of_the_client() {
    let mut running = Scenario::procfile("a: exec sleep 1000\n").args("start -N").start();
    running.wait_for("a.1 started");
    running.signal(Signal::SIGSTOP);
    let finished = Scenario::new().in_folder(running.folder()).args("with -- echo never").run();
    let finished = finished.code(1);
    assert_eq!(finished.stdout(), "");
    assert!(finished.stderr().contains("kill -CONT"), "{}", finished.stderr());
    running.signal(Signal::SIGCONT);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn app_of_another_procfile_or_name_is_not_used() {
    for args in ["start -f Procfile.dev", "start --name other"] {
        let scenario =
            Scenario::procfile("web: sleep 1000\n").file("Procfile.dev", "web: sleep 1000\n");
        let mut running = scenario.args(args).start();
        running.wait_for("web.1 started");
        let scenario = Scenario::new().in_folder(running.folder()).args("with -N");
        let script = "$GANGER quit; exec sleep 1000";
        let finished = run(scenario, script).code(125);
        let stderr = finished.stderr();
        assert!(stderr.contains("ganger: the app did not stay up"), "{args}: {stderr}");
        assert!(!running.output().contains("stopping"), "{args}: {}", running.output());
        running.signal(Signal::SIGTERM);
        running.finish().code(0);
    }
}

#[test]
fn process_that_is_not_named_may_fail() {
    let procfile = "web: sleep 1000\nbad: until test -e die; do sleep 0.01; done; exit 3\n";
    let config = "[process.bad]\non_exit = 'ignore'\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.args("start -N").start();
    running.wait_for("bad.1 started");
    let with = |args: &str| Scenario::new().in_folder(running.folder()).args("with").args(args);
    let script = "touch die; $GANGER wait bad --exit; $GANGER ps > /dev/null; exit 4";
    run(with("web"), script).code(4);
    let failed = run(with("bad"), "exit 4").code(125).stderr();
    assert!(failed.contains("bad.1"), "{failed}");
    running.signal(Signal::SIGTERM);
    running.finish();
}

#[test]
fn interrupts_reach_the_app_while_it_stops() {
    let tag = tag();
    let procfile = format!(
        "web: trap 'touch stopping' TERM; (trap '' TERM; exec $HOSTILE leaf {tag}) & \
         while :; do wait; done\n"
    );
    let scenario = Scenario::procfile(procfile).args("with -N --grace 1000s");
    let mut running = sh(scenario, "exit 3").start();
    running.wait_until("the stop", |running| running.folder().join("stopping").exists());
    running.wait_until("no process", |running| {
        running.signal(Signal::SIGINT);
        tagged(&tag).is_empty()
    });
    running.finish().code(3);
}

#[test]
fn what_the_command_leaves_is_killed() {
    let tag = tag();
    let left = crate::scenario::tag();
    run(app(&tag), &format!("($HOSTILE daemon {left} &); setsid $HOSTILE leaf {left} & sleep 0.3"))
        .code(0);
    assert_eq!((tagged(&tag), tagged(&left)), (vec![], vec![]));
}

#[test]
fn signals_reach_the_command_and_then_all_is_stopped() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let tag = tag();
        let mut running = sh(app(&tag), "echo begun; exec sleep 1000").start();
        running.wait_for("begun\n");
        running.signal(signal);
        running.finish().code(code);
        assert_eq!(tagged(&tag), []);
    }
    // Also before the command runs.
    let tag = tag();
    let config = "[process.web]\nready = { log = 'never' }\n";
    let procfile = format!("web: exec $HOSTILE tree {tag}\n");
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config).args("with -N");
    let mut running = sh(scenario, "echo never").start();
    running.wait_until("web", |_| !tagged(&tag).is_empty());
    running.signal(Signal::SIGINT);
    assert_eq!(running.finish().code(130).stdout(), "");
    assert_eq!(tagged(&tag), []);
}

#[test]
fn killed_with_leaves_nothing_of_a_command_on_a_terminal() {
    let tag = tag();
    let procfile = format!("a: exec $HOSTILE leaf {tag}\n");
    // Something has to keep the terminal open, as a user's shell does.
    let script = format!(
        "$GANGER with -N -- sh -c '$HOSTILE marked {tag}; exit 5' & echo with=$!; wait; exec cat"
    );
    let mut screen = Screen::new(24, 80);
    let scenario = Scenario::of("sh").file("Procfile", procfile).arg("-c").arg(script);
    let mut running = screen.show(scenario).start();
    screen.wait_for("grown");
    let number = screen.text().lines().find_map(|line| line.strip_prefix("with=")?.parse().ok());
    kill(Pid::from_raw(number.unwrap()), Signal::SIGKILL).unwrap();
    wait_until_gone(&tag);
    running.signal(Signal::SIGKILL);
    running.wait();
}

/// The ganger that runs the app of `with`, and its keeper.
fn ganger_of(running: &Running) -> Option<(Pid, Pid)> {
    children(running.pid()).into_iter().find_map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let keeper = children(pid).into_iter().next().filter(|_| name.trim() == "ganger");
        Some((pid, keeper?))
    })
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "kills 50 gangers, which takes a minute")]
fn nothing_is_left_of_50_commands_that_are_killed_at_random() {
    for seed in 0..50 {
        let mut random = Random(seed);
        let tag = tag();
        // Daemons with an environment of their own are a limit, which docs/guarantees.md has.
        let script = format!("$HOSTILE marked {tag}; exit 5");
        let mut running = sh(app(&tag).args("--grace 1s"), &script).start();
        std::thread::sleep(Duration::from_millis(random.below(1500)));
        let victim = random.below(4);
        let signal = if random.below(2) == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        let target = match (victim, ganger_of(&running)) {
            (2, Some((ganger, _))) => ganger,
            (3, Some((_, keeper))) => keeper,
            (_, _) => running.pid(),
        };
        let signal = if target == running.pid() { signal } else { Signal::SIGKILL };
        // It may be over.
        let _ = kill(target, signal);
        let status = running.wait();
        wait_until_gone(&tag);
        let is_right = match (target == running.pid(), signal) {
            (true, Signal::SIGKILL) => status.signal() == Some(Signal::SIGKILL as i32),
            (true, _) => matches!(status.code(), Some(143)) || status.signal() == Some(15),
            // 2: without a keeper, ganger does not start.
            (false, _) => matches!(status.code(), Some(125 | 5 | 2)),
        };
        assert!(is_right, "seed {seed}: {status:?} after {signal} to {victim}");
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs node")]
fn tests_of_a_node_server_run_beside_it() {
    let server = "require('http').createServer((q, s) => s.end('hello')).listen(process.env.PORT)";
    let test = "const test = require('node:test'); const assert = require('node:assert');\n\
                test('hello', async () => {\n\
                const answer = await fetch(`http://localhost:${process.env.GANGER_PROCESS_web_PORT}/`);\n\
                assert.equal(await answer.text(), process.env.EXPECTED);\n\
                require('fs').writeFileSync('tested', '');\n\
                if (process.env.HANG) await new Promise(() => setTimeout(() => {}, 1e6));\n});\n";
    let scenario = |expected: &str| {
        let scenario = Scenario::procfile("web: exec node server.js\n").file("server.js", server);
        let scenario = scenario.file("app.test.js", test).env("EXPECTED", expected);
        scenario.args(&format!("with -p {} -- node --test app.test.js", free_port()))
    };
    assert!(scenario("hello").run().code(0).stdout().contains("pass 1"));
    assert!(scenario("bye").run().code(1).stdout().contains("fail 1"));
    // The runner runs the file in a process of its own.
    let mut hanging = scenario("hello").env("HANG", "1").start();
    hanging.wait_until("the test", |hanging| hanging.folder().join("tested").exists());
    let folder = hanging.folder().display().to_string();
    hanging.signal(Signal::SIGTERM);
    assert_ne!(hanging.wait().code(), Some(0));
    assert_eq!(tagged(&format!("{folder}/app.test.js")), []);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs pytest, gunicorn, PostgreSQL and Redis")]
fn tests_of_gunicorn_postgresql_and_redis_run_beside_them() {
    let app = "import os, psycopg2, redis\n\
               db = psycopg2.connect(host='127.0.0.1', user='postgres', dbname='postgres', \
               port=os.environ['GANGER_PROCESS_db_PORT'])\n\
               cache = redis.Redis(port=int(os.environ['GANGER_PROCESS_cache_PORT']))\n\
               def app(environ, start_response):\n\
               \x20   cursor = db.cursor()\n\
               \x20   cursor.execute('select n from counter')\n\
               \x20   body = f'{cursor.fetchone()[0]} {cache.incr(\"hits\")}'.encode()\n\
               \x20   start_response('200 OK', [('content-length', str(len(body)))])\n\
               \x20   return [body]\n";
    let test = "import os, time, urllib.request\n\
                url = f\"http://127.0.0.1:{os.environ['GANGER_PROCESS_web_PORT']}/\"\n\
                def test_counts():\n\
                \x20   assert urllib.request.urlopen(url).read() == os.environ['EXPECTED'].encode()\n\
                \x20   open('tested', 'w').close()\n\
                \x20   time.sleep(float(os.environ.get('HANG', '0')))\n";
    let migrate = "import os, psycopg2\n\
                   db = psycopg2.connect(host='127.0.0.1', user='postgres', dbname='postgres', \
                   port=os.environ['GANGER_PROCESS_db_PORT'])\n\
                   db.cursor().execute('create table counter as select 41 as n')\n\
                   db.commit()\n";
    let procfile = format!(
        "web: exec gunicorn --bind 127.0.0.1:$PORT app:app\n\
         db: {}\n\
         cache: exec redis-server --port $PORT --save '' --bind 127.0.0.1\n\
         migrate: exec /usr/bin/python3 migrate.py\n",
        postgres::COMMAND
    );
    let config = format!(
        "[process.web]\nafter = ['migrate', 'cache']\nready = {{ http = '/' }}\n\
         [process.migrate]\nafter = ['db']\nready = {{ exit = true }}\n{}",
        postgres::CONFIG
    );
    let start = |expected: &str, hang: &str| {
        let scenario = Scenario::procfile(&procfile).file("ganger.toml", &config);
        let scenario =
            scenario.file("app.py", app).file("test_app.py", test).file("migrate.py", migrate);
        let scenario = postgres::add_database(scenario);
        let scenario = scenario.env("EXPECTED", expected).env("HANG", hang);
        scenario.args(&format!("with -p {} -- /usr/bin/python3 -m pytest -q", free_port())).start()
    };
    // The readiness probe was the first hit.
    let passed = start("41 2", "0").finish().code(0).stdout();
    assert!(passed.contains("1 passed"), "{passed}");
    let failed = start("42 2", "0").finish().code(1).stdout();
    assert!(failed.contains("1 failed"), "{failed}");
    let mut hanging = start("41 2", "1000");
    hanging.wait_until("the test", |hanging| hanging.folder().join("tested").exists());
    hanging.signal(Signal::SIGTERM);
    hanging.finish().code(143);
}

#[test]
fn with_needs_a_command() {
    let finished = Scenario::procfile("a: true\n").args("with").run().code(2);
    assert!(finished.stderr().contains("<COMMAND>"), "{}", finished.stderr());
}
