//! The other end is rustls' own.

use std::future::ready;
use std::io::ErrorKind;
use std::sync::Arc;

use rustls::ClientConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{accept, configs, connect, converse, name, ours, pair};
use crate::tls::buffer;

/// Pipes that hold this much, and how much goes through them.
const PIPES: [(usize, usize); 4] = [(1, 20_000), (7, 50_000), (1000, 300_000), (1 << 20, 3_000_000)];

#[tokio::test]
async fn as_client() {
    let (client, server) = configs(1);
    for (room, length) in PIPES {
        let (near, far) = tokio::io::duplex(room);
        let accepting = TlsAcceptor::from(Arc::clone(&server)).accept(far);
        Box::pin(converse(ours(connect(Arc::clone(&client), name(), near)), accepting, length)).await;
    }
}

#[tokio::test]
async fn as_server() {
    let (client, server) = configs(1);
    for (room, length) in PIPES {
        let (near, far) = tokio::io::duplex(room);
        let connecting = TlsConnector::from(Arc::clone(&client)).connect(name(), far);
        Box::pin(converse(ours(accept(Arc::clone(&server), near)), connecting, length)).await;
    }
}

#[tokio::test]
async fn messages_of_several_records() {
    let (client, server) = configs(2000);
    for room in [1, 100, 1 << 20] {
        let (near, far) = tokio::io::duplex(room);
        let (client, server) = (Arc::clone(&client), Arc::clone(&server));
        let connecting = async {
            let (stream, shown) = connect(client, name(), near).await?;
            assert!(shown.certificates.unwrap()[0].len() > 2 * 16384);
            Ok(stream)
        };
        Box::pin(converse(connecting, ours(accept(server, far)), 1000)).await;
    }
}

/// A client of rustls', and us as its server.
async fn served() -> (tokio_rustls::client::TlsStream<DuplexStream>, crate::tls::stream::Stream<DuplexStream>) {
    let (client, server) = configs(1);
    let (near, far) = tokio::io::duplex(1 << 16);
    let connecting = TlsConnector::from(client).connect(name(), far);
    let ((ours, _), theirs) = tokio::try_join!(accept(server, near), connecting).unwrap();
    (theirs, ours)
}

#[tokio::test]
async fn rustls_changes_its_keys() {
    let (mut theirs, mut ours) = served().await;
    for round in 0..100_u8 {
        let session: &mut ClientConnection = theirs.get_mut().1;
        session.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round; 20_000]).await.unwrap();
        theirs.flush().await.unwrap();
        let mut got = vec![0; 20_000];
        ours.read_exact(&mut got).await.unwrap();
        assert!(got.iter().all(|byte| *byte == round));
        // It has asked us to follow.
        ours.write_all(&[round; 3]).await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut got[..3]).await.unwrap();
        assert_eq!(got[..3], [round; 3]);
    }
}

#[tokio::test]
async fn we_change_ours_before_they_are_worn() {
    let (theirs, mut ours) = served().await;
    ours.writing().wear_after(3);
    Box::pin(converse(ready(Ok(theirs)), ready(Ok(ours)), 500_000)).await;
}

#[tokio::test]
async fn an_end_without_a_word_is_no_end() {
    let (theirs, mut ours) = served().await;
    drop(theirs.into_inner().0);
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn ends_are_of_one_direction() {
    let (mut theirs, mut ours) = served().await;
    theirs.write_all(b"x").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut room = [0; 10];
    // Data and end arrive together and are told one after the other, the end more than once.
    let counts =
        [ours.read(&mut room).await.unwrap(), ours.read(&mut room).await.unwrap(), ours.read(&mut room).await.unwrap()];
    assert_eq!(counts, [1, 0, 0]);
    ours.write_all(b"yz").await.unwrap();
    ours.shutdown().await.unwrap();
    assert_eq!(ours.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(theirs.read(&mut room).await.unwrap(), 2);
    assert_eq!(theirs.read(&mut room).await.unwrap(), 0);
}

/// Half a record holds half a record's memory; none holds none.
#[tokio::test]
async fn memory_is_held_for_what_is_there() {
    let (mut near, mut far) = pair(1 << 20).await;
    near.write_all(&[1; 40_000]).await.unwrap();
    near.flush().await.unwrap();
    let mut got = vec![0; 40_000];
    far.read_exact(&mut got).await.unwrap();
    let waiting = buffer::spare();
    assert!(waiting > 0, "nobody has one");
    let reading = tokio::time::timeout(std::time::Duration::from_millis(10), far.read(&mut got));
    assert!(reading.await.is_err(), "there is nothing");
    assert_eq!(buffer::spare(), waiting);
}
