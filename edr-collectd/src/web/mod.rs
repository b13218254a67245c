//! The page: the state of the hosts, in a browser.
//!
//! Pages are rendered on the server and complete without a script; `assets/app.js` only refreshes a page. The only
//! source is [`crate::query`], the only tables are those of the catalogue: no archive, no consumer, no file. All access
//! is read-only, by GET and HEAD.
//!
//! | address | shows |
//! | --- | --- |
//! | `/` | all hosts |
//! | `/hosts/{host}` | one host |
//! | `/hosts/{host}/{view}` | a table of the catalogue, or `psad`: several tables |
//! | `/events` | server-sent events: newer data is available |
//! | `/healthz` | `ok`, and archived frames that the list of hosts leaves out |
//!
//! `host` is a host id, or a name that only one host has; the value is looked up and never part of a file path. Every
//! text under a host's control passes [`shown::Shown`] and the templates' escaping. The cost of requests is limited:
//! connections, time and bytes until the head is read, time until the answer begins, requests worked on at the same
//! time ([`work`]), streams. Requests made by pages of other sites are refused ([`guard`]).

mod assets;
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
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use edr_model::SnapshotTable;
use edr_model::tables::TABLES;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::guard::{Guard, Names};
use self::pages::Pages;
use self::problem::Problem;
use self::work::{Place, Work};
use crate::query::{Answers, HostSnapshot};

const HTML: &str = "text/html; charset=utf-8";

/// Limits of the page, the names under which the page answers, and the tables.
#[derive(Debug, Clone)]
pub struct Options {
    /// The tables of a host, in the order of the navigation.
    pub tables: &'static [SnapshotTable],
    /// Names allowed in a request's `Host:` header, besides `localhost` and the address listened on.
    pub names: Vec<String>,
    /// Connections at the same time; further connections wait in the kernel.
    pub connections_max: usize,
    /// Live-update streams at the same time; fewer than connections, so that streams cannot use up all connections.
    pub streams_max: usize,
    /// Requests worked on at the same time: finding a snapshot, opening the snapshot, making a page. A request costs
    /// about 130 MiB at most.
    pub work_max: usize,
    /// Longest wait of a request for its turn.
    pub work_wait: Duration,
    /// Timeout from the first to the last byte of a request's head, and between two requests of a connection.
    pub head_timeout: Duration,
    /// Timeout from the end of the head to the begin of the answer.
    pub request_timeout: Duration,
    /// Timeout for a client that does not read an answer.
    pub stall_timeout: Duration,
    /// Time limit for requests to finish when the server stops.
    pub shutdown_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tables: &TABLES,
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
/// When the listener's address cannot be read. Errors of single connections do not end the server.
pub async fn serve<A: Answers + 'static>(
    listener: TcpListener,
    answers: Arc<A>,
    shutdown: impl Future,
) -> io::Result<()> {
    serve_with(listener, answers, Options::default(), shutdown).await
}

/// Like [`serve`], with options.
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

/// Returns the routes and their guard. `listen` is an address to answer under; `closing` becomes true when streams must
/// end.
pub fn router<A: Answers + 'static>(
    answers: Arc<A>,
    options: &Options,
    listen: Option<SocketAddr>,
    closing: watch::Receiver<bool>,
) -> Router {
    let guard = Guard { names: Names::new(listen, &options.names), request_timeout: options.request_timeout };
    let web = Arc::new(Web {
        answers,
        pages: Pages(options.tables),
        work: Work::new(options.work_max, options.work_wait),
        streams: Arc::new(Semaphore::new(options.streams_max)),
        closing,
    });
    Router::new()
        .route("/", get(hosts::hosts))
        .route("/hosts/{host}", get(overview::overview))
        .route("/hosts/{host}/{view}", get(view::view))
        .route("/events", get(events::events))
        .route("/assets/{name}", get(asset))
        .route("/healthz", get(healthz::<A>))
        .fallback(|| async { Problem::no_such_page() })
        .with_state(web)
        .layer(axum::middleware::from_fn_with_state(Arc::new(guard), guard::guard))
}

async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    assets::asset(&name).ok_or_else(Problem::no_such_page)
}

/// Handles `/healthz`: `ok`, and a line for each number of frames that the list of hosts leaves out.
async fn healthz<A: Answers + 'static>(State(web): State<Arc<Web<A>>>) -> String {
    let mut text = String::from("ok\n");
    for sentence in web.answers.omitted().sentences() {
        text.push_str(&sentence);
        text.push('\n');
    }
    text
}

/// The state of all request handlers.
struct Web<A> {
    answers: Arc<A>,
    pages: Pages,
    work: Work,
    streams: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl<A> Web<A> {
    /// Makes a page on a blocking thread: decoding a large snapshot takes longer than a task may hold a thread. The
    /// place is held until the work is done, even after the client has disconnected.
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

/// Returns the version of a host's snapshot, for live updates.
fn version(snapshot: &HostSnapshot) -> String {
    format!("{}-{}", snapshot.epoch, snapshot.seq)
}
