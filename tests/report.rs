//! The report when ganger exits after a process failed.

use crate::scenario::Scenario;

#[test]
fn report_names_first_failure_with_its_last_lines_and_the_stopped_processes() {
    let procfile = "web: exec sleep 1000\njob: seq 1 20; echo oh no; exit 3\n";
    let stderr = Scenario::procfile(procfile).args("start -N -q job").run().code(3).stderr();
    let lines: Vec<String> = (12..=20).map(|it| it.to_string()).chain(["oh no".into()]).collect();
    let lines = format!("ganger |   {}\n", lines.join("\nganger |   "));
    let expected = format!(
        "ganger | job.1 failed first: it exited (3)\n\
         ganger | its last lines:\n{lines}ganger | stopped because of it: web.1\n"
    );
    assert!(stderr.ends_with(&expected), "{stderr}");
}

#[test]
fn report_names_the_signal_and_is_left_out_after_success() {
    let procfile = "a: kill -SEGV $$\nb: exec sleep 1000\n";
    let stderr = Scenario::procfile(procfile).args("start").run().code(139).stderr();
    assert!(stderr.contains("ganger | a.1 failed first: it was killed by SIGSEGV\n"), "{stderr}");
    let procfile = "a: echo done\nb: exec sleep 1000\n";
    let stderr = Scenario::procfile(procfile).args("start").run().code(0).stderr();
    assert!(!stderr.contains("failed"), "{stderr}");
}

#[test]
fn report_shows_last_lines_of_a_hidden_process() {
    let start = |args: &str| Scenario::procfile("job: echo why; exit 3\n").args(args).run().code(3);
    let expected = "ganger | job.1 failed first: it exited (3)\nganger | its last lines:\n\
                    ganger |   why\n";
    assert!(start("start -q job").stderr().ends_with(expected));
    // Lines that the user has just seen are not repeated.
    assert!(start("start").stderr().ends_with("ganger | job.1 exited (3), stopping all\n"));
}

/// A control group with a low memory limit.
struct Group(std::path::PathBuf);

impl Group {
    fn new() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let one = |line: &str| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let path = path.trim_start_matches('/').to_owned();
            let is_first = controllers.split(',').any(|it| it == "memory");
            let root = if is_first { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
            (is_first || controllers.is_empty())
                .then(|| std::path::Path::new(root).join(path))
                .filter(|it| it.join("cgroup.procs").exists())
        };
        let parent = groups.lines().find_map(one).expect("a control group for memory");
        let group = parent.join(crate::scenario::tag());
        std::fs::create_dir(&group).unwrap();
        let set = |file: &str| std::fs::write(group.join(file), (48 << 20).to_string());
        set("memory.max").or_else(|_| set("memory.limit_in_bytes")).unwrap();
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
#[cfg_attr(not(feature = "system-tests"), ignore = "needs root and cgroups")]
fn out_of_memory_kill_is_named() {
    let group = Group::new();
    let eat = "python3 -c 'a = [bytes([n]) * (1 << 20) for n in range(200)]'";
    let procfile = format!("a: exec {eat}\nb: exec sleep 1000\n");
    let script = format!("echo $$ > {}/cgroup.procs; exec $GANGER start", group.0.display());
    let finished =
        Scenario::of("sh").file("Procfile", procfile).args("-c").arg(script).run().code(137);
    let message = "ganger | a.1: the system ran out of memory and killed a process\n\
                ganger | a.1 was killed by SIGKILL, stopping all\n";
    assert!(finished.stderr().contains(message), "{}", finished.stderr());
    let expected = "ganger | a.1 failed first: it was killed by SIGKILL\n\
                    ganger | the system ran out of memory and killed a process\n";
    assert!(finished.stderr().contains(expected), "{}", finished.stderr());
}

#[test]
fn files_of_other_runners_are_noticed() {
    let scenario = Scenario::procfile("a: true\n")
        .file(".foreman", "formation: a=2\nport: 3000\n")
        .file(".overmind.env", "OVERMIND_PORT=3000\nSECRET=s3cret\n");
    let stderr = scenario.args("start").run().code(0).stderr();
    let expected = "ganger | `.foreman` is not read: its `formation` is `formation` in \
                    `ganger.toml` here, its `port` is `port` in `ganger.toml` here\n\
                    ganger | `.overmind.env` is not read: its `OVERMIND_PORT` is `port` in `ganger.toml` here, \
                    its `SECRET` is a line of `.env` here\n";
    assert!(stderr.starts_with(expected) && !stderr.contains("s3cret"), "{stderr}");
}

#[test]
fn verbose_start_shows_what_happens_to_each_process_and_no_value() {
    let finished = Scenario::procfile("a: echo $SECRET; exit 3\n")
        .file(".env", "SECRET=hunter2\n")
        .args("start --verbose -q a -N")
        .run()
        .code(3);
    let all = finished.stderr();
    let position = |text: &str| all.find(text).unwrap_or_else(|| panic!("no {text:?} in {all}"));
    let positions = [
        r#"spawning process="a.1" life=1 command="echo $SECRET; exit 3""#,
        r#"spawned process="a.1" life=1 pid="#,
        r#"ended process="a.1" life=1 exit=exited (3) left=0"#,
        "killing what is left",
        "swept left=0",
    ]
    .map(position);
    assert!(positions.is_sorted(), "{all}");
    let before_report = all.split("its last lines").next().unwrap_or_default();
    assert!(!before_report.contains("hunter2"), "{all}");
}
