//! The folder for the socket and the session marker of a ganger: the same from every
//! terminal, and safe from other users.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::attacks::{Cleanup, kill_both};
use crate::control::{ClientOutput, run_client};
use crate::scenario::{
    GANGER, NOBODY, Running, Scenario, TEST_TIMEOUT, User, running_files, runtime_files,
    socket_path, tag, tagged, use_runtime_dir, wait_until,
};

const SLEEPER: &str = "a: exec sleep 1000\n";

/// The output of a command, and its exit code.
fn client_output(command: &mut Command) -> ClientOutput {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    ClientOutput(text, output.status.code().unwrap())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn socket_in(folder: &Path) -> PathBuf {
    let is_socket = |path: &PathBuf| path.extension().is_some_and(|it| it == "sock");
    entries(folder).into_iter().find(is_socket).unwrap()
}

/// The process id of the process that listens at this path.
fn listener(path: &Path) -> Option<i32> {
    let stream = UnixStream::connect(path).ok()?;
    Some(getsockopt(&stream, PeerCredentials).unwrap().pid())
}

/// Asserts that another start is refused with a message that names the running ganger.
#[track_caller]
fn assert_runs_already(refusal: &ClientOutput, pid: impl std::fmt::Display) {
    let ClientOutput(text, code) = refusal;
    let is_named =
        text.starts_with("ganger: already running") && text.contains(&format!(" (pid {pid}): "));
    assert!(is_named && *code == 2, "{refusal:?}, not {pid}");
}

/// Starts ganger as this user.
fn up(user: &User, args: &str) -> Running {
    let mut running = user.scenario(SLEEPER).args("./ganger start").args(args).start();
    running.wait_for("a.1 started");
    running
}

fn create_dir(path: &Path, mode: u32, owner: u32) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
}

/// Creates something else under the name of the runtime folder. Returns the message about it.
fn attack(user: &User, kind: &str) -> String {
    let path = user.runtime_dir();
    let shown = path.display();
    match kind {
        "folder" => create_dir(&path, 0o777, NOBODY),
        "link to a folder" => symlink(&user.home, &path).unwrap(),
        "link to nothing" => symlink("/tmp/ganger-nothing", &path).unwrap(),
        "file" => fs::write(&path, "").unwrap(),
        "folder that others can write" => {
            create_dir(&path, 0o777, user.id);
            return format!("other users can write to `{shown}` (`chmod 700 {shown}`)");
        }
        other => panic!("{other}"),
    }
    lchown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    let kind = if kind.starts_with("link") { "symbolic link" } else { kind };
    format!("`{shown}` is a {kind} of user {NOBODY} (that user or root can remove it)")
}

