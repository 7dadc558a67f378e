//! The ceiling of `make bench-path`: the same JSON in and a fixed answer out, with nothing behind it.
//!
//! usage: bare_echo --addr 127.0.0.1:9200

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let addr = match (args.next().as_deref(), args.next()) {
        (Some("--addr"), Some(addr)) => addr,
        _ => panic!("usage: bare_echo --addr HOST:PORT"),
    };
    let echo = |body: Bytes| async move {
        let rows = usize::from(serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok());
        ([(CONTENT_TYPE, "application/json")], format!("{{\"y\":{rows}}}"))
    };
    let listener = tokio::net::TcpListener::bind(&addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"));
    axum::serve(listener, Router::new().route("/v1/embeddings", post(echo))).await.expect("serves until it is stopped");
}
