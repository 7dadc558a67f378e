//! A request that was sent before the shutdown is answered, wherever it was then.

use forebay_shared::shutdown::channel;
use tokio::io::AsyncWriteExt;

use super::tests::{SECONDS, Server, request, response, rest, start_with};
use super::*;
use crate::http::fake::FakeFleet;

const MS: Duration = Duration::from_millis(1);

async fn start() -> Server {
    start_with(FakeFleet::default(), ConnectionLimits::default(), 10 * SECONDS).await
}

fn ask() -> String {
    request(r#"{"inputs":"a"}"#)
}

fn assert_last_answer(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

async fn assert_stops(server: Server) {
    tokio::time::timeout(5 * SECONDS, server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn everybody_in_the_listeners_queue_is_answered() {
    let listener = bind("--api-addr", "127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(ask().as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let (trigger, shutdown) = channel();
    trigger.fire();
    let state = FakeFleet::default().state();
    let task = tokio::spawn(serve(listener, None, state, ConnectionLimits::default(), shutdown, 10 * SECONDS));
    for stream in &mut streams {
        assert_last_answer(&rest(stream).await);
    }
    assert_stops(Server { addr, trigger, task }).await;
}

#[tokio::test]
async fn a_connection_that_was_just_accepted_is_read_before_it_is_closed() {
    let server = start().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(TcpStream::connect(server.addr).await.unwrap());
    }
    // One thread: what is sent here is in the sockets before anybody hears of the shutdown.
    for stream in &mut streams {
        stream.write_all(ask().as_bytes()).await.unwrap();
    }
    server.trigger.fire();
    for stream in &mut streams {
        assert_last_answer(&rest(stream).await);
    }
    assert_stops(server).await;
}

#[tokio::test]
async fn a_request_on_a_connection_that_was_idle_is_answered() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(ask().as_bytes()).await.unwrap();
    let first = response(&mut stream).await;
    assert!(!first.contains("connection: close"), "{first}");
    stream.write_all(ask().as_bytes()).await.unwrap();
    server.trigger.fire();
    assert_last_answer(&rest(&mut stream).await);
    assert_stops(server).await;
}

#[tokio::test]
async fn a_request_that_is_on_its_way_is_waited_for_but_not_for_long() {
    let server = start().await;
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    tokio::time::sleep(50 * MS).await;
    server.trigger.fire();
    tokio::time::sleep(50 * MS).await;
    for part in ask().as_bytes().chunks(50) {
        slow.write_all(part).await.unwrap();
        tokio::time::sleep(20 * MS).await;
    }
    assert_last_answer(&rest(&mut slow).await);
    assert_eq!(rest(&mut silent).await, "");
    assert_stops(server).await;
}
