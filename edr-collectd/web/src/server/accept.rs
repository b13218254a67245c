//! Accepts and ends connections, with limits on their number and slowness. axum's own loop has no such limits: a client
//! sending a header byte per second, or reading nothing, would hold a connection forever.
//!
//! At the limit a new connection takes the place of the connection whose head has waited longest. So clients that send
//! half a head, or keep connections open without a request, keep nobody out.

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
use tokio::task::{AbortHandle, JoinSet};

use super::activity::{Activity, Watched};

/// Size of a request's head, in bytes; hyper needs at least 8 KiB.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// Delay after an error of accept that does not concern a single connection, such as a lack of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);
/// Number of failures of accept in a row per log line: two lines an hour.
const FAILURES_LOGGED: u64 = 3_600;

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
    let mut open: Vec<(Arc<Activity>, AbortHandle)> = Vec::new();
    // Failures since the last accepted connection.
    let mut failures = 0_u64;
    loop {
        let accepted = tokio::select! {
            () = async { shutdown.as_mut().await; } => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        open.retain(|(_, task)| !task.is_finished());
        match accepted {
            Ok((stream, _)) => {
                if failures > 0 {
                    log::warn!("connections of the page are accepted again, after {failures} failures");
                    failures = 0;
                }
                if places.available_permits() == 0 {
                    close_longest(&open);
                }
                // While all connections are streams, further connections wait in the kernel's backlog.
                let place = tokio::select! {
                    () = async { shutdown.as_mut().await; } => break,
                    place = places.clone().acquire_owned() => place.map_err(io::Error::other)?,
                };
                let activity = Activity::new();
                let connection =
                    connection(stream, router.clone(), Arc::clone(&activity), limits.clone(), closing.subscribe());
                let task = connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
                open.push((activity, task));
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                if failures.is_multiple_of(FAILURES_LOGGED) {
                    log::warn!("accept a connection of the page: {error}; trying again every {ACCEPT_BACKOFF:?}");
                }
                failures += 1;
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

/// Closes the connection with the longest wait for a head; without waiting heads, the connection with the longest
/// answer.
fn close_longest(open: &[(Arc<Activity>, AbortHandle)]) {
    let ranks = open.iter().filter_map(|(activity, task)| Some((activity.rank()?, task)));
    if let Some((_, task)) = ranks.min_by(|(one, _), (other, _)| one.cmp(other)) {
        log::debug!("a connection of the page is closed for a new one");
        task.abort();
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    activity: Arc<Activity>,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) {
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
        .serve_connection(TokioIo::new(stream), Watched { service: TowerToHyperService::new(router), activity });
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
