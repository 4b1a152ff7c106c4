//! Files that change start a process again.

use std::fs;

use nix::sys::signal::Signal;

use crate::scenario::{Running, Scenario};

const CONFIG: &str = "[process.app]\nwatch = ['src/**/*.rb', 'config.yml']\n";

fn start() -> Running {
    let procfile = "app: echo up; exec sleep 1000\nother: echo up; exec sleep 1000\n";
    let mut running = Scenario::procfile(procfile)
        .file("ganger.toml", CONFIG)
        .file("src/a.rb", "")
        .file("src/deep/er/b.rb", "")
        .file("src/generated/c.rb", "")
        .file(".gitignore", "generated/\n*.tmp.rb\n")
        .args("start")
        .start();
    running.wait_until("both", |running| running.said_times("| up\n") == 2);
    // Before that, nobody would see it.
    running.wait_until("it watches", |running| {
        let fds = fs::read_dir(format!("/proc/{}/fdinfo", running.pid())).unwrap().flatten();
        let info = |it: fs::DirEntry| fs::read_to_string(it.path()).unwrap_or_default();
        let watched: usize = fds.map(|it| info(it).matches("inotify wd:").count()).sum();
        // The root, ganger's own folder, src, deep and er.
        watched >= 5
    });
    running
}

fn starts(running: &Running) -> usize {
    running.said_times("app.1   | up\n")
}

fn end(running: Running) -> String {
    running.signal(Signal::SIGTERM);
    running.finish().code(0).stderr()
}

#[test]
fn a_burst_of_changes_is_one() {
    let mut running = start();
    let folder = running.folder().join("src/deep");
    for number in 0..1000 {
        fs::write(folder.join(format!("{number}.rb")), "puts 1\n").unwrap();
    }
    running.wait_until("a restart", |running| starts(running) == 2);
    // What came after it would be another.
    fs::write(running.folder().join("config.yml"), "a: b\n").unwrap();
    running.wait_for("`config.yml` has changed, starting app.1 again\n");
    running.wait_until("another", |running| starts(running) == 3);
    let stderr = end(running);
    assert_eq!(stderr.matches(" has changed, starting app.1 again\n").count(), 2, "{stderr}");
    assert!(!stderr.contains("other.1 stopped\nganger  | other.1 started"), "{stderr}");
}

#[test]
fn what_git_ignores_and_what_no_pattern_means_is_nothing() {
    let mut running = start();
    let write = |file: &str| fs::write(running.folder().join(file), "x").unwrap();
    for file in ["src/generated/c.rb", "src/x.tmp.rb", "src/a.py", "a.rb"] {
        write(file);
    }
    write("src/deep/er/b.rb");
    running.wait_for("`src/deep/er/b.rb` has changed, starting app.1 again\n");
    running.wait_until("a restart", |running| starts(running) == 2);
    let stderr = end(running);
    assert_eq!(stderr.matches(" has changed").count(), 1, "{stderr}");
}

#[test]
fn new_folders_are_watched_and_what_was_stopped_stays_so() {
    let mut running = start();
    let folder = running.folder().join("src/new/folder");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("n.rb"), "").unwrap();
    running.wait_for("`src/new/folder/n.rb` has changed, starting app.1 again\n");
    running.wait_until("a restart", |running| starts(running) == 2);
    assert_eq!(running.tell("stop app").1, 0);
    running.wait_for("app.1 stopped\n");
    fs::write(folder.join("n.rb"), "1").unwrap();
    // A plan that watches something else says that the first change has been seen.
    fs::write(running.folder().join("ganger.toml"), "[process.other]\nwatch = ['*.py']\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(running.tell("reload").0, "nothing to do\n");
    running.wait_until("it watches", |running| {
        fs::write(running.folder().join("b.py"), "").unwrap();
        running.said_times("`b.py` has changed, starting other.1 again\n") > 0
    });
    assert_eq!(starts(&running), 2);
    end(running);
}
