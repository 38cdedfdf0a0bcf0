//! The handshake, which is rustls': bytes are carried to it and from it, record by record, so that nothing is in its hands
//! when it has agreed on the keys.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ConnectionTrafficSecrets, Error, ExtractedSecrets, ServerConfig, Side};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::keys::{Frame, Opener, Sealer};
use super::reading::Reading;
use super::stream::Stream;
use super::writing::Writing;

/// Most bytes of a flight that is not complete: rustls takes messages of 64 KiB.
const MOST_WAITING: usize = 128 << 10;
/// Bytes that are read at once.
const READ: usize = 4 << 10;

/// What a handshake has shown of the peer.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its leaf and intermediates; none if it has shown none.
    pub certificates: Option<Vec<CertificateDer<'static>>>,
}

/// The client's handshake with `name`. Its `config` has to allow that secrets are extracted.
///
/// # Errors
/// The peer's mistakes and rustls' verdicts as [`rustls::Error`] within.
pub async fn connect<T>(config: Arc<ClientConfig>, name: ServerName<'static>, io: T) -> io::Result<(Stream<T>, Peer)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // Boxed: what it holds is large, and gone after it.
    Box::pin(shake(UnbufferedClientConnection::new(config, name).map_err(failed)?, io)).await
}

/// The server's handshake; see [`connect`].
///
/// # Errors
/// As [`connect`].
pub async fn accept<T>(config: Arc<ServerConfig>, io: T) -> io::Result<(Stream<T>, Peer)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    Box::pin(shake(UnbufferedServerConnection::new(config).map_err(failed)?, io)).await
}

/// As tokio-rustls has it, for whoever looks for the reason.
pub(super) fn failed(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Either end.
trait End {
    type Data;
    const SIDE: Side;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error>;
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const SIDE: Side = Side::Client;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Client(Box::new(keys))))
    }
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const SIDE: Side = Side::Server;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, Keys::Server(Box::new(keys))))
    }
}

/// What rustls keeps: from what the next keys are derived.
pub(super) enum Keys {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Our next key, and its first record's number.
    pub(super) fn next_to_write(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_tx_secret(),
            Self::Server(keys) => keys.update_tx_secret(),
        }
    }

    /// The peer's.
    pub(super) fn next_to_read(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(keys) => keys.update_rx_secret(),
            Self::Server(keys) => keys.update_rx_secret(),
        }
    }
}

/// What has come and what is to go.
#[derive(Debug, Default)]
struct Flights {
    incoming: Vec<u8>,
    /// Of the incoming bytes, those that rustls may see: whole records, no more than it needs.
    shown: usize,
    outgoing: Vec<u8>,
    /// Why nothing can be written any more. What the peer has said before it left says more.
    broken: Option<io::Error>,
}

/// What rustls wants next.
enum Want {
    Turn,
    Write,
    Read,
    Nothing,
    /// The peer has given up.
    Closed,
}

async fn shake<E: End, T: AsyncRead + AsyncWrite + Unpin>(mut end: E, mut io: T) -> io::Result<(Stream<T>, Peer)> {
    let mut flights = Flights::default();
    loop {
        match flights.turn(&mut end) {
            Ok(Want::Turn) => {}
            Ok(Want::Write) => flights.write(&mut io).await,
            Ok(Want::Read) => flights.read(&mut io).await?,
            Ok(Want::Nothing) => break,
            Ok(Want::Closed) => return Err(ended()),
            Err(error) => {
                flights.complain(&mut end, &mut io).await;
                return Err(failed(error));
            }
        }
    }
    if let Some(error) = flights.broken {
        return Err(error);
    }
    let peer = Peer { certificates: end.common().peer_certificates().map(<[_]>::to_vec) };
    let (secrets, keys) = end.into_keys().map_err(failed)?;
    let reading = Reading::new(Opener::new(secrets.rx).map_err(failed)?, E::SIDE, &flights.incoming);
    let writing = Writing::new(Sealer::new(secrets.tx).map_err(failed)?);
    Ok((Stream::new(io, reading, writing, keys), peer))
}

