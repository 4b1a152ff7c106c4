//! Servers that start programs for others: sshd(8), cron(8) and systemd(1).

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scenario::{
    Finished, Running, Scenario, TEST_TIMEOUT, children, command_line, free_port, tag,
    use_runtime_dir, wait_until,
};

/// A server for ssh(1) on this machine, with a key of its own.
pub struct Sshd {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Sshd {
    /// It runs what it is asked for with the runtime folder of this scenario's folder.
    pub fn start(beside: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        for name in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.path().join(name));
            assert!(keygen.status().unwrap().success());
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let port = free_port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             PermitRootLogin yes\nStrictModes no\nUsePAM no\n",
            path("host"),
            path("user.pub")
        );
        fs::write(folder.path().join("config"), config).unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-f", &path("config")]).stderr(Stdio::null());
        use_runtime_dir(&mut sshd, beside);
        let child = sshd.spawn().unwrap();
        wait_until("a listener", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, folder, port }
    }

    /// ssh(1) with these options, which runs a command line there.
    pub fn run(&self, options: &str, command: &str) -> Scenario {
        let mut scenario = Scenario::of("ssh").args(options).args("-q -F /dev/null");
        for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
        {
            scenario = scenario.arg("-o").arg(option);
        }
        let scenario = scenario.arg("-i").arg(self.folder.path().join("user"));
        scenario.args(&format!("-p {} root@127.0.0.1", self.port)).arg(command)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// cron(8), with a job that carries out the command lines that it is asked for: cron starts jobs once
/// a minute only.
pub struct Cron {
    running: Running,
    job: Pid,
}

impl Cron {
    /// It reads the table of one folder, and no others that this machine may have.
    const START: &str = "\
        mount --bind $PWD/tables /etc/cron.d
        mount --bind $PWD/empty /var/spool/cron
        mount --bind $PWD/empty/crontab /etc/crontab
        mount -t tmpfs tmpfs /run
        exec /usr/sbin/cron -f";

    /// It keeps its input, and its output goes through a pipe, as for any job.
    const JOB: &str = "\
        echo $$ > up
        while read -r line < requests; do
            { sh -c \"$line\" 2>&1; echo $? > code; } | tee output
            echo > answers
        done";

    /// Starts it, and waits for its job, which takes up to a minute.
    pub fn start() -> Self {
        let scenario = Scenario::of("sh").args("-euc").arg(Self::START).file("job", Self::JOB);
        let folder = scenario.folder().to_owned();
        let table = format!("* * * * * root cd {} && test ! -e up && sh job\n", folder.display());
        for name in ["requests", "answers"] {
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&folder.join(name), mode).unwrap();
        }
        let mut running = scenario.file("tables/job", table).file("empty/crontab", "").start();
        let deadline = Instant::now() + 2 * TEST_TIMEOUT;
        let job = loop {
            let pid = fs::read_to_string(folder.join("up")).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse() {
                break Pid::from_raw(pid);
            }
            assert!(running.child.try_wait().unwrap().is_none(), "cron has ended");
            assert!(Instant::now() < deadline, "cron starts no job");
            std::thread::sleep(Duration::from_millis(100));
        };
        Self { running, job }
    }

    /// Runs a command line of the shell in that job.
    pub fn run(&self, line: &str) -> Finished {
        let ask = "echo \"$0\" > requests; read -r line < answers; cat output; exit $(cat code)";
        Scenario::of("sh").in_folder(self.running.folder()).args("-c").arg(ask).arg(line).run()
    }
}

impl Drop for Cron {
    fn drop(&mut self) {
        let _ = kill(self.job, Signal::SIGKILL);
    }
}

/// systemd(1) in namespaces of its own, with D-Bus and no other units.
pub struct Systemd {
    running: Running,
    /// The id outside of the namespace of the process that is 1 in it.
    pid: Pid,
    _group: ControlGroup,
}

/// The name of a control group, in every hierarchy that this machine has. It is removed at the end.
struct ControlGroup(String);

impl Systemd {
    /// Enters a group in each hierarchy, which becomes the root of that hierarchy in the namespace.
    const ENTER: &str = "\
        for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
            test -e $hierarchy/cgroup.procs || continue
            mkdir -p $hierarchy/$0
            echo $$ > $hierarchy/$0/cgroup.procs || true
        done
        exec unshare --pid --fork --kill-child --mount --mount-proc --cgroup --uts --ipc \
            sh -euc \"$1\" $0";

    /// What it would change on this machine is hidden from it.
    const START: &str = "\
        mount -t tmpfs tmpfs /run
        mount --bind /proc/sys /proc/sys
        mount -o remount,bind,ro /proc/sys
        for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
            test ! -e $hierarchy/$0 || mount --bind $hierarchy/$0 $hierarchy
        done
        export container=test SYSTEMD_UNIT_PATH=$PWD/units SYSTEMD_GENERATOR_PATH=$PWD
        exec /usr/lib/systemd/systemd --system --unit=default.target --show-status=0 \
            --log-target=console";

    /// Starts it, and waits until it is asked for work.
    pub fn start() -> Self {
        let group = ControlGroup(tag());
        let scenario = Scenario::of("sh").args("-euc").arg(Self::ENTER).arg(&group.0);
        let mut scenario = scenario.arg(Self::START);
        for name in ["basic", "default", "shutdown", "sockets", "sysinit"] {
            let wants =
                if name == "default" { "Wants=dbus.socket\nAfter=dbus.socket\n" } else { "" };
            let unit = format!("[Unit]\nDefaultDependencies=no\n{wants}");
            scenario = scenario.file(&format!("units/{name}.target"), unit);
        }
        for name in ["dbus.service", "dbus.socket"] {
            let unit = fs::read(Path::new("/usr/lib/systemd/system").join(name)).unwrap();
            scenario = scenario.file(&format!("units/{name}"), unit);
        }
        let mut running = scenario.start();
        // Before that, it is a shell.
        let is_systemd = |pid: &Pid| command_line(*pid).starts_with(b"/usr/lib/systemd/systemd\0");
        let find = |running: &Running| children(running.pid()).into_iter().find(is_systemd);
        running.wait_until("systemd", |running| find(running).is_some());
        let pid = find(&running).unwrap();
        let systemd = Self { running, pid, _group: group };
        let is_up = || systemd.enter("test -S /run/dbus/system_bus_socket").run().status.success();
        wait_until("a bus", is_up);
        systemd
    }

    /// A program in its namespaces.
    fn enter(&self, program: &str) -> Scenario {
        let args = format!("--target {} --pid --mount --cgroup --uts --ipc {program}", self.pid);
        Scenario::of("nsenter").in_folder(self.running.folder()).args(&args)
    }

    /// systemd-run(1) with these options, which runs a command line of the shell.
    pub fn run(&self, options: &str, line: &str) -> Finished {
        self.enter(&format!("systemd-run {options} sh -c")).arg(line).run()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let remove =
            "find /sys/fs/cgroup -depth -type d -path \"*/$0*\" -exec rmdir {} + 2> /dev/null";
        // The kernel may still be ending what was in it.
        let is_removed = |_| {
            std::thread::sleep(Duration::from_millis(20));
            let removed = Command::new("sh").args(["-c", remove, &self.0]).status();
            removed.is_ok_and(|it| it.success())
        };
        let _ = (0..100).any(is_removed);
    }
}
