//! `ganger logs`: prints recent output, and follows it.

use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use hyper::Method;
use hyper::body::Bytes;

use super::client_commands::{percent_encode, run_client};
use super::use_color;
use crate::cli::{Global, Logs};

pub(super) fn logs(global: &Global, logs: &Logs) -> anyhow::Result<u8> {
    let color = use_color(global.color, &std::io::stdout());
    let mut uri = format!(
        "/logs?color={color}&follow={}&timestamp={}&no_prefix={}",
        logs.follow, logs.timestamp, logs.no_prefix
    );
    let names = percent_encode(&logs.names.join(","));
    let more = [
        (!names.is_empty()).then(|| format!("&names={names}")),
        logs.lines.map(|lines| format!("&n={lines}")),
        logs.since.map(|since| format!("&since={}", since.as_secs_f64())),
    ];
    uri.extend(more.into_iter().flatten());
    run_client(global, async |client| {
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
    /// The response is read no faster than it is written; ganger counts what this misses.
    Direct,
    /// The response is read at once and written by a thread, so that ganger need not keep it.
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

    /// Returns false if the reader is gone.
    fn write(&self, bytes: Bytes) -> bool {
        match self {
            Self::Direct => write(&bytes),
            Self::Behind(sender, _) => sender.send(bytes).is_ok(),
        }
    }

    /// Waits until everything is written.
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