const ATTACKS: [&str; 5] =
    ["folder", "link to a folder", "link to nothing", "file", "folder that others can write"];

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn runtime_folder_of_another_user_is_not_used() {
    for kind in ATTACKS {
        let user = User::new();
        let reason = attack(&user, kind);
        let running = up(&user, "");
        let state_dir = user.state_dir();
        assert!(state_dir.is_dir(), "{kind}");
        socket_in(&state_dir);
        assert_eq!(fs::metadata(&state_dir).unwrap().mode() & 0o777, 0o700);
        let folder = running.folder().to_owned();
        let ClientOutput(ps, code) = client_output(&mut user.ganger(&folder, "ps"));
        assert!(code == 0 && ps.contains("a.1 "), "{kind}: {ps}");
        for second in ["start", "start -D"] {
            assert_runs_already(&client_output(&mut user.ganger(&folder, second)), running.pid());
        }
        assert_eq!(
            client_output(&mut user.ganger(&folder, "quit")),
            ClientOutput(String::new(), 0)
        );
        let finished = running.finish().code(0);
        let expected = format!("ganger | {reason}: using `{}`\n", state_dir.display());
        assert!(finished.stderr().starts_with(&expected), "{kind}: {}", finished.stderr());
        assert_eq!(finished.stderr().matches(&reason).count(), 1);
        assert_eq!(entries(&state_dir), Vec::<PathBuf>::new());
        let found = fs::symlink_metadata(user.runtime_dir()).unwrap();
        let is_touched = found.is_dir() && !entries(&user.runtime_dir()).is_empty();
        assert!(!is_touched && !Path::new("/tmp/ganger-nothing").exists(), "{kind}");
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn daemon_uses_the_fallback_folder() {
    let user = User::new();
    let reason = attack(&user, "folder");
    let scenario = user.scenario(SLEEPER).args("./ganger start -D");
    let folder = scenario.folder().to_owned();
    let log = folder.join("log");
    let mut running = scenario
        .command(|command| {
            let log = fs::File::create(&log).unwrap();
            command.stdout(log.try_clone().unwrap()).stderr(log);
        })
        .start();
    let code = running.wait().code();
    let output = fs::read_to_string(&log).unwrap();
    let expected = format!("ganger | {reason}: using `{}`\n", user.state_dir().display());
    assert!(output.starts_with(&expected), "{output}");
    assert_eq!(code, Some(0));
    assert_eq!(client_output(&mut user.ganger(&folder, "quit")), ClientOutput(String::new(), 0));
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn two_unusable_runtime_folders_are_both_explained() {
    let user = User::new();
    let reason = attack(&user, "file");
    // A home that belongs to root is not used.
    chown(&user.home, Some(0), Some(0)).unwrap();
    let running = up(&user, "");
    running.signal(Signal::SIGTERM);
    let finished = running.finish().code(0);
    let expected = format!(
        "ganger | no control socket, so `ganger ps`, `scale` and others can't reach this ganger: {reason}; no home of user {} \
         is known (name a socket with `-s`)\n",
        user.id
    );
    assert!(finished.stderr().starts_with(&expected), "{}", finished.stderr());
    let finished = user.scenario(SLEEPER).args("./ganger start -D").run().code(2);
    assert!(finished.stderr().contains(&reason), "{}", finished.stderr());
    assert!(finished.stderr().ends_with("(name a socket with `-s`)\n"), "{}", finished.stderr());
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn next_start_sweeps_both_runtime_folders() {
    for attacked_first in [true, false] {
        let user = User::new();
        let tag = tag();
        let _cleanup = Cleanup(&tag);
        if attacked_first {
            attack(&user, "folder");
        }
        let procfile = format!("a: exec $HOSTILE daemonize stay marked {tag}\n");
        let mut running = user.scenario(&procfile).args("./ganger start").start();
        running.wait_for("| grown\n");
        kill_both(&mut running);
        assert!(!tagged(&tag).is_empty());
        if attacked_first {
            fs::remove_dir(user.runtime_dir()).unwrap();
        } else {
            fs::create_dir_all(user.state_dir().parent().unwrap()).unwrap();
            fs::rename(user.runtime_dir(), user.state_dir()).unwrap();
            attack(&user, "folder");
        }
        let finished = user.scenario("b: true\n").args("./ganger start").run().code(0);
        let expected = "killed processes that an earlier ganger left behind: hostile (pid N)";
        assert!(finished.stderr().contains(expected), "{}", finished.stderr());
        assert_eq!(tagged(&tag), []);
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn ganger_is_found_in_any_environment() {
    let user = User::new();
    let own = user.home.join("session");
    create_dir(&own, 0o700, user.id);
    let of_root = user.home.join("session-of-root");
    create_dir(&of_root, 0o700, 0);
    let environments = [
        ("TMPDIR", own.clone()),
        ("TMPDIR", user.home.join("deleted")),
        ("XDG_RUNTIME_DIR", own.clone()),
        ("XDG_RUNTIME_DIR", of_root.clone()),
        ("XDG_RUNTIME_DIR", user.home.join("nothing")),
        ("UNRELATED", own.clone()),
    ];
    for daemonize in [false, true] {
        for (key, value) in &environments {
            let procfile = "a: echo up; exec sleep 1000\n";
            let config = "[process.a]\nready = { log = 'up' }\n";
            let scenario = user.scenario(procfile).file("ganger.toml", config);
            let folder = scenario.folder().to_owned();
            let log = folder.join("log");
            let scenario = scenario.env(key, value.to_str().unwrap()).command(|command| {
                let log = fs::File::create(&log).unwrap();
                command.stdout(log.try_clone().unwrap()).stderr(log);
            });
            let start = if daemonize { "./ganger start -D" } else { "./ganger start" };
            let mut running = scenario.args(start).start();
            let output = || fs::read_to_string(&log).unwrap();
            running.wait_until("a start", |_| output().contains("a.1 is ready"));
            let pid = listener(&socket_in(&user.runtime_dir())).unwrap();
            for (other_key, other) in &environments {
                let ask =
                    |args: &str| client_output(user.ganger(&folder, args).env(other_key, other));
                assert_eq!(ask("ps").1, 0, "{key}={value:?}, {other_key}={other:?}");
                assert_runs_already(&ask("start"), pid);
            }
            assert_eq!(
                client_output(&mut user.ganger(&folder, "quit")),
                ClientOutput(String::new(), 0)
            );
            running.wait();
            assert!(!output().contains("no `ganger ps`"), "{}", output());
            // A daemon leaves how it ended.
            let is_left = |path: &PathBuf| path.extension().is_some_and(|it| it == "last");
            let is_over = || entries(&user.runtime_dir()).iter().all(is_left);
            running.wait_until("ganger's exit", |_| is_over());
            for folder in [&own, &of_root] {
                assert_eq!(entries(folder), Vec::<PathBuf>::new());
            }
        }
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn socket_in_a_folder_of_another_user_is_not_used() {
    let user = User::new();
    let running = up(&user, "");
    let folder = running.folder().to_owned();
    let name = socket_in(&user.runtime_dir()).file_name().unwrap().to_owned();
    assert_eq!(client_output(&mut user.ganger(&folder, "quit")).1, 0);
    let _running = running.finish_but_keep();
    fs::remove_dir(user.runtime_dir()).unwrap();
    attack(&user, "folder");
    let path = user.runtime_dir().join(name);
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(client_output(&mut user.ganger(&folder, "ps")).1, 3);
    // It is not treated as a running ganger, either.
    let scenario = user.scenario(SLEEPER).args("./ganger start").command(|command| {
        command.current_dir(&folder);
    });
    let mut start = scenario.start();
    start.wait_for("a.1 started").signal(Signal::SIGTERM);
    start.finish().code(0);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn ganger_of_an_earlier_version_is_found() {
    let user = User::new();
    let running = up(&user, "");
    let folder = running.folder().to_owned();
    let name = socket_in(&user.runtime_dir()).file_name().unwrap().to_owned();
    assert_eq!(client_output(&mut user.ganger(&folder, "quit")).1, 0);
    let _running = running.finish_but_keep();
    for (key, inner) in
        [("XDG_RUNTIME_DIR", "ganger".to_owned()), ("TMPDIR", format!("ganger-{}", user.id))]
    {
        let older = user.home.join(key);
        create_dir(&older, 0o755, user.id);
        create_dir(&older.join(&inner), 0o700, user.id);
        // As an earlier version in this folder does.
        let mut start = user.ganger(&folder, "start -f - -d . -s");
        start.arg(older.join(&inner).join(&name)).stdin(Stdio::piped());
        start.stdout(Stdio::null()).stderr(Stdio::null());
        let mut earlier = start.spawn().unwrap();
        std::io::Write::write_all(&mut earlier.stdin.take().unwrap(), SLEEPER.as_bytes()).unwrap();
        let ask = |args: &str| client_output(user.ganger(&folder, args).env(key, &older));
        wait_until(&format!("an answer with {key}"), || ask("ps").1 == 0);
        assert_runs_already(&ask("start"), earlier.id());
        assert_eq!(ask("quit"), ClientOutput(String::new(), 0));
        assert!(earlier.wait().unwrap().success());
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn root_leaves_nothing_in_the_folders_of_a_user() {
    let user = User::new();
    let session = user.home.join("session");
    create_dir(&session, 0o700, user.id);
    for attacked in [false, true] {
        // Which variables sudo(8) keeps depends on its configuration.
        let scenario = Scenario::of("unshare").file("Procfile", SLEEPER);
        let folder = scenario.folder().to_owned();
        let root = folder.join("root");
        create_dir(&root, 0o700, 0);
        if attacked {
            create_dir(&folder.join("ganger"), 0o777, NOBODY);
        }
        let scenario = scenario
            .env("XDG_RUNTIME_DIR", session.to_str().unwrap())
            .env("TMPDIR", session.to_str().unwrap())
            .env("HOME", user.home.to_str().unwrap());
        let script = "mount --bind root /root && exec $GANGER start";
        let mut running = scenario.args("--mount sh -c").arg(script).start();
        running.wait_for("a.1 started");
        let place = if attacked { root.join(".local/state/ganger") } else { folder.join("ganger") };
        assert_eq!(listener(&socket_in(&place)), Some(running.pid().as_raw()));
        running.signal(Signal::SIGTERM);
        running.finish().code(0);
        assert_eq!(entries(&user.home), std::slice::from_ref(&session));
        assert_eq!(entries(&session), Vec::<PathBuf>::new());
    }
}

/// Starts ganger in this folder, and does not wait.
fn spawn(folder: &Path, args: &str, log: &str) -> Child {
    let mut command = Command::new(GANGER);
    command.args(args.split(' ')).current_dir(folder).env_remove("PWD");
    let log = fs::File::create(folder.join(log)).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.env("XDG_RUNTIME_DIR", folder);
    use_runtime_dir(&mut command, folder);
    command.spawn().unwrap()
}

#[test]
fn only_one_of_two_concurrent_starts_runs() {
    let config = "[process.a]\nready = { log = 'up' }\n";
    let scenario = Scenario::procfile("a: echo up; exec sleep 1000\n").file("ganger.toml", config);
    let folder = scenario.folder().to_owned();
    let (start, daemon) = ("start", "start -D");
    let socket = socket_path(&folder);
    let pairs = [[start, start], [start, daemon], [daemon, start], [daemon, daemon]];
    for round in 0..100 {
        let pair = pairs[round % pairs.len()];
        let mut both = [0, 1].map(|index| spawn(&folder, pair[index], ["0", "1"][index]));
        let since = Instant::now();
        let loser = loop {
            assert!(since.elapsed() < TEST_TIMEOUT, "{round}: both run");
            let codes = both.each_mut().map(|it| it.try_wait().unwrap().map(|it| it.code()));
            if let Some(loser) = codes.iter().position(|code| *code == Some(Some(2))) {
                break loser;
            }
            let failed = codes.iter().flatten().any(|code| *code != Some(0));
            assert!(!failed, "{round}: {codes:?}");
            std::thread::sleep(Duration::from_millis(1));
        };
        let winner = 1 - loser;
        if pair[winner] == daemon {
            assert_eq!(both[winner].wait().unwrap().code(), Some(0), "{round}");
        }
        // The second one may be refused before the first one listens.
        let mut pid = None;
        wait_until("a listener", || {
            pid = listener(&socket);
            pid.is_some()
        });
        let output = fs::read_to_string(folder.join(["0", "1"][loser])).unwrap();
        assert_runs_already(&ClientOutput(output, 2), pid.unwrap());
        assert_eq!(run_client(&folder, "quit"), ClientOutput(String::new(), 0), "{round}");
        assert_eq!(both[winner].wait().unwrap().code(), Some(0), "{round}");
        wait_until("no file in the runtime folder", || running_files(&folder).is_empty());
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn planted_lock_file_is_not_followed() {
    let user = User::new();
    let shared = user.home.join("shared");
    create_dir(&shared, 0o1777, 0);
    let lock = shared.join("app.sock.lock");
    let precious = user.home.join("precious");
    fs::write(&precious, "precious\n").unwrap();
    chown(&precious, Some(user.id), Some(user.id)).unwrap();
    let to_be_made = user.home.join("to-be-made");
    for kind in ["link", "link to nothing", "hard link", "file", "pipe"] {
        match kind {
            "link" => symlink(&precious, &lock).unwrap(),
            "link to nothing" => symlink(&to_be_made, &lock).unwrap(),
            "hard link" => fs::hard_link(&precious, &lock).unwrap(),
            "file" => fs::write(&lock, "").unwrap(),
            "pipe" => mkfifo(&lock, Mode::from_bits_truncate(0o666)).unwrap(),
            other => panic!("{other}"),
        }
        if kind != "hard link" {
            lchown(&lock, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let scenario = user.scenario(SLEEPER).args("./ganger start -s");
        let finished = scenario.arg(shared.join("app.sock")).start().finish();
        let expected = format!(
            "ganger: `{}` is there already, and no lock of this user's ganger (remove it, or name \
             another path with `-s`)\n",
            lock.display()
        );
        assert_eq!(finished.stderr(), expected, "{kind}");
        finished.code(2);
        assert!(!to_be_made.exists(), "{kind}");
        assert_eq!(fs::read(&precious).unwrap(), b"precious\n");
        assert!(fs::symlink_metadata(&lock).is_ok(), "{kind}: not ganger's to take away");
        fs::remove_file(&lock).unwrap();
    }
    // A lock file that a killed ganger has left belongs to its user.
    fs::write(&lock, "").unwrap();
    chown(&lock, Some(user.id), Some(user.id)).unwrap();
    let scenario = user.scenario(SLEEPER).args("./ganger start -s").arg(shared.join("app.sock"));
    let mut running = scenario.start();
    running.wait_for("a.1 started").signal(Signal::SIGTERM);
    running.finish().code(0);
    assert_eq!(entries(&shared), Vec::<PathBuf>::new());
}

/// Releases as they are deployed: `current` is a link to one of them.
struct Deployed {
    running: Running,
    root: PathBuf,
}

impl Deployed {
    fn start() -> Self {
        let scenario = Scenario::new();
        let root = scenario.folder().to_owned();
        for release in ["1", "2"] {
            let folder = root.join("releases").join(release);
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&folder).unwrap();
            let procfile = format!("a: echo release {release} in $PWD; exec sleep 1000\n");
            fs::write(folder.join("Procfile"), procfile).unwrap();
            fs::write(folder.join("ganger.toml"), "[process.a]\nwatch = ['seen']\n").unwrap();
        }
        Self::switch_in(&root, "1");
        let current = root.join("current");
        let scenario = scenario.args("start").env("PWD", current.to_str().unwrap());
        let mut running = scenario.in_folder(&current).beside(&root).start();
        running.wait_for("release 1 in ").wait_for("a.1 started");
        Self { running, root }
    }

    fn switch_in(root: &Path, release: &str) {
        let new = root.join("new");
        symlink(Path::new("releases").join(release), &new).unwrap();
        fs::rename(new, root.join("current")).unwrap();
    }

    fn switch(&self, release: &str) {
        Self::switch_in(&self.root, release);
    }

    /// Runs a command as a shell does that changed to this folder.
    fn ask(&self, folder: &str, args: &str) -> ClientOutput {
        let mut command = Command::new(GANGER);
        let folder = self.root.join(folder);
        command.args(args.split(' ')).env("PWD", &folder).current_dir(folder);
        use_runtime_dir(&mut command, &self.root);
        client_output(&mut command)
    }
}

#[test]
fn app_behind_a_release_link_is_found_after_a_switch() {
    let mut app = Deployed::start();
    let pid = app.running.pid();
    let real_1 = fs::canonicalize(app.root.join("releases/1")).unwrap();
    let real_2 = fs::canonicalize(app.root.join("releases/2")).unwrap();
    app.running.wait_for(&format!("release 1 in {}\n", real_1.display()));
    for folder in ["current", "releases/1"] {
        assert_eq!(app.ask(folder, "ps").1, 0, "{folder}");
    }
    assert_eq!(app.ask("releases/2", "ps").1, 3);
    app.switch("2");
    for folder in ["current", "current/.", "releases/1"] {
        assert_eq!(app.ask(folder, "ps").1, 0, "{folder}");
        for start in ["start", "start -D"] {
            assert_runs_already(&app.ask(folder, start), pid);
        }
    }
    for args in ["ps -d current", "ps -d ./current/", "ps -f current/Procfile"] {
        assert_eq!(app.ask(".", args).1, 0, "{args}");
    }
    assert_eq!(app.ask("current", "reload"), ClientOutput("restarting a.1\n".into(), 0));
    app.running.wait_for(&format!("release 2 in {}\n", real_2.display()));
    // Also by the path that the folder has now.
    for folder in ["current", "releases/2"] {
        assert_eq!(app.ask(folder, "ps").1, 0, "{folder}");
        assert_runs_already(&app.ask(folder, "start"), pid);
    }
    // The watched files are in that folder, too.
    fs::write(app.root.join("releases/2/seen"), "").unwrap();
    app.running.wait_for("`seen` has changed, restarting a.1");
    app.switch("1");
    assert_eq!(app.ask("current", "reload"), ClientOutput("restarting a.1\n".into(), 0));
    assert_eq!(app.ask("releases/2", "ps").1, 3);
    assert_eq!(app.ask("current", "quit"), ClientOutput(String::new(), 0));
    assert_eq!(app.running.wait().code(), Some(0));
    let files = ["releases/1", "releases/2"].map(|release| runtime_files(&app.root.join(release)));
    assert_eq!(files.concat(), Vec::<PathBuf>::new());
}

#[test]
fn removed_release_is_not_reloaded() {
    let app = Deployed::start();
    fs::remove_file(app.root.join("current")).unwrap();
    let ClientOutput(output, code) = app.ask("releases/1", "reload");
    let current = app.root.join("current");
    let expected =
        format!("ganger: failed to read `{}`: No such file or directory\n", current.display());
    assert_eq!((output, code), (expected, 2));
    assert_eq!(app.ask("releases/1", "quit").1, 0);
    app.running.finish().code(0);
}

#[test]
fn pwd_that_names_another_folder_is_ignored() {
    let scenario = Scenario::procfile(SLEEPER);
    let folder = scenario.folder().to_owned();
    let mut running = scenario.args("start").env("PWD", "/usr").start();
    running.wait_for("a.1 started");
    let mut command = Command::new(GANGER);
    command.arg("ps").env("PWD", "/usr").current_dir("/usr");
    use_runtime_dir(&mut command, &folder);
    assert_eq!(client_output(&mut command).1, 3);
    assert_eq!(running.run_client("ps").1, 0);
    assert_eq!(running.run_client("quit").1, 0);
    running.finish().code(0);
}
