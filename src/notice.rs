//! Every message that ganger prints at run time: one enum of values, one `Display`.

mod display;
mod escape;

pub use escape::escape_controls;

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::changes::Changes;
use crate::exit::Exit;
use crate::keeper::client::KeeperError;
use crate::keeper::protocol::Descendant;
use crate::plan::Advice;

/// A message that ganger prints at run time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// The program of a process has been started, and the system does not execute it.
    StartHangs {
        /// `web.1`.
        name: String,
        /// Its command.
        command: String,
        /// The process id of the child that waits for it.
        pid: i32,
    },
    /// A `.env` file and the real environment set variables differently.
    EnvConflict {
        /// The names of the variables.
        keys: Vec<String>,
        /// Whether the file won.
        files_win: bool,
    },
    /// The plan has something that the user may not expect.
    Advice(Advice),
    /// The formation leaves types out, and they run once.
    Unlisted {
        /// The types.
        types: Vec<String>,
    },
    /// The folder has a file of another runner, which ganger does not read.
    OtherRunner {
        /// Its name.
        file: String,
        /// Its settings, and what sets the same here.
        settings: Vec<(String, String)>,
    },
    /// Another program uses a port that a process may not need.
    PortConflict {
        /// The port, and what uses it.
        conflict: PortConflict,
    },
    /// Other ports than usual were chosen, because some were in use.
    PortsMoved {
        /// Why.
        reason: PortsTaken,
        /// The first port now.
        base: u16,
    },
    /// A file that a process watches has changed.
    FileChanged {
        /// The file, as seen from the root.
        file: String,
        /// The processes that are restarted.
        names: Vec<String>,
    },
    /// Files can't be watched.
    WatchFailed {
        /// Why.
        reason: String,
    },
    /// A process was killed while memory ran out.
    OutOfMemory {
        /// `web.1`.
        name: String,
    },
    /// The report at the end, if a process failed.
    Report {
        /// The process that failed first.
        name: String,
        /// How it ended.
        exit: Exit,
        /// The line in which it said that it has failed, if it did.
        line: Option<String>,
        /// Whether the kernel killed something for lack of memory.
        no_memory: bool,
        /// Its last lines.
        lines: Vec<String>,
        /// The processes that were stopped only because of it.
        others: Vec<String>,
    },
    /// An earlier ganger was killed together with its keeper.
    StaleSessions {
        /// What it left behind, and what has been killed now.
        members: Vec<Descendant>,
    },
    /// A process runs.
    Started {
        /// `web.1`.
        name: String,
        /// Its process id.
        pid: i32,
        /// Its PORT, if it was given one.
        port: Option<u16>,
        /// Whether ganger listens there for it.
        listened: bool,
    },
    /// No terminal could be opened for a process, which gets a pipe.
    NoTerminal {
        /// `web.1`.
        name: String,
        /// Why.
        reason: String,
    },
    /// A process without a terminal has printed nothing.
    NoOutput {
        /// `web.1`.
        name: String,
        /// Since it was started.
        after: Duration,
    },
    /// A process without a terminal seems to wait for input.
    WaitsForInput {
        /// `web.1`.
        name: String,
        /// The unfinished line that it printed.
        prompt: String,
    },
    /// A client is attached to a process, and another client types.
    Watching {
        /// `web.1`.
        name: String,
    },
    /// The client that typed has left, and the client that reads this types now.
    TypingPassed {
        /// `web.1`.
        name: String,
    },
    /// The process that a client is attached to has exited.
    AttachedExited {
        /// `web.1`.
        name: String,
        /// Its exit status, if it is known.
        exit: Option<Exit>,
        /// Whether it is started again, and the client stays.
        restarts: bool,
    },
    /// The process that a client is attached to runs again.
    AttachedRestarted {
        /// `web.1`.
        name: String,
        /// Its process id.
        pid: Option<i32>,
    },
    /// A process waits before it starts.
    WaitingFor {
        /// `web.1`.
        name: String,
        /// The processes and services that it waits for.
        what: Vec<String>,
    },
    /// A process waits before it starts: another one still has its port.
    WaitingForPort {
        /// `www.1`.
        name: String,
        /// The processes that have the port.
        holders: Vec<String>,
        /// The port.
        port: u16,
    },
    /// The services that a process needs were not reachable in time.
    NeedsTimedOut {
        /// `web.1`.
        name: String,
        /// The services.
        what: Vec<String>,
        /// How long it waited.
        after: Duration,
    },
    /// A dependency of a process will not be ready.
    DependencyFailed {
        /// The processes from the one that waits to the one that failed.
        chain: Chain,
    },
    /// The folder of a process can't be entered.
    NoFolder {
        /// `web.1`.
        name: String,
        /// The folder, and what is wrong with it.
        reason: String,
    },
    /// The program of a process can't be executed.
    CannotExecute {
        /// `web.1`.
        name: String,
        /// Which program, and why.
        reason: String,
    },
    /// A process is ready.
    Ready {
        /// `web.1`.
        name: String,
        /// Its port, if it is ready because it listens.
        port: Option<u16>,
        /// How long it took.
        after: Duration,
    },
    /// A process was not ready in time.
    ReadyTimedOut {
        /// `web.1`.
        name: String,
        /// The port that it should have bound, if it is ready by port.
        port: Option<u16>,
        /// How long it had.
        after: Duration,
        /// The result of the last probe, if it is worth a message.
        tried: Option<ProbeFailure>,
    },
    /// `start -D` returns, and the app is up.
    DaemonIsUp {
        /// The flags by which commands find it, each followed by a blank.
        flags: String,
    },
    /// `start -D` returns though not all is ready.
    DaemonStaysUp {
        /// The processes that are not ready.
        names: Vec<String>,
    },
    /// A process was given one port and listens on another.
    WrongPort {
        /// `web.1`.
        name: String,
        /// The port that it was given.
        given: u16,
        /// The ports on which it listens.
        found: Vec<u16>,
    },
    /// A rolling restart ends early.
    RollingStopped {
        /// The processes that are not restarted.
        names: Vec<String>,
    },
    /// A process ended, and ganger had not asked it to.
    Exited {
        /// `web.1`.
        name: String,
        /// How.
        exit: Exit,
        /// The descendants that outlived it, and are stopped now.
        left: Vec<Descendant>,
        /// What ganger does about it.
        next: Next,
    },
    /// A process has written a line that says that it has failed, and is stopped.
    FailureLogged {
        /// `web.1`.
        name: String,
        /// The line.
        line: String,
        /// What ganger does about it.
        next: Next,
    },
    /// A process ended because it was asked to, and nothing of it is left.
    Stopped {
        /// `web.1`.
        name: String,
        /// How.
        exit: Exit,
    },
    /// Everything is being stopped.
    StoppingAll {
        /// Why.
        cause: Cause,
    },
    /// Processes take their time to stop.
    StillStopping {
        /// The processes.
        processes: Vec<StoppingProcess>,
        /// When the first of them is killed; none if all have been.
        kill_in: Option<Duration>,
    },
    /// A process did not stop when asked, and is killed.
    Killing {
        /// `web.1`.
        name: String,
        /// The signal that asked it to.
        signal: Signal,
        /// How long it had; none if the user interrupted twice.
        grace: Option<Duration>,
    },
    /// A process still runs after SIGKILL.
    Unkillable {
        /// `web.1`.
        name: String,
    },
    /// Descendants that belong to no process are stopped.
    StoppingOrphans {
        /// The descendants.
        left: Vec<Descendant>,
    },
    /// Descendants that belong to no process did not stop when asked, and are killed.
    KillingOrphans {
        /// The descendants.
        left: Vec<Descendant>,
    },
    /// Descendants could not be killed.
    KillFailed {
        /// The descendants.
        left: Vec<Descendant>,
    },
    /// The keeper can't be used any more.
    KeeperLost {
        /// What happened to it.
        lost: KeeperError,
    },
    /// The preferred folder for what ganger keeps while it runs is not usable.
    RuntimeDirFallback {
        /// Why, and what the user can do.
        reason: String,
        /// The one that is used instead.
        path: String,
    },
    /// There is no control socket for this ganger.
    NoControlSocket {
        /// Why.
        reason: String,
    },
    /// The files were read again at a signal.
    Reloaded {
        /// What that changed, or why it changed nothing.
        outcome: Result<Changes, String>,
    },
    /// The state of all processes.
    Status {
        /// All processes.
        processes: Vec<ProcessSummary>,
    },
    /// Output could not be written.
    Discarded {
        /// How many bytes of it.
        bytes: u64,
        /// Why.
        why: DiscardReason,
    },
}

