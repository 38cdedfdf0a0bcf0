//! Peers that hold the keys and misuse them, and whoever sits on the wire and does not.

use rustls::{AlertDescription, ContentType, Error, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::pair;
use crate::tls::stream::Stream;

type Record<'a> = (ContentType, &'a [u8]);

fn reason(error: &std::io::Error) -> Error {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("an error of TLS").clone()
}

/// Says `records` with the right keys, then one byte of data.
async fn say(peer: &mut Stream<DuplexStream>, records: &[Record<'_>]) {
    for (kind, words) in records {
        peer.writing().say(*kind, words).unwrap();
    }
    peer.write_all(b"x").await.unwrap();
    peer.flush().await.unwrap();
}

const UPDATE: &[u8] = &[24, 0, 0, 1, 0];
const HANDSHAKE: ContentType = ContentType::Handshake;

/// One of ours that hears `records` from the other end: what it makes of them, and what it answers.
async fn heard(side: Side, records: &[Record<'_>]) -> Result<u8, (Error, AlertDescription)> {
    let (client, server) = pair(1 << 20).await;
    let (mut peer, mut ours) = if side == Side::Server { (client, server) } else { (server, client) };
    say(&mut peer, records).await;
    let error = match ours.read_u8().await {
        Ok(byte) => return Ok(byte),
        Err(error) => error,
    };
    assert_eq!(reason(&ours.read_u8().await.unwrap_err()), reason(&error), "it stays an error");
    assert_eq!(reason(&ours.write(b"x").await.unwrap_err()), reason(&error), "and nothing is written any more");
    let Error::AlertReceived(alert) = reason(&peer.read_u8().await.unwrap_err()) else { panic!("no alert") };
    Err((reason(&error), alert))
}

#[tokio::test]
async fn what_no_peer_may_say() {
    use AlertDescription::{DecodeError, IllegalParameter, UnexpectedMessage};
    let cases: [(&str, &[Record<'_>], AlertDescription); 11] = [
        ("a key update with a wrong value", &[(HANDSHAKE, &[24, 0, 0, 1, 2])], IllegalParameter),
        ("one of a wrong length", &[(HANDSHAKE, &[24, 0, 0, 2, 0, 0])], DecodeError),
        ("more behind it in its record", &[(HANDSHAKE, &[24, 0, 0, 1, 0, 24])], UnexpectedMessage),
        ("an empty message", &[(HANDSHAKE, &[])], DecodeError),
        ("a hello", &[(HANDSHAKE, &[1, 0, 0, 1, 0])], UnexpectedMessage),
        ("half a message, then data", &[(HANDSHAKE, &[24, 0])], UnexpectedMessage),
        ("a change of cipher", &[(ContentType::ChangeCipherSpec, &[1])], UnexpectedMessage),
        ("a record of no known type", &[(ContentType::Unknown(99), &[1])], UnexpectedMessage),
        ("padding and nothing else", &[(ContentType::Unknown(0), &[0; 5])], UnexpectedMessage),
        ("half an alert", &[(ContentType::Alert, &[1])], DecodeError),
        ("a message within another", &[(HANDSHAKE, &[24, 0]), (ContentType::Alert, &[1, 90])], UnexpectedMessage),
    ];
    for side in [Side::Server, Side::Client] {
        for (case, records, alert) in cases {
            let (_, told) = heard(side, records).await.expect_err(case);
            assert_eq!(told, alert, "{case}");
        }
    }
    // Without its keys changing, the peer's next record cannot be opened.
    let (_, told) = heard(Side::Server, &[(HANDSHAKE, UPDATE)]).await.unwrap_err();
    assert_eq!(told, AlertDescription::BadRecordMac);
}

#[tokio::test]
async fn tickets_are_for_clients() {
    let ticket = [[4, 0, 0x4e, 0x20].as_slice(), &[7; 20_000]].concat();
    let (first, second) = ticket.split_at(10_000);
    let records =
        [(HANDSHAKE, &first[..2]), (HANDSHAKE, &first[2..]), (HANDSHAKE, second), (HANDSHAKE, &[4, 0, 0, 1, 0])];
    assert_eq!(heard(Side::Client, &records).await, Ok(b'x'));
    let (_, told) = heard(Side::Server, &records).await.unwrap_err();
    assert_eq!(told, AlertDescription::UnexpectedMessage);
    let (_, told) = heard(Side::Client, &[(HANDSHAKE, &[4, 0, 0, 0])]).await.unwrap_err();
    assert_eq!(told, AlertDescription::DecodeError);
    let (_, told) = heard(Side::Client, &[(HANDSHAKE, &[4, 1, 0, 0])]).await.unwrap_err();
    assert_eq!(told, AlertDescription::DecodeError, "one too long");
    let small: Record<'_> = (HANDSHAKE, &[4, 0, 0, 1, 0]);
    // The server of the other end has sent some before.
    assert_eq!(heard(Side::Client, &[small; 28]).await, Ok(b'x'));
    let (_, told) = heard(Side::Client, &[small; 33]).await.unwrap_err();
    assert_eq!(told, AlertDescription::UnexpectedMessage, "tickets for ever");
}

#[tokio::test]
async fn words_that_mean_nothing() {
    let nothing: &[u8] = &[];
    let records = [(ContentType::Alert, [1, 90].as_slice()), (ContentType::ApplicationData, nothing)];
    assert_eq!(heard(Side::Server, &records).await, Ok(b'x'));
}

#[tokio::test]
async fn nothing_said_for_ever() {
    let nothing: Record<'_> = (ContentType::ApplicationData, &[]);
    assert_eq!(heard(Side::Server, &[nothing; 32]).await, Ok(b'x'));
    let (_, told) = heard(Side::Server, &[nothing; 33]).await.unwrap_err();
    assert_eq!(told, AlertDescription::UnexpectedMessage);
}

#[tokio::test]
async fn alerts_are_told_as_they_are() {
    let (mut peer, mut ours) = pair(1 << 16).await;
    say(&mut peer, &[(ContentType::Alert, &[2, AlertDescription::CertificateRevoked.into()])]).await;
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(reason(&error), Error::AlertReceived(AlertDescription::CertificateRevoked));
}

#[tokio::test]
async fn keys_that_change_for_ever() {
    let (mut peer, mut ours) = pair(1 << 20).await;
    peer.writing().wear_after(0);
    for _ in 0..40 {
        // Each data record has a new key in front of it; data is what makes it all right.
        peer.write_all(b"x").await.unwrap();
        peer.flush().await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), b'x');
    }
    peer.change_keys(40);
    peer.flush().await.unwrap();
    let error = ours.read_u8().await.unwrap_err();
    assert!(matches!(reason(&error), Error::PeerMisbehaved(_)), "{error}");
}

/// What is on the wire between two of ours, and what the reader makes of it once `change` was at it.
async fn changed(change: impl FnOnce(&mut Vec<u8>)) -> (Error, AlertDescription) {
    let (mut near, far) = pair(1 << 20).await;
    let (mut wire, behind) = tokio::io::duplex(1 << 20);
    let (mut pipe, mut far) = far.over(behind);
    near.write_all(&[5; 100]).await.unwrap();
    near.flush().await.unwrap();
    let mut bytes = vec![0; 1000];
    let count = pipe.read(&mut bytes).await.unwrap();
    bytes.truncate(count);
    change(&mut bytes);
    wire.write_all(&bytes).await.unwrap();
    let error = far.read_to_end(&mut Vec::new()).await.unwrap_err();
    // The alert goes the way that is left.
    let mut alert = vec![0; 1000];
    let count = wire.read(&mut alert).await.unwrap();
    pipe.write_all(&alert[..count]).await.unwrap();
    let Error::AlertReceived(told) = reason(&near.read_u8().await.unwrap_err()) else { panic!("no alert") };
    (reason(&error), told)
}

#[tokio::test]
async fn bytes_that_were_changed_on_the_way() {
    use AlertDescription::{BadRecordMac, RecordOverflow, UnexpectedMessage};
    for place in [1, 2, 5, 60, 105, 106, 121] {
        let told = changed(|bytes| bytes[place] ^= 1).await;
        assert_eq!(told, (Error::DecryptError, BadRecordMac), "byte {place}");
    }
    let told = changed(|bytes| bytes[3] = 0xff).await;
    assert_eq!(told, (Error::PeerSentOversizedRecord, RecordOverflow));
    let told = changed(|bytes| bytes.splice(..0, [21, 3, 3, 0, 2, 1, 0]).for_each(drop)).await;
    assert_eq!(told.1, UnexpectedMessage, "an unprotected end");
    let told = changed(|bytes| bytes.splice(..0, [20, 3, 3, 0, 1, 1]).for_each(drop)).await;
    assert_eq!(told.1, UnexpectedMessage, "an unprotected change of cipher");
    let told = changed(|bytes| bytes.splice(..0, [23, 3, 3, 0, 16].into_iter().chain([0; 16])).for_each(drop)).await;
    assert_eq!(told, (Error::DecryptError, BadRecordMac), "a record of nothing");
    let told = changed(|bytes| bytes.extend_from_within(..)).await;
    assert_eq!(told.0, Error::DecryptError, "said twice");
}