impl Flights {
    fn turn<E: End>(&mut self, end: &mut E) -> Result<Want, Error> {
        let UnbufferedStatus { discard, state } = end.process(&mut self.incoming[..self.shown]);
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                self.discard(discard);
                return Err(error);
            }
        };
        let (want, blocked) = match state {
            ConnectionState::EncodeTlsData(data) => {
                encode(data, &mut self.outgoing)?;
                (Want::Turn, false)
            }
            // To be acknowledged before it has happened: if it does not, the handshake is over.
            ConnectionState::TransmitTlsData(sent) => {
                sent.done();
                (Want::Write, false)
            }
            ConnectionState::PeerClosed | ConnectionState::Closed => return Ok(Want::Closed),
            ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => (Want::Turn, true),
            // Data cannot come before the last record of a handshake, which is the last that is shown.
            other @ (ConnectionState::ReadTraffic(_) | ConnectionState::ReadEarlyData(_) | _) => {
                return Err(Error::General(format!("{other:?} in a handshake")));
            }
        };
        self.discard(discard);
        if !blocked {
            return Ok(want);
        }
        if !end.common().is_handshaking() {
            return Ok(Want::Nothing);
        }
        self.show()
    }

    fn discard(&mut self, count: usize) {
        self.incoming.drain(..count);
        self.shown -= count;
    }

    /// Shows one record more, once it is there; what does not look like one is shown for a verdict.
    fn show(&mut self) -> Result<Want, Error> {
        let rest = &self.incoming[self.shown..];
        self.shown = match Frame::of(rest) {
            Ok(Some(frame)) => self.shown + frame.length(),
            Ok(None) if self.incoming.len() > MOST_WAITING => return Err(Error::PeerSentOversizedRecord),
            Ok(None) if is_tls(rest) => return Ok(Want::Read),
            Ok(None) | Err(_) => self.incoming.len(),
        };
        Ok(Want::Turn)
    }

    async fn read<T: AsyncRead + Unpin>(&mut self, io: &mut T) -> io::Result<()> {
        self.incoming.reserve(READ);
        match io.read_buf(&mut self.incoming).await {
            Ok(count) if count > 0 => Ok(()),
            read => Err(self.broken.take().or(read.err()).unwrap_or_else(ended)),
        }
    }

    /// Writes what is to go. While that has to wait, what comes is read: the peer may be waiting for the same.
    async fn write<T: AsyncRead + AsyncWrite + Unpin>(&mut self, io: &mut T) {
        let (mut reader, mut writer) = tokio::io::split(io);
        let Self { incoming, outgoing, broken, .. } = self;
        let writing = async {
            writer.write_all(outgoing).await?;
            writer.flush().await
        };
        let mut writing = pin!(writing);
        let mut more = broken.is_none();
        let written = loop {
            tokio::select! {
                biased;
                written = &mut writing => break written,
                read = reader.read_buf(incoming), if more => {
                    more = read.is_ok_and(|count| count > 0) && incoming.len() < MOST_WAITING;
                }
            }
        };
        *broken = broken.take().or(written.err());
        outgoing.clear();
    }

    /// Tells the peer why, if rustls has a word for it and the peer still listens.
    async fn complain<E: End, T: AsyncRead + AsyncWrite + Unpin>(&mut self, end: &mut E, io: &mut T) {
        // No further than to what it has to say: what has come is judged already.
        while end.common().wants_write() {
            let Ok(ConnectionState::EncodeTlsData(data)) = end.process(&mut []).state else { return };
            if encode(data, &mut self.outgoing).is_err() {
                return;
            }
        }
        self.write(io).await;
    }
}

/// Whether a record begins so, as far as can be seen: with one of its types and its major version.
fn is_tls(bytes: &[u8]) -> bool {
    bytes.iter().zip([20..=24, 3..=3]).all(|(byte, allowed)| allowed.contains(byte))
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Result<(), Error> {
    let before = outgoing.len();
    let count = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
            outgoing.resize(before + required_size, 0);
            data.encode(&mut outgoing[before..])
        }
        other => other,
    };
    let count = count.map_err(|error| Error::General(error.to_string()))?;
    outgoing.truncate(before + count);
    Ok(())
}
