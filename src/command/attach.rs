//! `ganger attach`: the user's terminal becomes that of a process.

use std::io::{self, IsTerminal};

use anyhow::bail;
use nix::sys::signal::{Signal, raise};

use super::client_commands::run_client;
use crate::cli::{Attach, Global};
use crate::keys::filter::KeyFilter;
use crate::ui::attach::{ClientSignals, Session, SessionEvent, Typed, attach_uri};
use crate::ui::user_terminal::{GuardSide, UserTerminal};

pub(super) fn attach(global: &Global, attach: &Attach) -> anyhow::Result<u8> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!("`attach` needs a terminal: without one, use `ganger send` and `ganger logs -f`");
    }
    let terminal = UserTerminal::new()?;
    if let GuardSide::Guard(code) = terminal.fork_guard()? {
        return Ok(code);
    }
    let Attach { process, watch, .. } = attach;
    let keys = &attach.detach.keys;
    run_client(global, async |client| {
        let connection = client.attach(&attach_uri(process, *watch, false)).await?;
        let filter = KeyFilter::new(keys.clone(), false);
        let ended = async {
            let (mut typed, mut signals) = (Typed::read()?, ClientSignals::listen()?);
            let mut session = Session::begin(&terminal, &client, connection, filter)?;
            session.announce(process, keys);
            loop {
                let event = session.next(&mut typed, &mut signals).await?;
                if event == SessionEvent::Signal(Signal::SIGTSTP) {
                    session.pause();
                    let _ = raise(Signal::SIGSTOP);
                    session.resume().await?;
                } else {
                    return Ok(event);
                }
            }
        };
        Ok(match ended.await.map_err(|error: io::Error| client.failed(&error))? {
            SessionEvent::Closed => String::new(),
            SessionEvent::Detached
            | SessionEvent::StopApp
            | SessionEvent::SuspendApp
            | SessionEvent::Signal(_) => format!("\nganger: detached from {process}\n"),
        })
    })
}
