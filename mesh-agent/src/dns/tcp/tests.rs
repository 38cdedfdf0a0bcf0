//! Conversations over a pipe.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

use super::{PIPELINE, converse};
use crate::dns::Upstream;
use crate::dns::forward::Outlet;
use crate::dns::pod::tests::{asked, pod, settings};

fn server() -> SocketAddr {
    "10.96.0.10:53".parse().unwrap()
}

/// Whoever is asked, nobody answers, and nobody refuses.
struct Silence(TcpListener);

impl Silence {
    fn outlet() -> Box<dyn Outlet> {
        Box::new(Self(TcpListener::bind("127.0.0.1:0").unwrap()))
    }
}

impl Outlet for Silence {
    fn datagrams(&self, _server: SocketAddr) -> io::Result<UdpSocket> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn stream(&self, _server: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0.local_addr()?)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

/// Runs a conversation with what `client` does at the other end.
async fn with<T>(client: impl AsyncFnOnce(DuplexStream) -> T) -> T {
    let (pod, _worlds, _page) = pod("client", Silence::outlet(), settings(Upstream::Original));
    let (near, far) = duplex(1 << 16);
    let stop = CancellationToken::new();
    let (_, result) = tokio::join!(converse(&pod, far, server(), &stop), client(near));
    result
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let frame = |message: &Vec<u8>| [&u16::try_from(message.len()).unwrap().to_be_bytes(), &message[..]].concat();
    messages.iter().flat_map(frame).collect()
}

async fn next(stream: &mut DuplexStream) -> Message {
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

async fn end(mut stream: DuplexStream) {
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the conversation goes on");
}

#[tokio::test(start_paused = true)]
async fn many_queries_in_one_piece() {
    with(async |mut stream| {
        let queries: Vec<_> = (0..50).map(|_| asked("web", RecordType::A)).collect();
        stream.write_all(&framed(&queries)).await.unwrap();
        for query in &queries {
            let answer = next(&mut stream).await;
            assert_eq!((answer.metadata.id.to_be_bytes(), answer.answers.len()), ([query[0], query[1]], 1));
        }
        stream.shutdown().await.unwrap();
        end(stream).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_byte_after_the_other() {
    with(async |mut stream| {
        for byte in framed(&[asked("web", RecordType::A)]) {
            stream.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(next(&mut stream).await.answers.len(), 1);
    })
    .await;
}

/// What the mesh knows overtakes what others must be asked for, and is answered for as long as somebody is waited for.
#[tokio::test(start_paused = true)]
async fn a_slow_answer_holds_up_nobody() {
    with(async |mut stream| {
        let (slow, quick) = (asked("slow.example.org", RecordType::TXT), asked("web", RecordType::A));
        stream.write_all(&framed(&[slow.clone(), quick.clone()])).await.unwrap();
        stream.shutdown().await.unwrap();
        let answers = [next(&mut stream).await, next(&mut stream).await];
        let ids = answers.each_ref().map(|answer| answer.metadata.id.to_be_bytes());
        assert_eq!(ids, [[quick[0], quick[1]], [slow[0], slow[1]]]);
        assert_eq!(answers[1].metadata.response_code, ResponseCode::ServFail);
        end(stream).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_are_read_later() {
    with(async |mut stream| {
        let mut queries: Vec<_> = (0..PIPELINE).map(|_| asked("slow.example.org", RecordType::TXT)).collect();
        queries.push(asked("web", RecordType::A));
        stream.write_all(&framed(&queries)).await.unwrap();
        let mut last = None;
        for _ in &queries {
            last = Some(next(&mut stream).await.answers.len());
        }
        // All but one of the slow ones may still be waiting when it is read; it is not the first.
        assert!(last.is_some());
        stream.shutdown().await.unwrap();
        end(stream).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_left() {
    let halves: [&[u8]; 4] = [b"", &[0], &[0, 40], &[0, 40, 1, 2, 3]];
    for half in halves {
        with(async |mut stream| {
            stream.write_all(half).await.unwrap();
            let start = tokio::time::Instant::now();
            let mut rest = Vec::new();
            // Half a message is no error of the pipe.
            stream.read_to_end(&mut rest).await.ok();
            assert_eq!((rest.len(), start.elapsed()), (0, Duration::from_secs(5)), "{half:?}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused_or_passed_over() {
    with(async |mut stream| {
        stream.write_all(&framed(&[vec![], vec![1], vec![0xff; 30], asked("web", RecordType::A)])).await.unwrap();
        assert_eq!(next(&mut stream).await.metadata.response_code, ResponseCode::FormErr);
        assert_eq!(next(&mut stream).await.answers.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_leaves_answers_what_was_asked() {
    let (pod, _worlds, _page) = pod("client", Silence::outlet(), settings(Upstream::Original));
    let (mut near, far) = duplex(1 << 16);
    let stop = CancellationToken::new();
    let client = async {
        near.write_all(&framed(&[asked("slow.example.org", RecordType::TXT)])).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
        assert_eq!(next(&mut near).await.metadata.response_code, ResponseCode::ServFail);
        end(near).await;
    };
    let (result, ()) = tokio::join!(converse(&pod, far, server(), &stop), client);
    result.unwrap();
}
