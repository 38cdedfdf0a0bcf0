//! One HTTP request by hand: the agent's pages are small, and a lab should need no client library.

use std::io::{Read, Write};

use anyhow::{Context, Result};

/// Asks for `path`; gives the status and the body.
pub(crate) fn get(stream: impl Read + Write, path: &str) -> Result<(u16, String)> {
    ask(stream, path, "1.1")
}

/// The same of a server that would send a long body in chunks: in HTTP/1.0 there are none.
pub(crate) fn get_whole(stream: impl Read + Write, path: &str) -> Result<(u16, String)> {
    ask(stream, path, "1.0")
}

fn ask(mut stream: impl Read + Write, path: &str, version: &str) -> Result<(u16, String)> {
    write!(stream, "GET {path} HTTP/{version}\r\nhost: mesh-agent\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no HTTP answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("no HTTP status: {head:?}"))?, body.to_owned()))
}
