//! Asking for a page, and reading one.
#![allow(clippy::unwrap_used, reason = "a harness fails loudly")]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// `None` if nobody listens.
pub async fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Answer { status: head.split(' ').nth(1)?.parse().ok()?, body: body.to_owned() })
}

/// A page in the text format.
pub struct Page(pub String);

impl Page {
    /// The value of the series written exactly so.
    pub fn value(&self, series: &str) -> Option<f64> {
        let line = self.0.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line[series.len() + 1..].parse().ok()
    }

    /// What was merged from reports, without what the aggregator says of itself.
    pub fn merged(&self) -> String {
        use forebay_shared::metrics::AggregatorMetrics;
        let own: Vec<_> = AggregatorMetrics::TABLE.iter().map(|metric| metric.fleet_name()).collect();
        let is_own = |line: &&str| {
            let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
            let name = name.split(['{', ' ']).next().unwrap();
            name.starts_with("process_") || own.iter().any(|own| own == name)
        };
        self.0.lines().filter(|line| !is_own(line)).map(|line| format!("{line}\n")).collect()
    }
}
