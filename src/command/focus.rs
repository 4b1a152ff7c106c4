//! `start --focus`: a process has the user's terminal, so that a debugger or a prompt can be
//! answered. What the others print meanwhile waits until the user detaches.
//!
//! The app runs in the background, and ends with this process. Here the user is attached to the
//! process, or reads the joined output. It is one stream from the start to the end: ganger keeps
//! a bounded part of what is not read, and counts the rest.

use std::io::{self, IsTerminal, Write};
use std::pin::Pin;

use anyhow::bail;
use hyper::Method;
use nix::sys::signal::{Signal, raise};

use super::client_commands::run_with_client;
use super::daemon::Foreground;
use super::{logs, print_error};
use crate::cli::{Global, Start};
use crate::control::client::{Answer, Client, Error, Upgraded};
use crate::keys::detach::{DetachFilter, DetachKeys};
use crate::keys::filter::KeyFilter;
use crate::plan::Plan;
use crate::ui::attach::{ClientSignals, Session, SessionEvent, Typed, attach_uri};
use crate::ui::user_terminal::UserTerminal;

/// Fails without a terminal.
pub(super) fn check_terminal() -> anyhow::Result<()> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!(
            "`--focus` needs a terminal: without one, use `ganger start --pty always` and \
               `ganger send`"
        );
    }
    Ok(())
}

/// Fails if this is not the name of one process that runs on a terminal.
pub(super) fn check(plan: &Plan, process: &str) -> anyhow::Result<()> {
    let is_meant = |name: &str, of_type: &str| name == process || of_type == process;
    let all = plan.processes.iter();
    let meant: Vec<_> = all.filter(|it| is_meant(&it.name, &it.process_type)).collect();
    match meant[..] {
        [one] if one.pty => Ok(()),
        [one] => bail!("`--focus {process}`: {} has no terminal (`--pty never`)", one.name),
        [] => bail!("`--focus {process}`: there is no such process"),
        [first, ..] => bail!(
            "`--focus {process}` is {} processes: name one, such as `{}`",
            meant.len(),
            first.name
        ),
    }
}

/// What the user sees.
pub(super) struct Focus {
    process: String,
    keys: DetachKeys,
    /// The path of the request for the joined output.
    output: String,
}

/// Why the joined output is no longer shown.
enum Watched {
    /// The process has the terminal.
    Attached(Upgraded),
    /// ganger has ended.
    Ended,
}

/// A request to attach that is not answered yet.
type Attaching<'a> = Pin<Box<dyn Future<Output = Result<Upgraded, Error>> + 'a>>;

impl Focus {
    pub(super) fn new(process: &str, start: &Start, color: bool) -> Self {
        let output = logs::follow_uri(start, color);
        Self { process: process.to_owned(), keys: start.detach.keys.clone(), output }
    }

    /// Shows the app until it ends, and returns its exit code.
    pub(super) fn run(
        &self,
        global: &Global,
        terminal: &UserTerminal,
        app: &Foreground,
    ) -> anyhow::Result<u8> {
        let shown = run_with_client(global, async |client| {
            let viewer = Viewer { focus: self, terminal, client: &client, app };
            let mut output = viewer.read_output().await?;
            viewer.run(&mut output).await?;
            Ok(String::new())
        });
        let code = app.quit();
        shown.map(|failed| if failed == 0 { code } else { failed })
    }
}

struct Viewer<'a> {
    focus: &'a Focus,
    terminal: &'a UserTerminal,
    client: &'a Client,
    app: &'a Foreground,
}

impl<'a> Viewer<'a> {
    async fn run(&self, output: &mut Answer<'a>) -> io::Result<()> {
        let Focus { process, keys, .. } = self.focus;
        let (mut typed, mut signals) = (Typed::read()?, ClientSignals::listen()?);
        let mut attaching = Some(self.attach());
        loop {
            let watched = self.watch(output, attaching.take(), &mut typed, &mut signals).await?;
            let Watched::Attached(connection) = watched else { return Ok(()) };
            let filter = KeyFilter::new(keys.clone(), true);
            let session = Session::begin(self.terminal, self.client, connection, filter)?;
            session.announce(process, keys);
            if self.serve(session, &mut typed, &mut signals).await? == SessionEvent::Detached {
                eprintln!(
                    "\nganger: detached from {process}, {keys} attaches again, Ctrl-C stops all"
                );
            }
        }
    }

    /// Begins to read the joined output.
    async fn read_output(&self) -> Result<Answer<'a>, Error> {
        self.client.send(Method::GET, &self.focus.output, Vec::new()).await
    }

    fn attach(&self) -> Attaching<'a> {
        let (client, uri) = (self.client, attach_uri(&self.focus.process, false, true));
        Box::pin(async move { client.attach(&uri).await })
    }

    /// Serves the user until the process no longer has the terminal, and returns why.
    async fn serve(
        &self,
        mut session: Session<'_>,
        typed: &mut Typed,
        signals: &mut ClientSignals,
    ) -> io::Result<SessionEvent> {
        loop {
            match session.next(typed, signals).await? {
                SessionEvent::StopApp => self.app.signal(Signal::SIGINT),
                SessionEvent::SuspendApp | SessionEvent::Signal(Signal::SIGTSTP) => {
                    session.pause();
                    self.suspend().await;
                    session.resume().await?;
                }
                SessionEvent::Signal(number) => self.app.signal(number),
                event @ (SessionEvent::Detached | SessionEvent::Closed) => return Ok(event),
            }
        }
    }

    /// Shows the joined output, until the user attaches again.
    async fn watch(
        &self,
        output: &mut Answer<'a>,
        mut attaching: Option<Attaching<'a>>,
        typed: &mut Typed,
        signals: &mut ClientSignals,
    ) -> io::Result<Watched> {
        let mut filter = DetachFilter::new(self.focus.keys.clone());
        let mut keys = Some(self.terminal.enter_key_mode()?);
        loop {
            tokio::select! {
                piece = output.next() => {
                    if let Ok(Some(piece)) = piece {
                        let mut stdout = io::stdout();
                        stdout.write_all(&piece)?;
                        stdout.flush()?;
                    } else if let Ok(again) = self.read_output().await {
                        // ganger has closed it, because many others need connections.
                        *output = again;
                    } else {
                        return Ok(Watched::Ended);
                    }
                }
                attached = answer(&mut attaching) => {
                    attaching = None;
                    match attached {
                        Ok(connection) => return Ok(Watched::Attached(connection)),
                        Err(error) => print_error(&error),
                    }
                }
                typed = typed.next() => {
                    // Without a terminal, the app stops, as by HUP.
                    let Some(typed) = typed else { return Ok(Watched::Ended) };
                    if filter.push(&typed).detaches {
                        attaching = Some(self.attach());
                    }
                }
                number = signals.next() => {
                    if number == Signal::SIGTSTP {
                        keys.take();
                        self.suspend().await;
                        keys = Some(self.terminal.enter_key_mode()?);
                    } else {
                        self.app.signal(number);
                    }
                }
            }
        }
    }

    /// Suspends the app and then this process, until it is continued.
    async fn suspend(&self) {
        self.app.suspend().await;
        let _ = raise(Signal::SIGSTOP);
        self.app.signal(Signal::SIGCONT);
    }
}

/// The answer to a request to attach, if there is one.
async fn answer(attaching: &mut Option<Attaching<'_>>) -> Result<Upgraded, Error> {
    match attaching {
        Some(attaching) => attaching.await,
        None => std::future::pending().await,
    }
}
