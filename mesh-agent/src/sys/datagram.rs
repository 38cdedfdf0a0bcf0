//! UDP for whoever takes another's place: datagrams with the address that they were sent to, and answers in the name of
//! any address. The caller opens the sockets inside the pod's namespace (see [`super::netns::Netns::run`]).
//!
//! Answers go out by a raw socket. One bound to the port of the name that it answers in would be simpler, but then no
//! application of the pod could listen on that port: a pod may be a name server itself.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

use mesh_common::abi::AGENT_MARK;
use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, Protocol, SockAddr, SockRef, Socket, Type};

use super::packet;
use super::socket::v6_is_off;

/// Bytes of datagrams that may wait in the kernel: at 5,000 a second a tenth of a second's and more.
const WAITING: libc::c_int = 1 << 20;

/// Room for the control messages of one datagram: one address, and some more.
const CONTROL: usize = 128;

/// What is known of a received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was sent to, which need not be an address of this machine.
    pub to: SocketAddr,
}

/// Opens sockets for [`receive`] on `port` of both loopback addresses; IPv4 alone where IPv6 is off. Nobody outside the pod
/// reaches them, but the kernel's hooks can give them what was meant for others. They carry the agent's mark, and share the
/// port with the other shards' and with the next generation's.
pub fn bind(port: u16) -> io::Result<Vec<UdpSocket>> {
    let v4 = bind_to(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))?;
    match bind_to(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port)) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if v6_is_off(&error) => Ok(vec![v4]),
        Err(error) => Err(error),
    }
}

fn bind_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_RECVORIGDSTADDR),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR),
    };
    let socket = new_datagram_socket(address.ip())?;
    socket.set_reuse_port(true)?;
    set(&socket, level, option, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, WAITING)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Takes the next datagram from a socket of [`bind`], if one is there; what does not fit into `buffer` is cut off.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [MaybeUninit::new(0); CONTROL];
    // Room for either family; the kernel says which one it is.
    let mut from = SockAddr::from(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0));
    let (length, used) = {
        let mut parts = [MaybeUninitSlice::new(as_uninit(buffer))];
        let mut message = MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut parts).with_control(&mut control);
        let length = SockRef::from(&socket).recvmsg(&mut message, 0)?;
        (length, message.control_len())
    };
    let to = original_destination(as_init(&control).get(..used).unwrap_or_default());
    match (from.as_socket(), to) {
        (Some(from), Some(to)) => Ok(Received { length, from, to }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram without its addresses")),
    }
}

/// Sends datagrams in the name of any address.
#[derive(Debug)]
pub struct Answers {
    v4: Socket,
    /// None where IPv6 is off.
    v6: Option<Socket>,
}

impl Answers {
    pub fn open() -> io::Result<Self> {
        let v6 = match raw(Domain::IPV6) {
            Ok(socket) => Some(socket),
            Err(error) if v6_is_off(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4: raw(Domain::IPV4)?, v6 })
    }

    /// Sends `payload` from `from`, which need not be an address of this machine, to `to`, in one packet. When the
    /// kernel has no room for it at the moment, it is lost, as datagrams may be.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let packet = packet::datagram(from, to, payload)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a datagram of two families, or too long"))?;
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
        // Of a raw socket's address the port means something else.
        socket.send_to(&packet, &SockAddr::from(SocketAddr::new(to.ip(), 0))).map(drop)
    }
}

/// A socket that sends whole IP packets as they are given, and receives none.
fn raw(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_mark(AGENT_MARK)?;
    Ok(socket)
}

/// A socket of the thread's namespace for datagrams to and from `peer` alone, on a port that the kernel draws. It carries
/// the agent's mark.
pub fn connected(peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new_datagram_socket(peer.ip())?;
    socket.connect(&peer.into())?;
    Ok(socket.into())
}

fn new_datagram_socket(family_of: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address((family_of, 0).into()), Type::DGRAM.nonblocking().cloexec(), None)?;
    if family_of.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_mark(AGENT_MARK)?;
    Ok(socket)
}

