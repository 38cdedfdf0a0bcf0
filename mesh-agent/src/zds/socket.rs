//! The Unix socket to the CNI agent: packets with boundaries, and file descriptors beside their bytes (protocol note,
//! section 10.1).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::wire::PACKET;
use crate::sys::socket::watched;

/// How long the CNI agent may take to make room for a packet.
const SEND: Duration = Duration::from_secs(5);
/// Room for one descriptor more than any good packet has: that one is seen. The kernel closes those that do not fit.
const DESCRIPTORS: usize = 2;

/// A connection.
#[derive(Debug)]
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
}

/// What came in one packet. The descriptors are closed with it.
#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Socket {
    /// Connects to the socket at `path`, which succeeds or fails at once.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self { fd: watched(fd)? })
    }

    /// Sends one packet.
    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let send = |fd: &OwnedFd| Ok(rustix::net::send(fd, bytes, SendFlags::NOSIGNAL)?);
        match tokio::time::timeout(SEND, self.fd.async_io(Interest::WRITABLE, send)).await {
            Ok(sent) => sent.map(drop),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the other side does not read")),
        }
    }

    /// Waits for the next packet; none comes any more once the other side has closed the connection. Nothing is lost when
    /// the waiting is given up.
    pub(super) async fn receive(&self) -> io::Result<Option<Packet>> {
        self.fd.async_io(Interest::READABLE, receive).await
    }
}

fn receive(fd: &OwnedFd) -> io::Result<Option<Packet>> {
    let mut bytes = [0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(fd, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let bad = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    if received.flags.contains(ReturnFlags::TRUNC) {
        return bad("a packet of more than 1024 bytes");
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return bad("a packet with many file descriptors");
    }
    let bytes = bytes.get(..received.bytes).unwrap_or_default().to_vec();
    Ok(if bytes.is_empty() { None } else { Some(Packet { bytes, descriptors }) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSlice;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::path::PathBuf;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};

    use super::*;

    /// A socket that a client will connect to, and its path.
    fn listen(directory: &Path) -> (OwnedFd, PathBuf) {
        let path = directory.join("zds.sock");
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        (listener, path)
    }

    fn pair(directory: &Path) -> (OwnedFd, Socket) {
        let (listener, path) = listen(directory);
        let socket = Socket::connect(&path).unwrap();
        (rustix::net::accept(&listener).unwrap(), socket)
    }

    fn send(peer: &OwnedFd, bytes: &[u8], rights: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(rights.is_empty() || control.push(SendAncillaryMessage::ScmRights(rights)));
        rustix::net::sendmsg(peer, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    fn open_files() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[tokio::test]
    async fn packets_keep_their_boundaries_and_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        let (peer, socket) = pair(directory.path());
        socket.send(b"hello").await.unwrap();
        socket.send(b"again").await.unwrap();
        for expected in [b"hello", b"again"] {
            let mut buffer = [0; 64];
            let (length, _) = rustix::net::recv(&peer, &mut buffer[..], RecvFlags::empty()).unwrap();
            assert_eq!(&buffer[..length], expected, "one packet at a time");
        }
        let file = File::open(directory.path()).unwrap();
        send(&peer, b"none", &[]);
        send(&peer, b"one", &[file.as_fd()]);
        send(&peer, b"two", &[file.as_fd(); 2]);
        for (expected, count) in [("none", 0), ("one", 1), ("two", 2)] {
            let packet = socket.receive().await.unwrap().unwrap();
            assert_eq!((packet.bytes.as_slice(), packet.descriptors.len()), (expected.as_bytes(), count));
            for fd in &packet.descriptors {
                let flags = rustix::io::fcntl_getfd(fd).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{expected}: a child would inherit it");
            }
        }
        drop(peer);
        assert!(socket.receive().await.unwrap().is_none(), "the end");
    }

    #[tokio::test]
    async fn what_is_too_much_is_an_error_and_leaves_nothing_open() {
        let directory = tempfile::tempdir().unwrap();
        let (peer, socket) = pair(directory.path());
        let file = File::open(directory.path()).unwrap();
        let before = open_files();
        send(&peer, b"many", &[file.as_fd(); 8]);
        let error = socket.receive().await.unwrap_err().to_string();
        assert!(error.contains("many file descriptors"), "{error}");
        send(&peer, &[0; PACKET + 1], &[file.as_fd()]);
        let error = socket.receive().await.unwrap_err().to_string();
        assert!(error.contains("more than 1024 bytes"), "{error}");
        send(&peer, &[0; PACKET], &[file.as_fd(); 2]);
        assert_eq!(socket.receive().await.unwrap().unwrap().bytes.len(), PACKET);
        // Other tests open files as well; a leak here would be ten.
        assert!(open_files() < before + 9, "{} open files, {before} before", open_files());
    }

    #[tokio::test]
    async fn nobody_there_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Socket::connect(&directory.path().join("nothing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let (listener, path) = listen(directory.path());
        drop(listener);
        assert_eq!(Socket::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let long = directory.path().join("x".repeat(200));
        assert!(Socket::connect(&long).is_err());
    }
}