/// The processes that wait for each other, down to the dependency that failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chain {
    /// Each waits for the next. The last one is the one that failed.
    pub names: Vec<String>,
    /// Why others can't count on the last one.
    pub reason: FailureReason,
}

/// Why others can't count on a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureReason {
    /// It has ended, and is not restarted.
    Exited(Exit),
    /// It was not ready in time.
    NotReady {
        /// How long it had.
        after: Duration,
    },
}

/// Why a probe found that a process is not ready.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProbeFailure {
    /// A request got another response than success.
    HttpStatus {
        /// The path of the request.
        path: String,
        /// The status of the response.
        status: u16,
    },
    /// A request got no response.
    HttpError {
        /// The path of the request.
        path: String,
        /// The reason, in words.
        reason: String,
    },
    /// A request got no response in time.
    HttpTimeout {
        /// The path of the request.
        path: String,
        /// How long it took at least.
        after: Duration,
    },
    /// The probe command failed.
    Command {
        /// The command.
        command: String,
        /// How it ended.
        exit: Exit,
    },
    /// The process itself has ended.
    Exited(Exit),
}

/// A process that has been asked to stop.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoppingProcess {
    /// `web.1`.
    pub name: String,
    /// Its process id, if it is known.
    pub pid: Option<i32>,
    /// The descendants that outlived it.
    pub left: Vec<Descendant>,
}

