//! `ganger ui`: shows the running app on a full screen.

use std::io::IsTerminal;

use anyhow::bail;

use super::client_commands::run_with_client;
use super::use_color;
use crate::cli::Global;
use crate::keys::detach::DetachKeys;
use crate::ui::run::{End, Options, run};
use crate::ui::user_terminal::{GuardSide, UserTerminal};

pub(super) fn ui(global: &Global, detach_keys: &DetachKeys) -> anyhow::Result<u8> {
    check_terminal()?;
    match UserTerminal::new()?.fork_guard()? {
        GuardSide::Guard(code) => Ok(code),
        GuardSide::Client => show(global, detach_keys, false),
    }
}

/// Shows the app that the flags select, and then prints ganger's last messages, if it has ended.
pub(super) fn show(
    global: &Global,
    detach_keys: &DetachKeys,
    is_owner: bool,
) -> anyhow::Result<u8> {
    let color = use_color(global.color, &std::io::stdout());
    let options = Options { detach_keys: detach_keys.clone(), color, is_owner };
    run_with_client(global, async |client| match run(client, options).await? {
        End::Left => Ok(String::new()),
        End::GangerEnded(messages) => Ok(messages),
    })
}

/// Fails without a terminal that can show a full screen.
pub(super) fn check_terminal() -> anyhow::Result<()> {
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !is_terminal {
        bail!("a full screen needs a terminal: use `ganger ps` and `ganger logs -f` here");
    }
    if std::env::var_os("TERM").is_none_or(|term| term == "dumb") {
        bail!("a full screen needs a terminal that can move the cursor, and TERM says `dumb`");
    }
    Ok(())
}
