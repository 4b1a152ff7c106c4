//! The signals that ganger gets, and what each asks for.

use std::io;

use nix::sys::signal::{SigHandler, SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignalRequest {
    /// Stop everything.
    Stop(Signal),
    /// Pass it on to every process.
    Forward(Signal),
    /// Follow the new size of the terminal.
    Resize,
    /// Say where things stand.
    Status,
    /// Suspend everything, ganger included.
    Suspend,
    /// Have everything go on.
    Resume,
    /// A child of ganger's own, the keeper, has changed its state.
    Keeper,
}

/// Signals that stay ignored if they were ignored when ganger was started: nohup(1) ignores HUP,
/// and a program without job control TSTP. INT and QUIT are not among them: a shell without job
/// control ignores them for every command that it starts with `&`, where `kill -INT` is still
/// meant to stop ganger.
const MAY_STAY_IGNORED: [Signal; 2] = [Signal::SIGHUP, Signal::SIGTSTP];

const REQUESTS: [(Signal, SignalRequest); 10] = [
    (Signal::SIGINT, SignalRequest::Stop(Signal::SIGINT)),
    (Signal::SIGTERM, SignalRequest::Stop(Signal::SIGTERM)),
    (Signal::SIGHUP, SignalRequest::Stop(Signal::SIGHUP)),
    (Signal::SIGQUIT, SignalRequest::Status),
    (Signal::SIGUSR1, SignalRequest::Forward(Signal::SIGUSR1)),
    (Signal::SIGUSR2, SignalRequest::Forward(Signal::SIGUSR2)),
    (Signal::SIGWINCH, SignalRequest::Resize),
    (Signal::SIGTSTP, SignalRequest::Suspend),
    (Signal::SIGCONT, SignalRequest::Resume),
    (Signal::SIGCHLD, SignalRequest::Keeper),
];

/// The signals that ganger gets, in the order in which they are handled.
#[derive(Debug)]
pub struct Signals(UnboundedReceiver<SignalRequest>);

impl Signals {
    /// Handles all signals, except those that stay ignored, and HUP if something else handles it
    /// (`else_hup`). Needs a tokio runtime.
    pub fn listen(else_hup: bool) -> io::Result<Self> {
        let (send, requests) = unbounded_channel();
        for (number, request) in REQUESTS {
            if else_hup && number == Signal::SIGHUP {
                continue;
            }
            if MAY_STAY_IGNORED.contains(&number) && is_ignored(number) {
                continue;
            }
            let mut stream = signal(SignalKind::from_raw(number as i32))?;
            let send = send.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && send.send(request).is_ok() {}
            });
        }
        Ok(Self(requests))
    }

    /// The next one. Nothing is lost if this is cancelled.
    pub async fn next(&mut self) -> SignalRequest {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// Undoes what a parent process left and what no user asks for: blocked signals, which would
/// never arrive, and an ignored SIGCHLD, which hides how children end. Needs to be called
/// before there is a second thread.
pub fn reset_inherited() -> io::Result<()> {
    #[expect(unsafe_code, reason = "dispositions belong to the whole process")]
    // SAFETY: the default disposition runs nothing of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    // What was sent meanwhile arrives now.
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Whether this signal was ignored when ganger was started.
pub(crate) fn is_ignored(number: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    #[expect(unsafe_code, reason = "nix asks for a new action, too")]
    // SAFETY: with no new action, sigaction(2) writes the old one and changes
    // nothing; it is read only if that succeeded.
    unsafe {
        libc::sigaction(number as i32, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
