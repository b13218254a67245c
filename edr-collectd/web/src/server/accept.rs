//! Accepts and ends connections, with limits on their number and slowness. axum's own loop has no such limits: a client
//! sending a header byte per second, or reading nothing, would hold a connection forever.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Size of a request's head, in bytes; hyper needs at least 8 KiB.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// Delay after an error of accept that does not concern a single connection, such as a lack of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);

/// Limits of the accept loop.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) shutdown_timeout: Duration,
}

/// Accepts connections until `shutdown` is ready, then lets requests finish for at most `shutdown_timeout`. `closing`
/// ends the streams, which otherwise never end.
pub(crate) async fn run(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    closing: watch::Sender<bool>,
    shutdown: impl Future,
) -> io::Result<()> {
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    loop {
        // At the limit, further connections wait in the kernel's backlog until a connection ends.
        let place = tokio::select! {
            () = async { shutdown.as_mut().await; } => break,
            place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
        };
        let accepted = tokio::select! {
            () = async { shutdown.as_mut().await; } => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), limits.clone(), closing.subscribe());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                log::warn!("accept a connection of the page: {error}; trying again in {ACCEPT_BACKOFF:?}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    closing.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.shutdown_timeout, finished).await.is_err() {
        connections.shutdown().await;
    }
    Ok(())
}

/// Returns true when the client disconnected before accept: no fault of the server.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut closing: watch::Receiver<bool>) {
    // tcp(7): the connection ends when bytes stay unacknowledged, or unsent before a closed window, for this long.
    let stall_ms = u32::try_from(limits.stall_timeout.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, stall_ms) {
        log::debug!("set TCP_USER_TIMEOUT: {error}");
    }
    let _ = stream.set_nodelay(true);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let stop = async { closing.wait_for(|closing| *closing).await.is_ok() };
    let early = tokio::select! {
        result = served.as_mut() => Some(result),
        _ = stop => None,
    };
    let closed = match early {
        Some(result) => result,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // The error concerns this connection only.
    if let Err(error) = closed {
        log::debug!("connection of the page: {error}");
    }
}
