//! Against rustls over a pipe in memory, and against peers that misbehave.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::handshake::{Peer, accept, connect};
use super::stream::Stream;

mod against_rustls;
mod misbehaviour;
mod pieces;

/// Configurations that trust each other. `names` makes the certificate as long as need be.
fn configs(names: usize) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        (0..names).map(|n| SanType::DnsName(format!("host-{n}.example").try_into().unwrap())).collect();
    let certificate = params.self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = || Arc::new(aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    client.enable_secret_extraction = true;
    server.enable_secret_extraction = true;
    (Arc::new(client), Arc::new(server))
}

fn name() -> ServerName<'static> {
    "host-0.example".try_into().unwrap()
}

/// Two of ours over a pipe of `room` bytes.
async fn pair(room: usize) -> (Stream<DuplexStream>, Stream<DuplexStream>) {
    let (client, server) = configs(1);
    let (near, far) = tokio::io::duplex(room);
    let ((near, shown), (far, _)) = tokio::try_join!(connect(client, name(), near), accept(server, far)).unwrap();
    assert_eq!(shown.certificates.map(|chain| chain.len()), Some(1));
    (near, far)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(7) + i / 251) as u8).collect()
}

/// Writes `data` in pieces of all sizes, in the ways that there are of writing.
async fn write_all(stream: &mut (impl AsyncWrite + Unpin), mut data: &[u8]) -> io::Result<()> {
    let mut size = 1;
    while !data.is_empty() {
        let (first, rest) = data.split_at(data.len().min(size));
        let (second, third) = first.split_at(first.len() / 3);
        let pieces = [IoSlice::new(second), IoSlice::new(&[]), IoSlice::new(third)];
        let written =
            if size.is_multiple_of(2) { stream.write(first).await? } else { stream.write_vectored(&pieces).await? };
        assert!(written > 0);
        data = if written < first.len() { &data[written..] } else { rest };
        if size.is_multiple_of(3) {
            stream.flush().await?;
        }
        size = size * 5 % 100_003 + 1;
    }
    stream.shutdown().await
}

/// Reads to the end, in pieces of all sizes.
async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let (mut got, mut size) = (Vec::new(), 1);
    loop {
        let mut piece = vec![0; size];
        match stream.read(&mut piece).await? {
            0 => return Ok(got),
            count => got.extend_from_slice(&piece[..count]),
        }
        size = size * 3 % 70_001 + 1;
    }
}

/// One end's part: everything both ways at once.
async fn talk(stream: impl AsyncRead + AsyncWrite, data: &[u8]) -> io::Result<()> {
    let (mut incoming, mut outgoing) = tokio::io::split(stream);
    let (got, ()) = tokio::try_join!(read_all(&mut incoming), write_all(&mut outgoing, data))?;
    assert!(got == data);
    Ok(())
}

/// Each end talks as soon as its handshake is over: rustls' server sends tickets then, which somebody has to read.
async fn converse<A, B>(
    one: impl Future<Output = io::Result<A>>,
    other: impl Future<Output = io::Result<B>>,
    length: usize,
) where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let data = pattern(length);
    let talking =
        async { tokio::try_join!(async { talk(one.await?, &data).await }, async { talk(other.await?, &data).await }) };
    tokio::time::timeout(LIMIT, talking).await.expect("they wait for each other").unwrap();
}

async fn ours(
    shaking: impl Future<Output = io::Result<(Stream<DuplexStream>, Peer)>>,
) -> io::Result<Stream<DuplexStream>> {
    Ok(shaking.await?.0)
}

const LIMIT: Duration = Duration::from_secs(20);
