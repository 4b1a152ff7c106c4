//! `ganger logs`: what processes said, and say.

use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use hyper::Method;
use hyper::body::Bytes;

use super::ask::{ask, escape};
use super::use_color;
use crate::cli::{Global, Logs};

pub(super) fn logs(global: &Global, logs: &Logs) -> anyhow::Result<u8> {
    let color = use_color(global.color, &std::io::stdout());
    let mut uri = format!(
        "/logs?color={color}&follow={}&timestamp={}&no_prefix={}",
        logs.follow, logs.timestamp, logs.no_prefix
    );
    let names = escape(&logs.names.join(","));
    let more = [
        (!names.is_empty()).then(|| format!("&names={names}")),
        logs.lines.map(|lines| format!("&n={lines}")),
        logs.since.map(|since| format!("&since={}", since.as_secs_f64())),
    ];
    uri.extend(more.into_iter().flatten());
    ask(global, async |client| {
        let mut answer = client.send(Method::GET, &uri, Vec::new()).await?;
        let output = if logs.follow { Output::Direct } else { Output::behind() };
        // It ends with ganger, at the latest.
        let ended = loop {
            match answer.next().await {
                Ok(Some(bytes)) => {
                    if !output.write(bytes) {
                        break Ok(String::new());
                    }
                }
                Ok(None) => break Ok(String::new()),
                Err(error) => break Err(error),
            }
        };
        output.finish();
        ended
    })
}

/// Standard output, which may be slow: a pager reads a page, and waits for its user.
enum Output {
    /// What comes is read no faster than it is written. ganger counts what is missed.
    Direct,
    /// What there is is read at once, and written by a thread: ganger has no need to keep it.
    Behind(Sender<Bytes>, JoinHandle<()>),
}

impl Output {
    fn behind() -> Self {
        let (sender, pieces) = channel::<Bytes>();
        let writer = std::thread::spawn(move || {
            while let Ok(bytes) = pieces.recv()
                && write(&bytes)
            {}
        });
        Self::Behind(sender, writer)
    }

    /// False if nobody reads it any more.
    fn write(&self, bytes: Bytes) -> bool {
        match self {
            Self::Direct => write(&bytes),
            Self::Behind(sender, _) => sender.send(bytes).is_ok(),
        }
    }

    /// Waits until all is written.
    fn finish(self) {
        if let Self::Behind(sender, writer) = self {
            drop(sender);
            let _ = writer.join();
        }
    }
}

fn write(bytes: &[u8]) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).is_ok()
}
