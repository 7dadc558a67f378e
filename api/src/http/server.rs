//! Sockets: accept, serve HTTP/1.1, drain.
//!
//! Hyper is driven directly instead of through `axum::serve`, for what the latter does not offer: a bound on idle and
//! slow connections and on the drain, and no timer per request. Shutdown in order: stop accepting, let requests in
//! progress finish (answers say `connection: close`), cut what is left after the grace period.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use forebay_shared::settings::SettingsError;
use forebay_shared::shutdown::Shutdown;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tower::Service;

use super::connections::{Connections, Entry, Order};
use super::{AppState, Backend, metrics_router, router};

/// A connection without a request for one to two of these is closed. Longer than load balancers keep theirs idle, so
/// that it is they who close first and no request crosses a close.
const IDLE_LOOK: Duration = Duration::from_secs(75);
/// How long cut connections get to disappear.
const CUT_TIME: Duration = Duration::from_secs(1);
/// Pause after a failed accept: usually there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    shutdown: Shutdown,
    grace: Duration,
) -> anyhow::Result<()> {
    let state = Arc::new(state);
    let clients = serve_router(listener, router(&state), shutdown.clone(), grace);
    match own_page {
        None => clients.await,
        Some(own_page) => {
            tokio::join!(clients, serve_router(own_page, metrics_router(&state), shutdown, grace));
        }
    }
    Ok(())
}

async fn serve_router(listener: TcpListener, router: Router, mut shutdown: Shutdown, grace: Duration) {
    let connections = Arc::new(Connections::default());
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + IDLE_LOOK, IDLE_LOOK);
    let mut fired = pin!(shutdown.fired());
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    number += 1;
                    tokio::spawn(connection(stream, peer, router.clone(), connections.enter(number)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; are there too many open files?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = look.tick() => connections.look_for_idle(),
            () = &mut fired => break,
        }
    }
    drop(listener);
    drain(&connections, grace).await;
}

/// Phase by phase: finish, cut, give up.
async fn drain(connections: &Connections, grace: Duration) {
    connections.tell_all(Order::Close);
    if tokio::time::timeout(grace, connections.emptied()).await.is_err() {
        tracing::warn!(connections = connections.count(), ?grace, "cutting requests that did not finish in time");
        connections.tell_all(Order::Cut);
        let _given_up = tokio::time::timeout(CUT_TIME, connections.emptied()).await;
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, entry: Entry) {
    // Answers are written in one piece: waiting to fill a segment only adds delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
    }
    let shared = entry.connection();
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let busy = shared.begin_request();
        let mut router = router.clone();
        async move {
            let response = router.call(request.map(Body::new)).await;
            drop(busy);
            response as Result<_, Infallible>
        }
    });
    let mut http = pin!(
        http1::Builder::new()
            // `Connections` bounds slow heads for all connections at once.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut closing = false;
    let served = std::future::poll_fn(|cx| {
        match shared.order(cx.waker()) {
            Order::Open => {}
            Order::Close if closing => {}
            Order::Close => {
                closing = true;
                http.as_mut().graceful_shutdown();
            }
            Order::Cut => return Poll::Ready(Ok(())),
        }
        http.as_mut().poll(cx)
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