/// The address in the control messages of a received datagram.
fn original_destination(control: &[u8]) -> Option<SocketAddr> {
    messages(control).find_map(|(level, kind, data)| match (level, kind) {
        (libc::SOL_IP, libc::IP_ORIGDSTADDR) => {
            let port = u16::from_be_bytes(bytes(data, 2)?);
            Some(SocketAddrV4::new(Ipv4Addr::from(bytes::<4>(data, 4)?), port).into())
        }
        (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => {
            let port = u16::from_be_bytes(bytes(data, 2)?);
            let scope = u32::from_ne_bytes(bytes(data, 24)?);
            Some(SocketAddrV6::new(Ipv6Addr::from(bytes::<16>(data, 8)?), port, 0, scope).into())
        }
        _ => None,
    })
}

/// Level, kind and data of each control message (cmsg(3)): a length that counts the header, level, kind, then the data, and
/// the next one at the next multiple of a word.
fn messages(mut control: &[u8]) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = (size_of::<libc::cmsghdr>()).next_multiple_of(WORD);
    std::iter::from_fn(move || {
        let length = usize::from_ne_bytes(bytes(control, 0)?);
        let (level, kind) = (bytes(control, WORD)?, bytes(control, WORD + size_of::<libc::c_int>())?);
        let data = control.get(HEADER..length)?;
        control = control.get(length.next_multiple_of(WORD)..).unwrap_or_default();
        Some((libc::c_int::from_ne_bytes(level), libc::c_int::from_ne_bytes(kind), data))
    })
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[expect(unsafe_code, reason = "a view of the same bytes under another type")]
fn as_uninit(buffer: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the layouts are the same, and recvmsg(2), for which the view is, never makes a byte uninitialised.
    unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) }
}

#[expect(unsafe_code, reason = "a view of the same bytes under another type")]
fn as_init(buffer: &[MaybeUninit<u8>; CONTROL]) -> &[u8] {
    // SAFETY: the layouts are the same; the only caller has initialised all of it.
    unsafe { &*(std::ptr::from_ref::<[MaybeUninit<u8>]>(buffer) as *const [u8]) }
}

/// Sets an integer socket option that socket2 has no wrapper for.
#[expect(unsafe_code, reason = "setsockopt(2) without a wrapper")]
fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` lives, and the option's value is a c_int of the given size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{messages, original_destination};

    /// A control message as the kernel lays it out, with what it leaves between two of them.
    fn message(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Vec<u8> {
        let mut message = (16 + data.len()).to_ne_bytes().to_vec();
        message.extend(level.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(data);
        message.resize(message.len().next_multiple_of(8), 0xee);
        message
    }

    fn v4() -> Vec<u8> {
        let mut data = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        data.extend([0, 53, 10, 96, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
        message(libc::SOL_IP, libc::IP_ORIGDSTADDR, &data)
    }

    fn v6() -> Vec<u8> {
        let mut data = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
        data.extend([0x3a, 0xcd, 1, 2, 3, 4, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        data.extend(7u32.to_ne_bytes());
        message(libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR, &data)
    }

    #[test]
    fn the_destination_is_among_the_messages() {
        let other = message(libc::SOL_SOCKET, 1, b"abc");
        let read = |control: &[u8]| original_destination(control).map(|address| address.to_string());
        assert_eq!(read(&v4()).as_deref(), Some("10.96.0.10:53"));
        assert_eq!(read(&[other.clone(), v4()].concat()).as_deref(), Some("10.96.0.10:53"));
        assert_eq!(read(&[other.clone(), v6(), other.clone()].concat()).as_deref(), Some("[fd00::9%7]:15053"));
        assert_eq!(read(&other), None);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&v4()[..20]), None);
    }

    proptest! {
        #[test]
        fn control_messages_of_any_form_end(control in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&control).count() <= control.len());
            original_destination(&control);
        }
    }
}
