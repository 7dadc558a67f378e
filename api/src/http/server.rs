//! Sockets: accept, serve HTTP/1.1, drain.
//!
//! Hyper is driven directly instead of through `axum::serve`, for what the latter does not offer: a bound on idle and
//! slow connections (`Connections`), on their number, and on the drain, and no timer per request. Shutdown in order: accept
//! who has connected already and nobody else, wait a moment for requests that are on their way, let those in progress
//! finish (answers say `connection: close`), cut what is left after the grace period. A request that was sent before the
//! shutdown is answered, wherever it was then: in the listener's queue, in a socket, or in our hands.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use forebay_shared::settings::SettingsError;
use forebay_shared::shutdown::Shutdown;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tower::Service;

use super::connections::{Connection, Connections, Entry, Order};
use super::limits::ConnectionLimits;
use super::socket::{AnswerBody, RequestBody, Watched, linger};
use super::{AppState, Backend, metrics_router, router};

/// How long a connection without a request is kept at shutdown: its client may have sent one before it could know.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Most connections taken from the listener's queue at shutdown. More than it holds, but not endlessly many: clients may
/// connect as fast as they are accepted.
const MAX_BACKLOG: usize = 4_096;
/// How long cut connections get to disappear.
const CUT_TIME: Duration = Duration::from_secs(1);
/// Pause after a failed accept: usually there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit that are being told so; those beyond this number are closed without a word.
const MAX_REFUSALS: usize = 64;
/// How long such a connection may take to hear it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// What it hears. Written as it is: no request has been read, so there is none to answer in its own dialect. It ends
/// with the connection, and so needs no length.
const REFUSAL: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\r\n",
    r#"{"error":{"message":"too many connections to this api; retry later or use another one","#,
    r#""type":"server_error","param":null,"code":"too_many_connections"}}"#
);

/// Listens on `addr` (host:port), the value of `flag`; the listener knows the real port if that was 0.
///
/// # Errors
/// [`SettingsError`], in one line that says what to do.
pub async fn bind(flag: &'static str, addr: &str) -> Result<TcpListener, SettingsError> {
    TcpListener::bind(addr).await.map_err(|error| {
        let problem = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("{addr} is in use; stop the process that listens there or choose another port")
            }
            ErrorKind::PermissionDenied => format!("not allowed to listen on {addr}; choose a port above 1023"),
            _ => format!("cannot listen on {addr}: {error}"),
        };
        SettingsError { flag, problem }
    })
}

/// Serves all endpoints on `listener`, and `/metrics` and `/health` on `own_page` too, until `shutdown`. Returns once
/// every connection is gone, at the latest a second after `grace`.
///
/// # Errors
/// None at present; the signature leaves room for a listener that breaks.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    own_page: Option<TcpListener>,
    state: AppState<B>,
    limits: ConnectionLimits,
    shutdown: Shutdown,
    grace: Duration,
) -> anyhow::Result<()> {
    let state = Arc::new(state);
    let clients = serve_router(listener, router(&state), limits, shutdown.clone(), grace);
    match own_page {
        None => clients.await,
        Some(own_page) => {
            tokio::join!(clients, serve_router(own_page, metrics_router(&state), limits.own_page(), shutdown, grace));
        }
    }
    Ok(())
}

async fn serve_router(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    mut shutdown: Shutdown,
    grace: Duration,
) {
    let connections = Arc::new(Connections::new(&limits));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut look = tokio::time::interval(connections.tick());
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fired = pin!(shutdown.fired());
    let mut number = 0;
    let mut admit = |stream: TcpStream, peer: SocketAddr| {
        if connections.count() < limits.max_connections {
            number += 1;
            tokio::spawn(connection(stream, peer, router.clone(), connections.enter(number), limits));
        } else if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
            tokio::spawn(async move {
                let _too_slow = tokio::time::timeout(REFUSAL_TIME, refuse(stream)).await;
                drop(permit);
            });
        }
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => admit(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; are there too many open files?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = look.tick() => connections.look(),
            () = &mut fired => break,
        }
    }
    if let Err(error) = finish(listener, admit) {
        tracing::warn!(%error, "cannot accept all who connected before the shutdown");
    }
    drain(&connections, grace).await;
}

/// Admits those who have connected and were not accepted, and ends the listener. One that is simply dropped resets them,
/// whatever they have sent.
fn finish(listener: TcpListener, mut admit: impl FnMut(TcpStream, SocketAddr)) -> io::Result<()> {
    // Asks the system itself: the runtime learns a little later that somebody has connected.
    let listener = listener.into_std()?;
    for _ in 0..MAX_BACKLOG {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                admit(TcpStream::from_std(stream)?, peer);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Phase by phase: hear, finish, cut, give up.
async fn drain(connections: &Connections, grace: Duration) {
    connections.tell_all(Order::LastCall);
    let _some_say_nothing = tokio::time::timeout(LAST_CALL.min(grace), connections.emptied()).await;
    connections.tell_all(Order::Close);
    if tokio::time::timeout(grace.saturating_sub(LAST_CALL), connections.emptied()).await.is_err() {
        tracing::warn!(connections = connections.count(), ?grace, "cutting requests that did not finish in time");
        connections.tell_all(Order::Cut);
        let _given_up = tokio::time::timeout(CUT_TIME, connections.emptied()).await;
    }
}

/// Says that there are too many connections, to a client that is heard out so that it gets to read this.
async fn refuse(mut stream: TcpStream) {
    if stream.write_all(REFUSAL.as_bytes()).await.is_ok() {
        linger(&mut stream).await;
    }
}

async fn connection(mut stream: TcpStream, peer: SocketAddr, router: Router, entry: Entry, limits: ConnectionLimits) {
    // Answers are written in one piece: waiting to fill a segment only adds delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    let shared = entry.connection();
    let cut = serve_http(&mut stream, peer, router, shared, limits).await;
    if !cut && shared.has_left_unread() {
        linger(&mut stream).await;
    }
}

/// Serves requests until the connection ends; returns whether it was cut.
async fn serve_http(
    stream: &mut TcpStream,
    peer: SocketAddr,
    router: Router,
    shared: &Arc<Connection>,
    limits: ConnectionLimits,
) -> bool {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let busy = shared.begin_request();
        let mut router = router.clone();
        async move {
            let request = request.map(|body| Body::new(RequestBody::new(body, Arc::clone(shared))));
            let Ok(mut response) = router.call(request).await;
            if shared.is_ending() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| AnswerBody::new(body, busy)))
        }
    });
    let mut http = pin!(
        http1::Builder::new()
            // `Connections` bounds slow heads for all connections at once.
            .header_read_timeout(None)
            .max_header_size(limits.max_header_bytes)
            .serve_connection(TokioIo::new(Watched::new(stream, shared)), service)
    );
    let mut closing = false;
    let mut cut = false;
    let served = std::future::poll_fn(|cx| {
        let order = shared.order(cx.waker());
        if order == Order::Cut {
            cut = true;
            return Poll::Ready(Ok(()));
        }
        // Reads what has arrived before it closes: HTTP ends a connection without a request at once.
        let ended = http.as_mut().poll(cx);
        let close = order == Order::Close || (order == Order::LastCall && shared.is_busy());
        if ended.is_ready() || closing || !close {
            return ended;
        }
        closing = true;
        http.as_mut().graceful_shutdown();
        http.as_mut().poll(cx)
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
    cut
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "edge_tests.rs"]
mod edge_tests;

#[cfg(test)]
#[path = "drain_tests.rs"]
mod drain_tests;
