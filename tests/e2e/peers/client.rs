//! A foreign client of the HBONE port: TLS and HTTP/2 that are not the agent's.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode, Uri};
use mesh_e2e::{Lab, Namespace};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long the agent may take for anything that it does at once.
pub(crate) const SOON: Duration = Duration::from_secs(5);

pub(crate) const HBONE: u16 = 15008;

/// An open tunnel. Things happen on it only while one of its functions runs.
#[derive(Debug)]
pub(crate) struct Tunnel {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
    /// The server's certificate, DER.
    pub(crate) server: Vec<u8>,
}

/// The answer to a request, and the stream if it goes on.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) baggage: Option<String>,
    pub(crate) send: SendStream<Bytes>,
    pub(crate) receive: RecvStream,
}

impl Tunnel {
    pub(crate) fn open(from: &Namespace, to: SocketAddr, config: Arc<ClientConfig>) -> Result<Self> {
        let tcp = from.connect(to)?;
        tcp.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shaking = async {
            let tcp = tokio::net::TcpStream::from_std(tcp)?;
            let name = ServerName::from(to.ip());
            let tls = TlsConnector::from(config).connect(name, tcp).await.context("tls")?;
            let server = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
            let (requests, connection) = h2::client::handshake(tls).await.context("http2")?;
            anyhow::Ok((requests, connection, server.unwrap_or_default()))
        };
        let shaken = runtime.block_on(async { timeout(SOON, shaking).await })?;
        let (requests, connection, server) = shaken?;
        // Its errors come out at the requests.
        drop(runtime.spawn(async move { connection.await.ok() }));
        Ok(Self { runtime, requests, server })
    }

    /// Sends a request without a body's end and waits for the head of its answer.
    pub(crate) fn ask(&mut self, request: Request<()>) -> Result<Answer> {
        let asking = async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, send) = requests.send_request(request, false)?;
            let (head, receive) = response.await?.into_parts();
            let baggage = head.headers.get("baggage").and_then(|value| value.to_str().ok()).map(str::to_owned);
            anyhow::Ok(Answer { status: head.status, baggage, send, receive })
        };
        self.runtime.block_on(async { timeout(SOON, asking).await }).context("no answer")?
    }

    /// CONNECT to `authority`.
    pub(crate) fn connect(&mut self, authority: &str) -> Result<Answer> {
        self.ask(connect_to(authority)?)
    }

    /// Sends bytes on a stream and waits for as many.
    pub(crate) fn exchange(&mut self, answer: &mut Answer, text: &str) -> Result<String> {
        let talking = async {
            answer.send.send_data(Bytes::copy_from_slice(text.as_bytes()), false)?;
            let mut got = Vec::new();
            while got.len() < text.len() {
                let data = answer.receive.data().await.context("the stream has ended")??;
                answer.receive.flow_control().release_capacity(data.len())?;
                got.extend_from_slice(&data);
            }
            anyhow::Ok(String::from_utf8_lossy(&got).into_owned())
        };
        self.runtime.block_on(async { timeout(SOON, talking).await }).context("no echo")?
    }

    /// Ends our side, and waits for the end of the other.
    pub(crate) fn finish(&mut self, answer: &mut Answer) -> Result<()> {
        answer.send.send_data(Bytes::new(), true)?;
        self.rest(answer).map(drop)
    }

    /// All that comes until the stream's end.
    pub(crate) fn rest(&mut self, answer: &mut Answer) -> Result<String> {
        let reading = async {
            let mut got = Vec::new();
            while let Some(data) = answer.receive.data().await {
                got.extend_from_slice(&data?);
            }
            anyhow::Ok(String::from_utf8_lossy(&got).into_owned())
        };
        self.runtime.block_on(async { timeout(SOON, reading).await }).context("the stream does not end")?
    }
}

/// A CONNECT request.
pub(crate) fn connect_to(authority: &str) -> Result<Request<()>> {
    let uri = Uri::builder().authority(authority).build()?;
    Ok(Request::builder().method(Method::CONNECT).uri(uri).body(())?)
}

/// A TLS connection for bytes of our own making.
pub(crate) fn raw(
    from: &Namespace,
    to: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut tcp = from.connect(to)?;
    tcp.set_read_timeout(Some(SOON))?;
    tcp.set_write_timeout(Some(SOON))?;
    let mut tls = ClientConnection::new(config, ServerName::from(to.ip()))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).context("tls")?;
    }
    Ok(StreamOwned::new(tls, tcp))
}

/// The agent goes on: a captured client reaches a captured server.
pub(crate) fn still_serving(lab: &Lab) -> Result<()> {
    let stream = lab.pod("alice").connect(lab.pod("server").at4(80))?;
    stream.set_read_timeout(Some(SOON))?;
    let echo = mesh_e2e::socket::exchange(&stream, "all right?").context("the agent does not go on serving")?;
    ensure!(echo == "all right?", "other bytes came back");
    Ok(())
}
