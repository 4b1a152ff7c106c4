//! `ganger send`: types into a process.

use hyper::Method;

use super::client_commands::{path, run_client};
use crate::cli::{Global, Send};

pub(super) fn send(global: &Global, send: &Send) -> anyhow::Result<u8> {
    let uri = path(std::slice::from_ref(&send.process), "/input");
    let input = send.text.bytes().to_vec();
    run_client(global, async |client| {
        let _: Vec<String> = client.ask(Method::POST, &uri, input).await?;
        Ok(String::new())
    })
}
