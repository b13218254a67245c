//! The page: the state of the hosts, in a browser.
//!
//! Pages are rendered on the server and complete without a script; `assets/app.js` only refreshes a page. The only
//! source is [`Answers`], the only tables are those of the catalogue: this crate knows no archive and no Kafka. All
//! access is read-only, by GET and HEAD.
//!
//! | address | shows |
//! | --- | --- |
//! | `/` | all hosts |
//! | `/hosts/{host}` | one host |
//! | `/hosts/{host}/{view}` | a table of the catalogue, or `psad`: several tables |
//! | `/events` | server-sent events: newer data is available |
//! | `/healthz` | `ok`, and archived frames that the list of hosts leaves out |
//!
//! `host` is a host id, or a name: of the host that had the name first. The value is looked up and never part of a file
//! path.
//!
//! The rooms, from the request to the answer:
//!
//! 1. `server` decides who is answered, and limits the cost of requests: connections, time and bytes until the head is
//!    read, time until the answer begins, requests worked on at the same time, streams. Requests made by pages of other
//!    sites are refused.
//! 2. `pages` finds the host and the snapshot, and fills a template of `templates/`.
//! 3. `parts` has what several pages need: tables, parameters of an address, times, errors. Every text under a host's
//!    control passes `parts::shown` and the templates' escaping.

mod answers;
mod pages;
mod parts;
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use edr_model::SnapshotTable;
use edr_model::tables::TABLES;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub use self::answers::Answers;
use self::pages::turn::Turns;
use self::parts::problem::Problem;
use self::parts::tabs::Pages;
use self::server::Web;
use self::server::guard::{Guard, Names, guard};
use self::server::work::Work;

/// Limits of the page, the names under which the page answers, and the tables.
#[derive(Debug, Clone)]
pub struct Options {
    /// The tables of a host, in the order of the navigation.
    pub tables: &'static [SnapshotTable],
    /// Names allowed in a request's `Host:` header, besides `localhost` and the address listened on.
    pub names: Vec<String>,
    /// Connections at the same time; a further connection takes the place of the one whose head has waited longest.
    pub connections_max: usize,
    /// Live-update streams at the same time; fewer than connections, so that streams cannot use up all connections.
    pub streams_max: usize,
    /// Requests worked on at the same time: finding a snapshot, opening the snapshot, making a page. A request costs
    /// about 130 MiB at most. One of them may be about the same host, half of them about earlier moments.
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

/// Serves the page until `shutdown` is ready.
///
/// # Errors
/// When the listener's address cannot be read. Errors of single connections do not end the server.
pub async fn serve(
    listener: TcpListener,
    answers: Arc<dyn Answers>,
    options: Options,
    shutdown: impl Future,
) -> io::Result<()> {
    let listen = listener.local_addr()?;
    let (closing, closing_seen) = watch::channel(false);
    let limits = server::accept::Limits {
        connections_max: options.connections_max,
        head_timeout: options.head_timeout,
        stall_timeout: options.stall_timeout,
        shutdown_timeout: options.shutdown_timeout,
    };
    let router = router(answers, &options, listen, closing_seen);
    server::accept::run(listener, router, limits, closing, shutdown).await
}

/// Returns the routes and their guard. `closing` becomes true when streams must end.
fn router(answers: Arc<dyn Answers>, options: &Options, listen: SocketAddr, closing: watch::Receiver<bool>) -> Router {
    let checks = Guard { names: Names::new(listen, &options.names), request_timeout: options.request_timeout };
    let web = Arc::new(Web {
        answers,
        pages: Pages(options.tables),
        work: Work::new(options.work_max, options.work_wait),
        turns: Turns::new(options.work_max, options.work_wait),
        streams: Arc::new(Semaphore::new(options.streams_max)),
        closing,
    });
    Router::new()
        .route("/", get(pages::hosts::hosts))
        .route("/hosts/{host}", get(pages::overview::overview))
        .route("/hosts/{host}/{view}", get(pages::view::view))
        .route("/events", get(server::events::events))
        .route("/assets/{name}", get(server::files::asset))
        .route("/healthz", get(server::healthz))
        .fallback(|| async { Problem::no_such_page() })
        .with_state(web)
        .layer(axum::middleware::from_fn_with_state(Arc::new(checks), guard))
}
