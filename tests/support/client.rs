//! A small HTTP client: one connection per value, kept alive between requests, nothing retried behind the test's back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longer than any deadline that a test gives a request.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// One connection to one server, made when it is first needed and again after it broke. Use one per task.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    headers: String,
}

impl Client {
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None, headers: String::new() }
    }

    /// Sends this header with every request.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send("GET", path, b"").await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        self.send("POST", path, body.to_string().as_bytes()).await
    }

    /// Sends one request with a JSON body, see [`Self::send_as`].
    pub async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        self.send_as("application/json", method, path, body).await
    }

    /// Sends one request and reads its answer. After any error the next request takes a new connection.
    pub async fn send_as(&mut self, content: &str, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let exchange = async {
            let mut stream = match self.stream.take().map(open).transpose()?.flatten() {
                Some(stream) => stream,
                None => connect(self.addr).await?,
            };
            let mut request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: {content}\r\nContent-Length: {}\r\n\r\n",
                self.addr,
                self.headers,
                body.len()
            )
            .into_bytes();
            request.extend_from_slice(body);
            stream.get_mut().write_all(&request).await?;
            let answer = read(&mut stream).await?;
            let close = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            io::Result::Ok((answer, (!close).then_some(stream)))
        };
        let (answer, stream) =
            tokio::time::timeout(LIMIT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.stream = stream;
        Ok(answer)
    }
}

/// One request on a connection of its own.
pub async fn get(addr: SocketAddr, path: &str) -> io::Result<Answer> {
    Client::new(addr).get(path).await
}

/// One request on a connection of its own.
pub async fn post(addr: SocketAddr, path: &str, body: &Value) -> io::Result<Answer> {
    Client::new(addr).post(path, body).await
}

async fn connect(addr: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// A connection that was kept, unless the server has closed it since: its process may have ended, and a request on what is
/// left of that would say nothing about the process that listens there now.
///
/// # Errors
/// `InvalidData` if the server has said something that nobody asked for.
fn open(stream: BufReader<TcpStream>) -> io::Result<Option<BufReader<TcpStream>>> {
    let unasked = || io::Error::new(io::ErrorKind::InvalidData, "the server has said more than one answer");
    if !stream.buffer().is_empty() {
        return Err(unasked());
    }
    match stream.get_ref().try_read(&mut [0]) {
        Ok(0) => Ok(None),
        Ok(_) => Err(unasked()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(stream)),
        Err(_) => Ok(None),
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let status = line(stream).await?;
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| invalid(&status))?;
    let mut headers = Vec::new();
    loop {
        let line = line(stream).await?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(&line))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = line(stream).await?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| invalid(&size))?;
            exactly(stream, size, &mut answer.body).await?;
            line(stream).await?;
            if size == 0 {
                return Ok(answer);
            }
        }
    }
    let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    exactly(stream, length, &mut answer.body).await?;
    Ok(answer)
}

async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

async fn exactly(stream: &mut BufReader<TcpStream>, length: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let got = stream.take(length).read_to_end(into).await?;
    if got as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn invalid(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("that is no HTTP: {line:?}"))
}
