use std::net::SocketAddr;

use forebay_shared::shutdown::{Trigger, channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::http::fake::{FakeFleet, echo};

pub(super) const SECONDS: Duration = Duration::from_secs(1);

pub(super) struct Server {
    pub(super) addr: SocketAddr,
    pub(super) trigger: Trigger,
    pub(super) task: JoinHandle<anyhow::Result<()>>,
}

async fn start(fleet: FakeFleet, grace: Duration) -> Server {
    start_with(fleet, ConnectionLimits::default(), grace).await
}

pub(super) async fn start_with(fleet: FakeFleet, limits: ConnectionLimits, grace: Duration) -> Server {
    let listener = bind("--api-addr", "127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (trigger, shutdown) = channel();
    let task = tokio::spawn(serve(listener, None, fleet.state(), limits, shutdown, grace));
    Server { addr, trigger, task }
}

pub(super) fn request(body: &str) -> String {
    format!("POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Everything up to the end of the stream.
pub(super) async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    tokio::time::timeout(5 * SECONDS, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

/// One response with a body of known length.
pub(super) async fn response(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).await.unwrap();
        assert!(count > 0, "the connection ended after {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&text);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return text.into_owned();
            }
        }
    }
}

/// Answers after `delay`.
fn slow(delay: Duration) -> FakeFleet {
    FakeFleet {
        respond: Box::new(move |submission| {
            let outputs = echo(submission);
            Box::pin(async move {
                tokio::time::sleep(delay).await;
                Ok(outputs)
            })
        }),
        ..FakeFleet::default()
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = start(FakeFleet::default(), SECONDS).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for input in ["a", "bb", "ccc"] {
        stream.write_all(request(&format!(r#"{{"inputs":"{input}"}}"#)).as_bytes()).await.unwrap();
        let response = response(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(response.contains("\r\ncontent-type: application/json\r\n"), "{response}");
        assert!(response.ends_with(&format!("[[{}.0,0.0]]", input.len())), "{response}");
    }
}

#[tokio::test]
async fn a_body_that_arrives_in_pieces_is_put_together() {
    let server = start(FakeFleet::default(), SECONDS).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in request(r#"{"inputs":"abcd"}"#).as_bytes().chunks(7) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(response(&mut stream).await.ends_with("[[4.0,0.0]]"));
    let chunked = "POST /embed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
                   b\r\n{\"inputs\":\"\r\n4\r\nab\"}\r\n0\r\n\r\n";
    stream.write_all(chunked.as_bytes()).await.unwrap();
    assert!(response(&mut stream).await.ends_with("[[2.0,0.0]]"));
}

#[tokio::test]
async fn a_client_that_writes_before_it_reads_still_sees_that_its_body_is_too_large() {
    let server = start(FakeFleet::default(), SECONDS).await;
    for head in ["content-length: 3000000", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(format!("POST /embed HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
        let piece = vec![b'x'; 100_000];
        for _ in 0..30 {
            if head.contains("chunked") {
                stream.write_all(b"186a0\r\n").await.unwrap();
            }
            stream.write_all(&piece).await.unwrap();
            if head.contains("chunked") {
                stream.write_all(b"\r\n").await.unwrap();
            }
        }
        if head.contains("chunked") {
            stream.write_all(b"0\r\n\r\n").await.unwrap();
        }
        let response = response(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
        assert!(response.contains("larger than 1000 bytes"), "{response}");
    }
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_too_much_is_told_at_once() {
    let server = start(FakeFleet::default(), SECONDS).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = tokio::time::timeout(SECONDS, response(&mut stream)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up_at_the_deadline() {
    let server = start(FakeFleet::default(), SECONDS).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\nx-request-timeout: 50ms\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let response = response(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
}

#[tokio::test]
async fn a_client_that_goes_away_withdraws_its_request() {
    struct Dropped(std::sync::mpsc::Sender<()>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let (begun, mut has_begun) = tokio::sync::mpsc::channel(1);
    let fleet = FakeFleet {
        respond: Box::new(move |_| {
            let dropped = Dropped(sender.clone());
            begun.try_send(()).unwrap();
            Box::pin(async move {
                let _kept = dropped;
                std::future::pending().await
            })
        }),
        ..FakeFleet::default()
    };
    let server = start(fleet, SECONDS).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request(r#"{"inputs":"a"}"#).as_bytes()).await.unwrap();
    has_begun.recv().await.unwrap();
    drop(stream);
    let waited = tokio::task::spawn_blocking(move || receiver.recv_timeout(5 * SECONDS)).await.unwrap();
    assert_eq!(waited, Ok(()));
}

#[tokio::test]
async fn a_drain_finishes_requests_and_closes_idle_connections() {
    let server = start(slow(Duration::from_millis(200)), 10 * SECONDS).await;
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(request(r#"{"inputs":"a"}"#).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.trigger.fire();
    assert_eq!(rest(&mut idle).await, "");
    let answer = rest(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close"), "{answer}");
    tokio::time::timeout(5 * SECONDS, server.task).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_drain_does_not_wait_longer_than_its_grace() {
    let server = start(slow(60 * SECONDS), Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request(r#"{"inputs":"a"}"#).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.trigger.fire();
    tokio::time::timeout(5 * SECONDS, server.task).await.unwrap().unwrap().unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let taken = bind("--api-addr", "127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let text = bind("--api-addr", &addr).await.unwrap_err().to_string();
    assert_eq!(
        text,
        format!("--api-addr: {addr} is in use; stop the process that listens there or choose another port")
    );
}