/// A port that a process needs, and that another program uses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortConflict {
    /// `web.1`.
    pub process: String,
    /// The port.
    pub port: u16,
    /// The program that uses it, if this user may know.
    pub owner: Option<String>,
    /// Whether the process is useless without it.
    pub required: bool,
}

/// Why a block of ports can't be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortsTaken {
    /// Another program uses one of them.
    InUse(PortConflict),
    /// Another ganger of this user has reserved some of them. Holds the first port of the block.
    Reserved(u16),
}

/// The state of a process, for a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProcessSummary {
    /// `web.1`.
    pub name: String,
    /// Its process id, if something of it runs.
    pub pid: Option<i32>,
    /// Its state.
    pub state: StateSummary,
}

/// A state, with times as they are now.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the states are explained where they are decided")]
pub enum StateSummary {
    Down { last: Option<Exit> },
    Backoff { restart_in: Duration },
    Waiting,
    Starting,
    Up { uptime: Duration, is_ready: bool },
    Stopping { kill_in: Duration },
    Killed,
    Stuck,
}

/// What ganger does about an exit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Stops all.
    StopAll,
    /// Starts it again, after a pause.
    Restart(Duration),
    /// Nothing.
    StayDown,
    /// Nothing, after this many crashes in a row.
    GiveUp(u32),
}

/// Why everything is being stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// A signal to ganger.
    Signal(Signal),
    /// A user asked for it (`ganger quit`).
    QuitRequest,
    /// A process exited, and its policy stops all.
    Exit,
    /// Nothing reads the output any more.
    StdoutClosed,
    /// Nothing runs any more, and nothing will be started.
    AllDown,
}

/// Why output was not written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DiscardReason {
    /// Nothing read it while ganger was stopping.
    Blocked,
    /// A subscriber read it too slowly.
    SlowReader,
    /// The system refused it, in its words.
    WriteFailed(String),
}

/// Their names and process ids.
#[must_use]
pub fn members(members: &[Descendant]) -> String {
    let show =
        |member: &Descendant| format!("{} (pid {})", escape_controls(&member.name), member.pid);
    members.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// A duration for a message, to a tenth of a second.
#[must_use]
pub fn time(duration: Duration) -> String {
    let tenths = duration.as_millis().div_ceil(100);
    let (minutes, tenths) = (tenths / 600, tenths % 600);
    let seconds = match tenths % 10 {
        0 => format!("{}s", tenths / 10),
        tenth => format!("{}.{tenth}s", tenths / 10),
    };
    match (minutes, tenths) {
        (0, _) => seconds,
        (minutes, 0) => format!("{minutes}m"),
        (minutes, _) => format!("{minutes}m {seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let shown = |millis| time(Duration::from_millis(millis));
        assert_eq!([100, 99, 1000, 4999].map(shown), ["0.1s", "0.1s", "1s", "5s"]);
        assert_eq!([60_000, 90_500].map(shown), ["1m", "1m 30.5s"]);
    }

    #[test]
    fn sentences() {
        let member = |pid| Descendant { pid, name: "sleep".into() };
        let exited = |exit, left, next| Notice::Exited { name: "css.1".into(), exit, left, next };
        let stopping = StoppingProcess { name: "web.1".into(), pid: Some(7), left: vec![] };
        let notices = [
            Notice::Started { name: "web.1".into(), pid: 7, port: Some(5000), listened: true },
            Notice::Started { name: "worker.1".into(), pid: 8, port: Some(5100), listened: false },
            exited(Exit::Code(0), vec![], Next::StopAll),
            exited(Exit::Signal(11), vec![member(9)], Next::Restart(Duration::from_millis(200))),
            exited(Exit::Code(1), vec![], Next::GiveUp(10)),
            Notice::Unlisted { types: vec!["web".into(), "clock".into()] },
            Notice::StillStopping {
                processes: vec![stopping],
                kill_in: Some(Duration::from_secs(4)),
            },
            Notice::StoppingOrphans { left: vec![member(9), member(10)] },
            Notice::NoOutput { name: "web.1".into(), after: Duration::from_secs(30) },
            Notice::WaitsForInput { name: "web.1".into(), prompt: "name?".into() },
        ];
        insta::assert_snapshot!(notices.map(|notice| notice.to_string()).join("\n"));
    }
}
