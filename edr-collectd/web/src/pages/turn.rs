//! Turns of requests about hosts. A request takes a turn before a place of work ([`crate::server::work`]), so that slow
//! requests about one host hold one place only, and requests for earlier moments hold half of the places at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use edr_wire::HostId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::parts::params::At;
use crate::parts::problem::Problem;

/// Requests about one host that are worked on at the same time.
const OF_HOST_MAX: usize = 1;

/// The turns of all hosts.
#[derive(Debug)]
pub(crate) struct Turns {
    /// The hosts with requests.
    hosts: Mutex<HashMap<HostId, Weak<Semaphore>>>,
    /// Turns of requests for earlier moments, which search the archive.
    past: Arc<Semaphore>,
    wait: Duration,
}

/// The turn of a request, held until the page is made.
#[derive(Debug)]
pub(crate) struct Turn {
    _host: OwnedSemaphorePermit,
    _past: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// `places` is the number of places of work of all requests, `wait` the longest wait of a request.
    pub(crate) fn new(places: usize, wait: Duration) -> Self {
        Self { hosts: Mutex::default(), past: Arc::new(Semaphore::new((places / 2).max(1))), wait }
    }

    /// Waits for the turn of a request about a host; waiting requests are served in order.
    ///
    /// # Errors
    /// When the turn does not come in time.
    pub(crate) async fn turn(&self, host_id: HostId, at: Option<&At>) -> Result<Turn, Problem> {
        let host = self.of_host(host_id);
        let turn = async {
            let host = host.acquire_owned().await.map_err(Problem::internal)?;
            let past = match at {
                Some(_) => Some(Arc::clone(&self.past).acquire_owned().await.map_err(Problem::internal)?),
                None => None,
            };
            Ok(Turn { _host: host, _past: past })
        };
        tokio::time::timeout(self.wait, turn).await.unwrap_or_else(|_| Err(Problem::host_at_work()))
    }

    fn of_host(&self, host_id: HostId) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(&host_id).and_then(Weak::upgrade) {
            return known;
        }
        hosts.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(OF_HOST_MAX));
        hosts.insert(host_id, Arc::downgrade(&turns));
        turns
    }
}
