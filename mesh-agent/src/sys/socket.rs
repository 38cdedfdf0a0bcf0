//! Sockets as the mesh needs them: marked, transparent, and opened inside a pod's namespace by the caller
//! (see [`super::netns::Netns::run`]).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use mesh_common::abi::AGENT_MARK;
use rustix::net::sockopt::{ip_original_dst, ipv6_original_dst};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::unix::AsyncFd;

/// Accept queue of a pod's listeners; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Keep-alive of application and outgoing sockets, as the process was told at its start.
static KEEPALIVE: OnceLock<Option<TcpKeepalive>> = OnceLock::new();

/// Probes on connections that say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, and between two; whole seconds.
    pub time: Duration,
    pub interval: Duration,
    /// Unanswered probes before the connection counts as dead.
    pub retries: u32,
}

impl Default for Keepalive {
    /// Protocol note, section 5.8.
    fn default() -> Self {
        Self { time: Duration::from_secs(180), interval: Duration::from_secs(180), retries: 9 }
    }
}

impl Keepalive {
    fn option(self) -> TcpKeepalive {
        TcpKeepalive::new().with_time(self.time).with_interval(self.interval).with_retries(self.retries)
    }
}

/// Says what sockets from now on have; without, there are no probes. Only the first call counts, which is made before the
/// first pod is served.
pub fn keep_alive(how: Option<Keepalive>) {
    KEEPALIVE.set(how.map(Keepalive::option)).ok();
}

/// Opens a listener on `port` of every address, v6 and v4 alike (v4 alone where v6 is off), in the thread's namespace.
///
/// It carries the agent's mark (so does every socket accepted from it), takes connections to addresses that are not
/// local, and shares the port with the other shards' listeners and with the next generation's. Of those, the one at `home`
/// on the core that a connection comes up on takes it (`SO_INCOMING_CPU`, socket(7); among listeners that share a port since
/// Linux 6.2, before which it changes nothing); where none is at home, they take turns by the connection's addresses.
pub fn listen(port: u16, home: Option<usize>) -> io::Result<TcpListener> {
    match listen_on(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), home) {
        Err(e) if v6_is_off(&e) => listen_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), home),
        other => other,
    }
}

fn listen_on(address: SocketAddr, home: Option<usize>) -> io::Result<TcpListener> {
    let socket = new_socket(address.ip())?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    set_transparent(&socket, address.ip())?;
    if home.is_some() {
        set_home(socket.as_fd(), home)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Has a listener of [`listen`] take what comes up on that core; none: its turn of what comes up on any.
pub fn set_home(listener: BorrowedFd<'_>, home: Option<usize>) -> io::Result<()> {
    // As i32 the kernel reads u32::MAX: -1, nowhere.
    let core = home.map_or(Ok(u32::MAX), u32::try_from).map_err(io::Error::other)?;
    set_option(&SockRef::from(&listener), libc::SOL_SOCKET, libc::SO_INCOMING_CPU, core)
}

pub(super) fn v6_is_off(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Whose address an outgoing connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The pod's own, as routing chooses it.
    Own,
    /// This address, though it is not local (port chosen by the kernel when it connects).
    Of(IpAddr),
    /// The same, from a port that no client has been given by its own kernel, as these are usually set.
    Apart(IpAddr),
}

/// Ports above those that Linux gives to clients by itself (`net.ipv4.ip_local_port_range`), the lowest one in the lower half
/// (`IP_LOCAL_PORT_RANGE`, ip(7), Linux 6.3).
const APART: u32 = 61000 | 65535 << 16;
/// linux/in.h
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Starts a non-blocking connect to `to` in the thread's namespace. The socket carries the agent's mark.
pub fn start_connect(source: Source, to: SocketAddr) -> io::Result<std::net::TcpStream> {
    let socket = new_socket(to.ip())?;
    if let Source::Of(ip) | Source::Apart(ip) = source {
        set_transparent(&socket, ip)?;
        if let Source::Apart(_) = source {
            // An older kernel draws from all; the two then meet about once in thirty thousand connections.
            set_option(&socket, libc::SOL_IP, IP_LOCAL_PORT_RANGE, APART).ok();
        }
        // The port is drawn at connect time from the whole 4-tuple, so one client can have more than 64k connections.
        turn_on(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT)?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    begin(&socket, to)?;
    Ok(socket.into())
}

/// Starts a non-blocking connect as an application of the thread's namespace does: the socket has no mark.
pub fn start_application_connect(to: SocketAddr) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    begin(&socket, to)?;
    Ok(socket.into())
}

fn begin(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(()),
    }
}

/// Bytes of a tunnel that wait in the kernel for their turn on the wire. More only delays streams that have little to send
/// behind those that have much: where the streams take turns is above the socket.
const TUNNEL_UNSENT: u32 = 128 << 10;

/// Prepares a connection to carry many streams.
pub fn carry_streams(socket: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_notsent_lowat(TUNNEL_UNSENT)
}

/// Whether the address is one of the thread's namespace; what cannot be found out counts as one.
pub fn is_local(ip: IpAddr) -> bool {
    let bound = std::net::UdpSocket::bind((ip, 0));
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable || v6_is_off(&error))
}

/// Where the client of an accepted connection wanted to go, for connections that rules of netfilter have redirected here
/// (`SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`). Always canonical: never v4-mapped v6. A connection that no rule has
/// touched gives its own local address; one that connection tracking does not know is an error.
pub fn original_destination(accepted: impl AsFd) -> io::Result<SocketAddr> {
    let local = SockRef::from(&accepted).local_addr()?.as_socket();
    // A socket of both families has a mapped address for a connection of IPv4, which only IPv4's option knows.
    let v4 = local.is_some_and(|local| local.ip().to_canonical().is_ipv4());
    let wanted: SocketAddr = if v4 { ip_original_dst(&accepted)?.into() } else { ipv6_original_dst(&accepted)?.into() };
    Ok(SocketAddr::new(wanted.ip(), wanted.port()))
}

/// Has the present runtime wait for a non-blocking descriptor.
#[expect(unsafe_code, reason = "the runtime must be able to rely on the descriptor")]
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, which only the `AsyncFd` can do from now on,
    // after it has stopped watching.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// A socket of the thread's namespace, to ask the kernel about it.
pub fn any_socket() -> io::Result<std::net::UdpSocket> {
    Socket::new(Domain::IPV4, Type::DGRAM, None).map(Into::into)
}

fn new_socket(family_of: IpAddr) -> io::Result<Socket> {
    let domain = if family_of.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_mark(AGENT_MARK)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = KEEPALIVE.get_or_init(|| Some(Keepalive::default().option())) {
        socket.set_tcp_keepalive(keepalive)?;
    }
    Ok(socket)
}

fn set_transparent(socket: &Socket, family_of: IpAddr) -> io::Result<()> {
    match family_of {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => turn_on(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    }
}

/// Sets a boolean socket option that socket2 has no wrapper for.
fn turn_on(socket: &Socket, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    set_option(socket, level, option, 1)
}

#[expect(unsafe_code, reason = "setsockopt(2) without a wrapper")]
fn set_option(socket: &Socket, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as `socket` lives, and the option value is an integer of the given size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SO_NETNS_COOKIE` (Linux 5.14): the number by which BPF programs know the socket's network namespace.
#[expect(unsafe_code, reason = "getsockopt(2) without a wrapper")]
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so it is open; the value and its size belong together and outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut size)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
