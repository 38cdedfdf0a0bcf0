//! A CNI agent of ours: what Istio's does to a pod and says to the node proxy (protocol note, sections 10 and 11).
//!
//! [`rules::redirect`] puts its rules into a pod. A [`Cni`] is the socket that the node's agent connects to, and a [`Link`]
//! one of its connections, over which pods are handed over. Every step can also be done wrong.

pub mod message;
pub mod rules;

use std::fs::{self, File};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::place::RunningPod;

/// How long Istio's CNI agent waits for an answer.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks for a connection that has not come yet.
const PAUSE: Duration = Duration::from_millis(50);
/// More than any packet has.
const PACKET: usize = 1025;

/// The socket of a CNI agent. Dropping it removes the socket.
#[derive(Debug)]
pub struct Cni {
    listener: OwnedFd,
    path: PathBuf,
}

/// A node proxy's connection, after its hello.
#[derive(Debug)]
pub struct Link {
    connection: OwnedFd,
}

/// A pod as a CNI agent knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub service_account: String,
    pub netns: PathBuf,
}

impl Handed {
    /// A pod of the lab, with a uid that is not its workload's.
    pub fn of(pod: &RunningPod) -> Result<Self> {
        let parts: Vec<&str> = pod.identity.split('/').collect();
        let [.., "ns", namespace, "sa", service_account] = parts[..] else { bail!("no identity: {}", pod.identity) };
        Ok(Self {
            uid: format!("2f1c8f6e-0d5b-4c43-9d1e-{}", pod.name),
            name: pod.name.clone(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            netns: pod.path(),
        })
    }

    pub fn message(&self) -> Vec<u8> {
        message::add(&self.uid, Some([&self.name, &self.namespace, &self.service_account]))
    }
}

impl Cni {
    /// Listens at `path`, in the place of whatever was there.
    pub fn listen(path: &Path) -> Result<Self> {
        fs::remove_file(path).ok();
        let flags = SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let bound = rustix::net::bind(&listener, &SocketAddrUnix::new(path)?);
        bound.with_context(|| path.display().to_string())?;
        rustix::net::listen(&listener, 4)?;
        set_socket_timeout(&listener, Timeout::Recv, Some(PAUSE))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Waits for the next connection and its hello.
    pub fn accept(&self, limit: Duration) -> Result<Link> {
        self.accept_while(limit, || Ok(()))
    }

    /// As [`Cni::accept`], as long as the proxy is `alive`.
    pub fn accept_while(&self, limit: Duration, mut alive: impl FnMut() -> Result<()>) -> Result<Link> {
        let deadline = Instant::now() + limit;
        loop {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Err(Errno::AGAIN) if Instant::now() < deadline => alive()?,
                Err(Errno::AGAIN) => bail!("nobody has asked for the pods within {limit:?}"),
                accepted => return Link::greet(accepted?),
            }
        }
    }
}

impl Drop for Cni {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

impl Link {
    fn greet(connection: OwnedFd) -> Result<Self> {
        let link = Self { connection };
        let hello = link.receive(DEADLINE)?.context("closed before the hello")?;
        ensure!(hello == message::HELLO, "no hello of version 1: {hello:?}");
        Ok(link)
    }

    /// Hands a pod over; an error in the answer is an error.
    pub fn add(&self, pod: &Handed) -> Result<()> {
        self.ask_add(pod, DEADLINE).with_context(|| format!("handing over pod {}", pod.name))
    }

    /// As [`Link::add`], for a proxy that may take longer.
    pub fn ask_add(&self, pod: &Handed, limit: Duration) -> Result<()> {
        let namespace = File::open(&pod.netns)?;
        self.send(&pod.message(), &[namespace.as_fd()])?;
        self.acknowledged(limit)
    }

    /// Asks that a pod be served on.
    pub fn keep(&self, uid: &str) -> Result<()> {
        self.ask(&message::keep(uid))
    }

    /// Takes a pod back.
    pub fn del(&self, uid: &str) -> Result<()> {
        self.ask(&message::del(uid))
    }

    /// Says that all pods were named.
    pub fn snapshot_sent(&self) -> Result<()> {
        self.ask(&message::snapshot_sent())
    }

    /// Names all pods, and says so.
    pub fn snapshot<'a>(&self, pods: impl IntoIterator<Item = &'a Handed>) -> Result<()> {
        pods.into_iter().try_for_each(|pod| self.add(pod))?;
        self.snapshot_sent().context("the end of the snapshot")
    }

    fn ask(&self, message: &[u8]) -> Result<()> {
        self.send(message, &[])?;
        self.acknowledged(DEADLINE)
    }

    /// Sends any bytes, with any descriptors, at most three.
    pub fn send(&self, message: &[u8], rights: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !rights.is_empty() {
            ensure!(control.push(SendAncillaryMessage::ScmRights(rights)), "the descriptors do not fit");
        }
        rustix::net::sendmsg(&self.connection, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the answer to what was sent.
    pub fn acknowledged(&self, limit: Duration) -> Result<()> {
        let answer = self.receive(limit)?.context("the connection was closed instead of an answer")?;
        match message::refusal(&answer)? {
            None => Ok(()),
            Some(error) => Err(anyhow!("refused: {error}")),
        }
    }

    /// Waits until the proxy closes the connection; anything else that comes is an error.
    pub fn closed(&self, limit: Duration) -> Result<()> {
        let end = self.receive(limit).context("waiting for the end of the connection")?;
        end.map_or(Ok(()), |more| bail!("an answer instead of the end: {more:?}"))
    }

    /// Fails if anything has been sent unasked: Istio's CNI agent looks for that all the time, with short reads.
    pub fn silent(&self) -> Result<()> {
        let mut buffer = [0; PACKET];
        match rustix::net::recv(&self.connection, &mut buffer[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => Ok(()),
            Ok((0, _)) => bail!("the connection was closed"),
            Ok((length, _)) => bail!("{length} bytes were sent unasked"),
            Err(error) => Err(error.into()),
        }
    }

    /// One packet; nothing when the connection was closed.
    fn receive(&self, limit: Duration) -> Result<Option<Vec<u8>>> {
        set_socket_timeout(&self.connection, Timeout::Recv, Some(limit))?;
        let mut buffer = vec![0; PACKET];
        let length = match rustix::net::recv(&self.connection, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::AGAIN) => bail!("no packet within {limit:?}"),
            Err(Errno::CONNRESET) | Ok((0, _)) => return Ok(None),
            received => received?.0,
        };
        ensure!(length < PACKET, "a packet of more than 1024 bytes");
        buffer.truncate(length);
        Ok(Some(buffer))
    }
}
