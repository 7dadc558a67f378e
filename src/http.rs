//! The few HTTP requests that `up` and `doctor` send to processes on this machine: one connection each, small bodies.
//!
//! HTTP/1.0 on purpose: the server may not answer in chunks then, and the end of the connection is the end of the body.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LARGEST_ANSWER_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub async fn get(addr: SocketAddr, path: &str, limit: Duration) -> io::Result<Answer> {
    within(limit, exchange(addr, format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").into_bytes())).await
}

pub async fn post_json(addr: SocketAddr, path: &str, body: &str, limit: Duration) -> io::Result<Answer> {
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {addr}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    within(limit, exchange(addr, request.into_bytes())).await
}

/// `text` as it may stand in a query string.
pub fn query_value(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn exchange(addr: SocketAddr, request: Vec<u8>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    stream.take(LARGEST_ANSWER_BYTES).read_to_end(&mut answer).await?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP answer"))
}

/// Status and body of a complete answer.
fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (503, "no"));
        assert!(parse(b"SSH-2.0-OpenSSH_9.6\r\n").is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\nthe rest is missing").is_none());
    }

    #[test]
    fn a_query_value_is_escaped() {
        assert_eq!(query_value("org/model v2&x=1"), "org/model%20v2%26x%3D1");
    }
}
