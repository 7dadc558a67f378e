//! What clients do that should not: each is answered or closed, and none of it reaches anybody else.

use forebay_shared::job::Output;
use forebay_shared::shutdown::channel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tests::{SECONDS, Server, request, response, rest, start_with};
use super::*;
use crate::http::fake::FakeFleet;

const MS: Duration = Duration::from_millis(1);

async fn strict() -> Server {
    let limits = ConnectionLimits {
        max_header_bytes: 8 * 1024,
        head_timeout: 200 * MS,
        idle_timeout: 400 * MS,
        write_timeout: 300 * MS,
        ..ConnectionLimits::default()
    };
    start_with(FakeFleet::default(), limits, SECONDS).await
}

async fn lax() -> Server {
    start_with(FakeFleet::default(), ConnectionLimits::default(), SECONDS).await
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.addr).await.unwrap()
}

/// Writes `bytes` on a connection of its own and reads until the server closes it.
async fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server).await;
    stream.write_all(bytes).await.unwrap();
    rest(&mut stream).await
}

/// An ordinary request on a connection of its own still works.
async fn assert_serves(server: &Server) {
    let mut stream = connect(server).await;
    stream.write_all(request(r#"{"inputs":"ab"}"#).as_bytes()).await.unwrap();
    assert!(response(&mut stream).await.ends_with("[[2.0,0.0]]"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_with_431() {
    let server = strict().await;
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(10_000));
    let long_header = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(10_000));
    let many_headers = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(200));
    for head in [long_path, long_header, many_headers] {
        let answer = exchange(&server, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_serves(&server).await;
}

#[tokio::test]
async fn a_path_beyond_what_any_address_holds_is_answered_with_414() {
    let limits = ConnectionLimits { max_header_bytes: 200_000, ..ConnectionLimits::default() };
    let server = start_with(FakeFleet::default(), limits, SECONDS).await;
    let head = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000));
    let answer = exchange(&server, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 414 "), "{answer}");
}

#[tokio::test]
async fn what_is_no_http_is_answered_with_400() {
    let server = strict().await;
    for bad in [
        &b"hello\r\n\r\n"[..],
        b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nho\0st: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: a\0b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", // how TLS begins
        b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n{}",
        b"POST /embed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n{}",
        b"POST /embed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n{}",
    ] {
        let answer = exchange(&server, bad).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{:?}: {answer}", String::from_utf8_lossy(bad));
    }
    assert_serves(&server).await;
}

#[tokio::test]
async fn a_body_with_two_lengths_hides_no_second_request() {
    // Where chunks and a length disagree, the chunks count, and what follows them is a request only after them.
    let server = lax().await;
    let smuggled = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(&server, smuggled.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn names_that_are_no_utf8_are_no_endpoint_and_no_request_id() {
    let server = lax().await;
    let answer =
        exchange(&server, b"GET /v1/models/%ff%00%c3%28 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let raw = exchange(&server, b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(raw.starts_with("HTTP/1.1 400 ") || raw.starts_with("HTTP/1.1 404 "), "{raw}");
    let head = b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-request-id: \xff\xfe\r\ntraceparent: \xff\r\nconnection: close\r\n\r\n";
    let answer = exchange(&server, head).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\nx-request-id: "), "{answer}");
    let timeout =
        b"POST /embed HTTP/1.1\r\nhost: x\r\nx-request-timeout: \xff\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert!(exchange(&server, timeout).await.starts_with("HTTP/1.1 422 "));
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_cut_and_an_idle_connection_closed() {
    let server = strict().await;
    let mut slow = connect(&server).await;
    let begun = std::time::Instant::now();
    let sender = async {
        for byte in b"GET /health/live HTTP/1.1\r\n".iter().cycle() {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(20 * MS).await;
        }
    };
    tokio::time::timeout(5 * SECONDS, sender).await.expect("the connection is cut");
    assert!(begun.elapsed() >= 200 * MS, "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    assert_eq!(rest(&mut connect(&server).await).await, "");
    assert!(begun.elapsed() >= 400 * MS, "{:?}", begun.elapsed());
    assert_serves(&server).await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_answered_with_408_whatever_time_the_request_asks_for() {
    let (trigger, shutdown) = channel();
    let listener = bind("--api-addr", "127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut state = FakeFleet::default().state();
    state.limits.body_timeout = 100 * MS;
    tokio::spawn(serve(listener, None, state, ConnectionLimits::default(), shutdown, SECONDS));
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\nx-request-timeout: 10m\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    trigger.fire();
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_is_cut() {
    const NUMBERS: usize = 8_000_000;
    let large = || FakeFleet {
        respond: Box::new(|_| {
            let output = Output { tokens: 1, device_us: 0, vector: vec![0; 4 * NUMBERS] };
            Box::pin(std::future::ready(Ok(vec![output])))
        }),
        ..FakeFleet::default()
    };
    let limits = ConnectionLimits { write_timeout: 300 * MS, ..ConnectionLimits::default() };
    let server = start_with(large(), limits, SECONDS).await;
    let mut stream = connect(&server).await;
    stream.write_all(request(r#"{"inputs":"a"}"#).as_bytes()).await.unwrap();
    let mut first = [0; 100];
    stream.read_exact(&mut first).await.unwrap();
    tokio::time::sleep(SECONDS).await;
    let mut read = first.len();
    let mut piece = vec![0; 1 << 20];
    while let Ok(count @ 1..) = tokio::time::timeout(5 * SECONDS, stream.read(&mut piece)).await.unwrap() {
        read += count;
    }
    assert!(read < 4 * NUMBERS, "{read} bytes arrived although nobody read for longer than the write time-out");
}

#[tokio::test]
async fn connections_beyond_the_limit_hear_503_while_the_own_page_answers() {
    let listener = bind("--api-addr", "127.0.0.1:0").await.unwrap();
    let own_page = bind("--metrics-addr", "127.0.0.1:0").await.unwrap();
    let (addr, own_addr) = (listener.local_addr().unwrap(), own_page.local_addr().unwrap());
    let (trigger, shutdown) = channel();
    let limits = ConnectionLimits { max_connections: 2, ..ConnectionLimits::default() };
    let task = tokio::spawn(serve(listener, Some(own_page), FakeFleet::default().state(), limits, shutdown, SECONDS));
    let mut held = [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
    tokio::time::sleep(50 * MS).await;
    let mut third = TcpStream::connect(addr).await.unwrap();
    third.write_all(request(r#"{"inputs":"a"}"#).as_bytes()).await.unwrap();
    let answer = rest(&mut third).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["error"]["code"], "too_many_connections");
    for path in ["/health/live", "/health/ready", "/metrics"] {
        let mut page = TcpStream::connect(own_addr).await.unwrap();
        page.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert!(rest(&mut page).await.starts_with("HTTP/1.1 200 "), "{path}");
    }
    held[0].write_all(request(r#"{"inputs":"a"}"#).as_bytes()).await.unwrap();
    assert!(response(&mut held[0]).await.starts_with("HTTP/1.1 200 "), "who is in stays in");
    drop(held);
    tokio::time::sleep(50 * MS).await;
    let mut fourth = TcpStream::connect(addr).await.unwrap();
    fourth.write_all(request(r#"{"inputs":"a"}"#).as_bytes()).await.unwrap();
    assert!(response(&mut fourth).await.starts_with("HTTP/1.1 200 "), "a place that became free is given away");
    trigger.fire();
    drop(fourth);
    tokio::time::timeout(5 * SECONDS, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_asks_before_sending_is_told_to_go_on() {
    let server = lax().await;
    let mut stream = connect(&server).await;
    let head =
        "POST /embed HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 14\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(br#"{"inputs":"a"}"#).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = lax().await;
    let mut stream = connect(&server).await;
    let all: String = ["a", "bb", "ccc"].iter().map(|text| request(&format!(r#"{{"inputs":"{text}"}}"#))).collect();
    stream.write_all(all.as_bytes()).await.unwrap();
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let answers = rest(&mut stream).await;
    let places: Vec<_> = ["[[1.0,", "[[2.0,", "[[3.0,", "404"].iter().map(|text| answers.find(text)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{answers}");
}

#[tokio::test]
async fn http_1_0_head_and_options_are_answered_as_they_should() {
    let server = lax().await;
    let old = exchange(&server, b"GET /health/live HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 ") && old.ends_with("{\"status\":\"live\"}"), "{old}");
    let head = exchange(&server, b"HEAD /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-length: 17\r\n"), "{head}");
    let options = exchange(&server, b"OPTIONS /embed HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(options.starts_with("HTTP/1.1 405 ") && options.contains("\r\nallow: POST\r\n"), "{options}");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_writing_its_body() {
    let server = lax().await;
    for (target, status) in [
        ("POST /nowhere", 404),
        ("PUT /embed", 405),
        ("POST /embed HTTP/1.1\r\ncontent-type: text/plain\r\nx: ", 415),
        ("POST /embed HTTP/1.1\r\ncontent-encoding: gzip\r\nx: ", 415),
        ("POST /embed HTTP/1.1\r\nx-priority: urgent\r\nx: ", 422),
    ] {
        let mut stream = connect(&server).await;
        let head = format!("{target} HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 8_000_000]).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {answer}");
        assert!(answer.contains("error"), "{answer}");
    }
}
