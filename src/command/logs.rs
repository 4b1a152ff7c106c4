//! `ganger logs`: what processes said, and say.

use std::io::Write;

use http_body_util::BodyExt;
use hyper::Method;

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
        let mut body = client.send(Method::GET, &uri, Vec::new()).await?.into_body();
        let mut stdout = std::io::stdout();
        // It ends with ganger, at the latest.
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| client.failed(&error))?;
            let bytes = frame.into_data().unwrap_or_default();
            if stdout.write_all(&bytes).and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
        Ok(String::new())
    })
}
