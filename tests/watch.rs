//! Files that change start a process again.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::scenario::{Running, Scenario};

const CONFIG: &str = "[process.app]\nwatch = ['src/**/*.rb', 'config.yml']\n";

fn start() -> Running {
    start_with(CONFIG)
}

fn start_with(config: &str) -> Running {
    let procfile = "app: echo up; exec sleep 1000\nother: echo up; exec sleep 1000\n";
    let mut running = Scenario::procfile(procfile)
        .file("ganger.toml", config)
        .file("src/a.rb", "")
        .file("src/deep/er/b.rb", "")
        .file("src/generated/c.rb", "")
        .file(".gitignore", "generated/\n*.tmp.rb\n")
        .args("start")
        .start();
    running.wait_until("both up", |running| running.count_in_output("| up\n") == 2);
    // The root, src, deep and er, but not ganger's own folder.
    wait_until_it_watches(&mut running, 4);
    running
}

/// Waits until this many folders are watched. A change before that is not noticed.
pub fn wait_until_it_watches(running: &mut Running, folders: usize) {
    running.wait_until("it watches", |running| watched(running) >= folders);
}

fn watched(running: &Running) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fdinfo", running.pid())).unwrap().flatten();
    let info = |it: fs::DirEntry| fs::read_to_string(it.path()).unwrap_or_default();
    fds.map(|it| info(it).matches("inotify wd:").count()).sum()
}

fn starts(running: &Running) -> usize {
    running.count_in_output("app.1   | up\n")
}

fn end(running: Running) -> String {
    running.signal(Signal::SIGTERM);
    running.finish().code(0).stderr()
}

#[test]
fn burst_of_changes_causes_one_restart() {
    let mut running = start();
    let folder = running.folder().join("src/deep");
    // On a busy machine, this test may stand still longer than a burst does. ganger finds all
    // changes at once when it continues.
    running.signal(Signal::SIGSTOP);
    for number in 0..1000 {
        fs::write(folder.join(format!("{number}.rb")), "puts 1\n").unwrap();
    }
    running.signal(Signal::SIGCONT);
    running.wait_until("a restart", |running| starts(running) == 2);
    // A later change is another one.
    fs::write(running.folder().join("config.yml"), "a: b\n").unwrap();
    running.wait_for("`config.yml` has changed, restarting app.1\n");
    running.wait_until("another", |running| starts(running) == 3);
    let stderr = end(running);
    assert_eq!(stderr.matches(" has changed, restarting app.1\n").count(), 2, "{stderr}");
    assert!(!stderr.contains("other.1 stopped\nganger  | other.1 started"), "{stderr}");
}

#[test]
fn ignored_and_unmatched_files_cause_no_restart() {
    let mut running = start();
    let write = |file: &str| fs::write(running.folder().join(file), "x").unwrap();
    for file in ["src/generated/c.rb", "src/x.tmp.rb", "src/a.py", "a.rb"] {
        write(file);
    }
    write("src/deep/er/b.rb");
    running.wait_for("`src/deep/er/b.rb` has changed, restarting app.1\n");
    running.wait_until("a restart", |running| starts(running) == 2);
    let stderr = end(running);
    assert_eq!(stderr.matches(" has changed").count(), 1, "{stderr}");
}

#[test]
fn recreated_or_renamed_folder_is_watched_again() {
    let mut running = start();
    let src = running.folder().join("src");
    let file = src.join("deep/er/b.rb");
    for restarts in 2..4 {
        fs::remove_dir_all(src.join("deep")).unwrap();
        running
            .wait_until("the removal was noticed", |running| starts(running) == 2 * restarts - 2);
        fs::create_dir_all(src.join("deep/er")).unwrap();
        fs::write(&file, "").unwrap();
        running.wait_until("the new folder was noticed", |running| {
            starts(running) == 2 * restarts - 1
        });
        wait_until_it_watches(&mut running, 4);
    }
    fs::rename(src.join("deep"), src.join("renamed")).unwrap();
    running.wait_until("the new name was noticed", |running| starts(running) == 6);
    wait_until_it_watches(&mut running, 4);
    fs::write(src.join("renamed/er/b.rb"), "1").unwrap();
    running.wait_for("`src/renamed/er/b.rb` has changed, restarting app.1\n");
    end(running);
}

#[test]
fn ignore_rules_above_the_app_apply() {
    let procfile = "app: echo up; exec sleep 1000\n";
    let scenario = Scenario::new()
        .file("repository/.git/HEAD", "")
        .file("repository/.gitignore", "*.log\nskipped/\n")
        .file("repository/app/Procfile", procfile)
        .file("repository/app/ganger.toml", "[process.app]\nwatch = ['**/*']\n")
        .file("repository/app/skipped/a", "")
        // Outside of the repository, nothing is a rule.
        .file(".gitignore", "*\n");
    let mut running = scenario.args("start -f repository/app/Procfile").start();
    running.wait_for("| up\n");
    wait_until_it_watches(&mut running, 1);
    let app = running.folder().join("repository/app");
    for file in ["a.log", "skipped/b", "c"] {
        fs::write(app.join(file), "").unwrap();
    }
    running.wait_for("`c` has changed, restarting app.1\n");
    assert_eq!(watched(&running), 1);
    assert_eq!(running.count_in_output(" has changed"), 1);
    running.signal(Signal::SIGTERM);
    running.finish().code(0);
}

