//! The CNI agent's side of the protocol by which a ztunnel-compatible proxy learns of its pods: one protobuf message per
//! packet of a Unix socket, with the pod's network namespace as a file descriptor; the next only after an answer.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_e2e::RunningPod;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

/// How long the proxy may take for anything that it has to do.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at a proxy that has not connected yet.
const PAUSE: Duration = Duration::from_millis(200);
/// No message is longer.
const MESSAGE: usize = 1024;

/// Field numbers of the messages.
mod field {
    pub(super) const REQUEST_ADD: u8 = 1;
    pub(super) const REQUEST_SNAPSHOT_SENT: u8 = 3;
    pub(super) const ADD_UID: u8 = 1;
    pub(super) const ADD_WORKLOAD: u8 = 2;
    pub(super) const WORKLOAD_NAME: u8 = 1;
    pub(super) const WORKLOAD_NAMESPACE: u8 = 2;
    pub(super) const WORKLOAD_SERVICE_ACCOUNT: u8 = 3;
    pub(super) const RESPONSE_ACK: u8 = 1;
    pub(super) const ACK_ERROR: u8 = 1;
}

/// A socket that a proxy will connect to.
#[derive(Debug)]
pub(super) struct Announcer {
    listener: OwnedFd,
}

/// The proxy's connection: it serves its pods as long as this lives.
#[derive(Debug)]
pub(super) struct Announced {
    connection: OwnedFd,
}

impl Announcer {
    pub(super) fn listen(path: &Path) -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let bound = rustix::net::bind(&listener, &SocketAddrUnix::new(path)?);
        bound.with_context(|| path.display().to_string())?;
        rustix::net::listen(&listener, 1)?;
        set_socket_timeout(&listener, Timeout::Recv, Some(PAUSE))?;
        Ok(Self { listener })
    }

    /// Waits for the proxy, as long as it is `alive`, and tells it of `pods`; returns when it has taken them all.
    pub(super) fn announce<'a>(
        self,
        pods: impl Iterator<Item = &'a RunningPod>,
        alive: impl FnMut() -> Result<()>,
    ) -> Result<Announced> {
        let connection = self.accept(alive)?;
        set_socket_timeout(&connection, Timeout::Recv, Some(PATIENCE))?;
        let announced = Announced { connection };
        announced.receive().context("the proxy's hello")?;
        for pod in pods {
            announced.add(pod).with_context(|| format!("announcing pod {}", pod.name))?;
        }
        announced.ask(&snapshot_sent(), &mut SendAncillaryBuffer::default()).context("the end of the snapshot")?;
        Ok(announced)
    }

    fn accept(&self, mut alive: impl FnMut() -> Result<()>) -> Result<OwnedFd> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Err(Errno::AGAIN) if Instant::now() < deadline => alive()?,
                Err(Errno::AGAIN) => bail!("the proxy has not asked for its pods within {PATIENCE:?}"),
                accepted => return Ok(accepted?),
            }
        }
    }
}

impl Announced {
    fn add(&self, pod: &RunningPod) -> Result<()> {
        let namespace = File::open(pod.path())?;
        let rights = [namespace.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        ensure!(control.push(SendAncillaryMessage::ScmRights(&rights)), "a file descriptor does not fit");
        self.ask(&add(&pod.name), &mut control)
    }

    /// Sends a message and waits for the proxy's answer to it.
    fn ask(&self, message: &[u8], control: &mut SendAncillaryBuffer<'_, '_, '_>) -> Result<()> {
        rustix::net::sendmsg(&self.connection, &[IoSlice::new(message)], control, SendFlags::NOSIGNAL)?;
        match refusal(&self.receive()?) {
            None => Ok(()),
            Some(error) => bail!("the proxy refuses: {error}"),
        }
    }

    fn receive(&self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; MESSAGE];
        let (length, _) = match rustix::net::recv(&self.connection, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::AGAIN) => bail!("no answer within {PATIENCE:?}"),
            received => received?,
        };
        ensure!(length > 0, "the proxy has closed the connection");
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// A pod of namespace `default`, whose service account has the pod's name, as all pods of this lab.
fn add(name: &str) -> Vec<u8> {
    let workload = [
        embedded(field::WORKLOAD_NAME, name.as_bytes()),
        embedded(field::WORKLOAD_NAMESPACE, b"default"),
        embedded(field::WORKLOAD_SERVICE_ACCOUNT, name.as_bytes()),
    ];
    let uid = embedded(field::ADD_UID, format!("uid-{name}").as_bytes());
    let add = [uid, embedded(field::ADD_WORKLOAD, &workload.concat())];
    embedded(field::REQUEST_ADD, &add.concat())
}

fn snapshot_sent() -> Vec<u8> {
    embedded(field::REQUEST_SNAPSHOT_SENT, &[])
}

/// A length-delimited field of protobuf. Pods of labs have short names: every length here fits into one byte.
fn embedded(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 0x80).expect("names in labs are short");
    [&[number << 3 | 2, length], content].concat()
}

/// What an answer complains about; nothing, if it is an acknowledgement.
fn refusal(response: &[u8]) -> Option<String> {
    let ack = content(field::RESPONSE_ACK, response)?;
    let error = content(field::ACK_ERROR, ack)?;
    (!error.is_empty()).then(|| String::from_utf8_lossy(error).into_owned())
}

/// The content of the message's first field, if that is `number`. A length of two bytes is that of a long error.
fn content(number: u8, message: &[u8]) -> Option<&[u8]> {
    let rest = message.strip_prefix(&[number << 3 | 2])?;
    let (first, rest) = rest.split_first()?;
    if first & 0x80 == 0 { Some(rest) } else { rest.get(1..) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_protobuf_has_them() {
        assert_eq!(snapshot_sent(), [0x1a, 0]);
        let inner = b"\x0a\x05uid-a\x12\x0f\x0a\x01a\x12\x07default\x1a\x01a";
        assert_eq!(add("a"), [&[0x0a, 24], &inner[..]].concat());
    }

    #[test]
    fn an_acknowledgement_with_an_error_is_a_refusal() {
        assert_eq!(refusal(&[0x0a, 0]), None);
        assert_eq!(refusal(b"\x0a\x05\x0a\x03bad").as_deref(), Some("bad"));
        let long = "x".repeat(200);
        let message = [b"\x0a\xcb\x01\x0a\xc8\x01", long.as_bytes()].concat();
        assert_eq!(refusal(&message), Some(long));
    }
}
