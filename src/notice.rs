//! Everything that ganger says at run time: one enum, one `Display`.

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

/// A sentence that ganger says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// The system does not execute the program of a process.
    StartHangs {
        /// `web.1`.
        name: String,
        /// Its command.
        command: String,
        /// The process that waits for it.
        pid: i32,
    },
    /// A file and the real environment differ.
    EnvConflict {
        /// The variables.
        keys: Vec<String>,
        /// Whether the file won.
        files_win: bool,
    },
    /// The plan has something that the user may not expect.
    Advice(Advice),
    /// Types run that the formation doesn't name.
    Unlisted {
        /// They.
        types: Vec<String>,
    },
    /// Another runner's file lies here, which is not read.
    OtherRunner {
        /// Its name.
        file: String,
        /// What stands in it, and what says that here.
        settings: Vec<(String, String)>,
    },
    /// A port is taken that a process may not need.
    PortConflict {
        /// Which, and what uses it.
        conflict: PortConflict,
    },
    /// The ports are others, because some were taken.
    PortsMoved {
        /// The first of them.
        conflict: PortConflict,
        /// Where they begin now.
        base: u16,
    },
    /// A file that a process watches has changed.
    FileChanged {
        /// The file, as seen from the root.
        file: String,
        /// Who is started again.
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
    /// What went wrong, once all is over.
    Report {
        /// Who failed first.
        name: String,
        /// How.
        exit: Exit,
        /// Whether the kernel killed something for lack of memory.
        no_memory: bool,
        /// What it said last.
        lines: Vec<String>,
        /// Who was stopped only because of it.
        others: Vec<String>,
    },
    /// An earlier ganger was killed together with its keeper.
    StaleSessions {
        /// Who was left of what it ran, and has been killed now.
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
    /// A process waits before it starts.
    WaitingFor {
        /// `web.1`.
        name: String,
        /// For these.
        what: Vec<String>,
    },
    /// What a process needs did not come in time.
    NeedsTimedOut {
        /// `web.1`.
        name: String,
        /// These.
        what: Vec<String>,
        /// How long it waited.
        after: Duration,
    },
    /// What a process comes after will not be ready.
    DependencyFailed {
        /// Who waits for whom.
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
        /// Where it listens, if that is why.
        port: Option<u16>,
        /// How long that took.
        after: Duration,
    },
    /// A process takes too long to become ready.
    ReadyTimedOut {
        /// `web.1`.
        name: String,
        /// The port that it should have bound, if that is what is waited for.
        port: Option<u16>,
        /// How long it had.
        after: Duration,
        /// What came of the last look, if more can be said.
        tried: Option<ProbeFailure>,
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
        /// The one that it was given.
        given: u16,
        /// Where it listens.
        found: Vec<u16>,
    },
    /// The ones that were to be started again in turn are not.
    RollingStopped {
        /// They.
        names: Vec<String>,
    },
    /// A process ended by itself.
    Exited {
        /// `web.1`.
        name: String,
        /// How.
        exit: Exit,
        /// Who of it lives on, and is stopped now.
        left: Vec<Descendant>,
        /// What ganger does about it.
        next: Next,
    },
    /// A process ended because it was told to, and nobody of it is left.
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
    /// Some take their time.
    StillStopping {
        /// The processes.
        processes: Vec<StoppingProcess>,
        /// When the first of them is killed; none if they have been.
        kill_in: Option<Duration>,
    },
    /// A process did not go when asked.
    Killing {
        /// `web.1`.
        name: String,
        /// What it was asked with.
        signal: Signal,
        /// How long it had; none if the user would not wait.
        grace: Option<Duration>,
    },
    /// A process doesn't even go when killed.
    Unkillable {
        /// `web.1`.
        name: String,
    },
    /// Some belong to no process, and are stopped.
    StoppingOrphans {
        /// They.
        left: Vec<Descendant>,
    },
    /// Some belong to no process, and did not go when asked.
    KillingOrphans {
        /// They.
        left: Vec<Descendant>,
    },
    /// Some could not be killed.
    KillFailed {
        /// They.
        left: Vec<Descendant>,
    },
    /// The keeper is no more.
    KeeperLost {
        /// What became of it.
        lost: KeeperError,
    },
    /// The preferred folder for what ganger keeps while it runs is not usable.
    RuntimeDirFallback {
        /// Why, and what the user can do.
        reason: String,
        /// The one that is used instead.
        path: String,
    },
    /// ganger can't be asked anything while it runs.
    NoControlSocket {
        /// Why.
        reason: String,
    },
    /// The files were read again, because a signal said so.
    Reloaded {
        /// What that changes, or why it changes nothing.
        outcome: Result<Changes, String>,
    },
    /// Where things stand.
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
    /// Nothing, after so many crashes in a row.
    GiveUp(u32),
}

/// Why everything is being stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// A signal to ganger.
    Signal(Signal),
    /// Somebody asked for it (`ganger quit`).
    QuitRequest,
    /// A process exited whose policy says so.
    Exit,
    /// Nobody reads the output any more.
    StdoutClosed,
    /// No process is left, and none is to be started.
    AllDown,
}

/// Why output was not written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DiscardReason {
    /// Nobody read it while ganger was stopping.
    Blocked,
    /// Somebody who follows what is said did not keep up.
    SlowReader,
    /// The system refused it, in its words.
    WriteFailed(String),
}

/// Who they are, with process ids.
#[must_use]
pub fn members(members: &[Descendant]) -> String {
    let show =
        |member: &Descendant| format!("{} (pid {})", escape_controls(&member.name), member.pid);
    members.iter().map(show).collect::<Vec<_>>().join(", ")
}

/// A time as people say it, to a tenth of a second.
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
        ];
        insta::assert_snapshot!(notices.map(|notice| notice.to_string()).join("\n"));
    }
}
