//! Live updates: server-sent events that announce newer data, but do not contain the data.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use edr_model::HostSnapshot;
use edr_wire::HostId;
use futures::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::Instant;

use crate::pages::host::turn;
use crate::parts::problem::Problem;
use crate::server::Web;

/// Returns the version of a host's snapshot, for live updates.
pub(crate) fn version(snapshot: &HostSnapshot) -> String {
    format!("{}-{}", snapshot.epoch, snapshot.seq)
}

/// Interval of `alive` events, by which a page can distinguish a lost connection from a quiet host.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two `snapshot` events: a page of a thousand hosts is not redrawn a hundred times a second.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// Handles `/events?host=ID&version=V`: events of one host, or of all hosts. `version` is the version on the page; if a
/// newer version exists already, an event announces it at once.
pub(crate) async fn events(State(web): State<Arc<Web>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let (mut host, mut version) = (None, None);
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*key {
            "host" => host = Some(value.into_owned()),
            "version" => version = Some(value.into_owned()),
            _ => {
                return Err(Problem::bad_parameters(&[format!(
                    "there is no parameter {key:?}: there are host, version"
                )]));
            }
        }
    }
    let stream = web.streams.clone().try_acquire_owned().map_err(|_| Problem::busy())?;
    // Subscribes before the newest snapshot is read, so that no change is missed in between.
    let changes = web.answers.changes();
    let (host, newer) = match host {
        None => (None, false),
        Some(name) => {
            let _turn = turn(&web, &name, None).await?;
            let _place = web.work.place().await?;
            let newest = web.answers.snapshot(&name, None).await?;
            (Some(newest.host_id), version.is_some_and(|shown| shown != self::version(&newest)))
        }
    };
    let state = Stream {
        changes,
        closing: web.closing.clone(),
        host,
        alive_at: Instant::now(),
        not_before: Instant::now(),
        pending: newer,
        _stream: stream,
    };
    let events = stream::unfold(state, |mut state| async move {
        let name = state.next().await?;
        let event = Event::default().event(name).data(state.host.map(|host| host.to_string()).unwrap_or_default());
        Some((Ok::<_, std::convert::Infallible>(event), state))
    });
    // Proxies with a buffer would delay events.
    Ok(([(header::HeaderName::from_static("x-accel-buffering"), "no")], Sse::new(events)).into_response())
}

struct Stream {
    changes: broadcast::Receiver<HostId>,
    closing: watch::Receiver<bool>,
    host: Option<HostId>,
    alive_at: Instant,
    not_before: Instant,
    pending: bool,
    _stream: OwnedSemaphorePermit,
}

impl Stream {
    /// Returns the name of the next event; `None` when the server stops.
    async fn next(&mut self) -> Option<&'static str> {
        loop {
            let due = if self.pending { self.not_before.min(self.alive_at) } else { self.alive_at };
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing) => return None,
                () = tokio::time::sleep_until(due) => {
                    let now = Instant::now();
                    self.alive_at = now + ALIVE_EVERY;
                    if self.pending && now >= self.not_before {
                        self.pending = false;
                        self.not_before = now + EVENT_EVERY;
                        return Some("snapshot");
                    }
                    return Some("alive");
                }
                changed = self.changes.recv() => match changed {
                    Ok(host) => self.pending |= self.host.is_none_or(|ours| ours == host),
                    // Events were dropped, perhaps of this host.
                    Err(RecvError::Lagged(_)) => self.pending = true,
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}