#[test]
fn watch_pattern_outside_the_app_is_refused() {
    for pattern in ["", "!a", "src/"] {
        Scenario::procfile("app: true\n")
            .file("ganger.toml", format!("[process.app]\nwatch = ['{pattern}']\n"))
            .args("check")
            .run()
            .refused(&format!(
                "`ganger.toml` line 2: `watch` of `app`: `{pattern}` means no file; expected a \
                 pattern such as `src/**/*.rb`"
            ));
    }
    for pattern in ["/etc/*", "../shared/**", "src/../../x"] {
        Scenario::procfile("app: true\n")
            .file("ganger.toml", format!("[process.app]\n\nwatch = ['{pattern}']\n"))
            .args("check")
            .run()
            .refused(&format!(
                "`ganger.toml` line 3: `watch` of `app`: `{pattern}` leads out of the app's \
                 folder; expected a pattern such as `src/**/*.rb`"
            ));
    }
}

#[test]
fn change_starts_failed_and_finished_processes_again() {
    let procfile = "build: echo building; . ./src/build.sh\nother: exec sleep 1000\n";
    let config = "[process.build]\non_exit = 'ignore'\nwatch = ['./src/*.sh']\n";
    let scenario = Scenario::procfile(procfile).file("ganger.toml", config);
    let mut running = scenario.file("src/build.sh", "exit 3\n").args("start").start();
    wait_until_it_watches(&mut running, 2);
    running.wait_for("build.1 exited (3)\n");
    for code in [0, 4] {
        fs::write(running.folder().join("src/build.sh"), format!("exit {code}\n")).unwrap();
        running.wait_for(&format!("build.1 exited ({code})\n"));
    }
    running.signal(Signal::SIGTERM);
    running.finish().code(4);
}

#[test]
fn overflow_of_the_watch_queue_counts_as_a_change() {
    let mut running = start();
    // As Ctrl-Z does.
    running.signal(Signal::SIGSTOP);
    let src = running.folder().join("src");
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    for number in 0..most.trim().parse::<u32>().unwrap() {
        fs::write(src.join("deep/er").join(format!("{number}.txt")), "").unwrap();
    }
    fs::create_dir(src.join("late")).unwrap();
    running.signal(Signal::SIGCONT);
    running.wait_until("a restart", |running| starts(running) == 2);
    wait_until_it_watches(&mut running, 5);
    fs::write(src.join("late/a.rb"), "").unwrap();
    running.wait_for("`src/late/a.rb` has changed, restarting app.1\n");
    end(running);
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root")]
fn unreadable_folder_does_not_hide_others() {
    let procfile = "app: echo up; exec sleep 1000\n";
    let scenario = Scenario::as_nobody(procfile)
        .file("ganger.toml", "[process.app]\nwatch = ['**/*.rb']\n")
        .file("a/a.rb", "")
        .file("volumes/secret.rb", "")
        .file("z/z.rb", "")
        .args("./ganger start");
    let volumes = scenario.folder().join("volumes");
    fs::set_permissions(volumes, PermissionsExt::from_mode(0o700)).unwrap();
    let mut running = scenario.start();
    running.wait_for("not all files can be watched: `").wait_for("/volumes`: Permission denied");
    // The root and the other two.
    wait_until_it_watches(&mut running, 3);
    for file in ["a/a.rb", "z/z.rb"] {
        fs::write(running.folder().join(file), "1").unwrap();
        running.wait_for(&format!("`{file}` has changed, restarting app.1\n"));
    }
    end(running);
}

#[test]
fn changed_ignore_rules_apply() {
    let mut running = start();
    let src = running.folder().join("src");
    // `er` is ignored from now on, and `generated` no longer is.
    fs::create_dir(src.join("generated/more")).unwrap();
    fs::write(src.join("deep/.gitignore"), "er/\n").unwrap();
    fs::write(running.folder().join(".gitignore"), "*.tmp.rb\n").unwrap();
    // The root, src, deep, generated and more.
    wait_until_it_watches(&mut running, 5);
    fs::write(src.join("generated/more/c.rb"), "1").unwrap();
    running.wait_for("`src/generated/more/c.rb` has changed, restarting app.1\n");
    let before = running.count_in_output(" has changed");
    fs::write(src.join("deep/er/b.rb"), "1").unwrap();
    fs::write(running.folder().join("config.yml"), "1").unwrap();
    running.wait_for("`config.yml` has changed, restarting app.1\n");
    assert_eq!(running.count_in_output(" has changed"), before + 1);
    end(running);
}

#[test]
fn new_folders_are_watched_and_stopped_processes_stay_down() {
    let mut running = start_with(&format!("{CONFIG}[process.other]\nwatch = ['other.txt']\n"));
    let folder = running.folder().join("src/new/folder");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("n.rb"), "").unwrap();
    running.wait_for("`src/new/folder/n.rb` has changed, restarting app.1\n");
    running.wait_until("a restart", |running| starts(running) == 2);
    assert_eq!(running.run_client("stop app").1, 0);
    running.wait_for("app.1 stopped\n");
    fs::write(folder.join("n.rb"), "1").unwrap();
    // Events come in order: with this one, ganger has seen the first.
    fs::write(running.folder().join("other.txt"), "1").unwrap();
    running.wait_for(" has changed, restarting other.1\n");
    fs::write(running.folder().join("ganger.toml"), "[process.other]\nwatch = ['*.py']\n").unwrap();
    assert_eq!(running.run_client("reload").0, "adjusting app.1 other.1\n");
    running.wait_until("it watches", |running| {
        fs::write(running.folder().join("b.py"), "").unwrap();
        running.count_in_output("`b.py` has changed, restarting other.1\n") > 0
    });
    assert_eq!(starts(&running), 2);
    end(running);
}
