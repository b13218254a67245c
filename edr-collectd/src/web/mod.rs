//! The page: what runs on the hosts, in a browser.
//!
//! Server-rendered, complete without a script; `assets/app.js` only refreshes what is shown. It asks [`crate::query`]
//! and knows nothing behind it: no archive, no consumer, no file. Everything is read-only, GET and HEAD.
//!
//! | address | shows |
//! | --- | --- |
//! | `/` | all hosts |
//! | `/hosts/{host}` | one host |
//! | `/hosts/{host}/{view}` | one of its views: `processes`, `files`, `sockets`, `psad` and its parts, `packets`, `gaps` |
//! | `/events` | server-sent events: there is something newer |
//! | `/healthz` | `ok` |
//!
//! `host` is a host id, or a name that only one host has; it is looked up, never part of a path. Every text a host
//! controls passes [`shown::Shown`] and the templates' escaping. What a request can cost is limited: connections, time
//! and bytes until its head is read, time until its answer begins, requests worked on at a time ([`work`]), streams. What a page of another site asks for is refused ([`guard`]).

mod assets;
mod columns;
mod events;
mod grid;
mod guard;
mod host;
mod hosts;
mod overview;
mod pages;
mod params;
mod problem;
mod psad;
mod pulse;
mod server;
mod shown;
mod view;
mod when;
mod work;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::guard::{Guard, Names};
use self::problem::Problem;
use self::work::{Place, Work};
use crate::query::{Answers, HostSnapshot};

const HTML: &str = "text/html; charset=utf-8";

/// What the page may cost and under which names it answers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names besides `localhost` and the address listened on under which a browser may ask (`Host:` header).
    pub names: Vec<String>,
    /// Connections at a time; further ones wait in the kernel.
    pub connections_max: usize,
    /// Live-update streams at a time, fewer than connections, so that they alone cannot use up those.
    pub streams_max: usize,
    /// Requests worked on at a time: finding a snapshot, opening it, making a page of it. One costs about 130 MiB at most.
    pub work_max: usize,
    /// How long a request waits for its turn.
    pub work_wait: Duration,
    /// From the first to the last byte of a request's head, and between two requests of a connection.
    pub head_timeout: Duration,
    /// From the end of the head to the begin of the answer.
    pub request_timeout: Duration,
    /// How long a client may leave an answer unread.
    pub stall_timeout: Duration,
    /// How long requests may take to finish when the server stops.
    pub shutdown_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            connections_max: 512,
            streams_max: 256,
            work_max: 4,
            work_wait: Duration::from_secs(5),
            head_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(3),
        }
    }
}

/// Serves the page with the [default](Options::default) options until `shutdown` is ready.
///
/// # Errors
/// When the listener's address cannot be asked. What single connections run into is theirs alone.
pub async fn serve<A: Answers + 'static>(
    listener: TcpListener,
    answers: Arc<A>,
    shutdown: impl Future,
) -> io::Result<()> {
    serve_with(listener, answers, Options::default(), shutdown).await
}

/// [`serve`] with options.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with<A: Answers + 'static>(
    listener: TcpListener,
    answers: Arc<A>,
    options: Options,
    shutdown: impl Future,
) -> io::Result<()> {
    let listen = listener.local_addr()?;
    let (closing, closing_seen) = watch::channel(false);
    let limits = server::Limits {
        connections_max: options.connections_max,
        head_timeout: options.head_timeout,
        stall_timeout: options.stall_timeout,
        shutdown_timeout: options.shutdown_timeout,
    };
    let router = router(answers, &options, Some(listen), closing_seen);
    server::run(listener, router, limits, closing, shutdown).await
}

/// The routes and their guard. `listen` is an address to answer under; `closing` becomes true when streams shall end.
pub fn router<A: Answers + 'static>(
    answers: Arc<A>,
    options: &Options,
    listen: Option<SocketAddr>,
    closing: watch::Receiver<bool>,
) -> Router {
    let guard = Guard { names: Names::new(listen, &options.names), request_timeout: options.request_timeout };
    let web = Arc::new(Web {
        answers,
        work: Work::new(options.work_max, options.work_wait),
        streams: Arc::new(Semaphore::new(options.streams_max)),
        closing,
    });
    Router::new()
        .route("/", get(hosts::hosts))
        .route("/hosts/{host}", get(overview::overview))
        .route("/hosts/{host}/{view}", get(view::view))
        .route("/events", get(events::events))
        .route("/assets/{name}", get(assets::asset))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|| async { Problem::no_such_page() })
        .with_state(web)
        .layer(axum::middleware::from_fn_with_state(Arc::new(guard), guard::guard))
}

/// What every request handler needs.
struct Web<A> {
    answers: Arc<A>,
    work: Work,
    streams: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl<A> Web<A> {
    /// Makes a page on a thread that may compute: decoding a large snapshot takes longer than a task may hold its
    /// thread. The place is held until the work is done, even when the client is gone.
    async fn render<T, F>(&self, place: Place, page: F) -> Result<Response, Problem>
    where
        T: Template,
        F: FnOnce() -> Result<T, Problem> + Send + 'static,
    {
        let rendered = tokio::task::spawn_blocking(move || {
            let html = page()?.render().map_err(Problem::internal);
            drop(place);
            html
        });
        let html = rendered.await.map_err(Problem::internal)??;
        Ok(([(header::CONTENT_TYPE, HTML)], html).into_response())
    }
}

/// Tells two snapshots of a host apart, for live updates.
fn version(snapshot: &HostSnapshot) -> String {
    format!("{}-{}", snapshot.epoch, snapshot.seq)
}
