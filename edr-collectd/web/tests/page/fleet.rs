//! Answers for a fleet of sample hosts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use edr_model::{HostRow, HostSnapshot, OmittedFrames, QueryError};
use edr_web::Answers;
use edr_wire::HostId;
use futures::future::BoxFuture;
use tokio::sync::{Notify, broadcast};

use crate::sample::Sample;

/// Answers from memory: the newest snapshot of each host, and earlier snapshots of some hosts.
pub(crate) struct Fleet {
    hosts: Mutex<Vec<(HostRow, Vec<Arc<HostSnapshot>>)>>,
    changes: broadcast::Sender<HostId>,
    /// When true, every question fails as if the archive were unreadable.
    pub(crate) archive_away: Mutex<bool>,
    /// When set, every question waits at the gate; with `gated_host` only questions about this host.
    pub(crate) gate: Mutex<Option<Arc<Gate>>>,
    pub(crate) gated_host: Mutex<Option<&'static str>>,
    /// Number of questions for the list of hosts.
    pub(crate) lists: AtomicUsize,
    pub(crate) omitted: Mutex<OmittedFrames>,
}

/// A gate that imitates a slow archive.
#[derive(Default)]
pub(crate) struct Gate {
    /// A question has arrived at the gate.
    pub(crate) entered: Notify,
    /// Lets a question pass.
    pub(crate) open: Notify,
}

impl Fleet {
    pub(crate) fn new(samples: &[Sample]) -> Arc<Self> {
        let fleet = Self {
            hosts: Mutex::default(),
            changes: broadcast::channel(64).0,
            archive_away: Mutex::new(false),
            gate: Mutex::default(),
            gated_host: Mutex::default(),
            lists: AtomicUsize::new(0),
            omitted: Mutex::default(),
        };
        for sample in samples {
            fleet.put(sample);
        }
        Arc::new(fleet)
    }

    /// Adds a new snapshot of a host.
    pub(crate) fn put(&self, sample: &Sample) {
        let (row, snapshot) = (sample.row(), Arc::new(sample.snapshot()));
        let id = row.host_id;
        let mut hosts = self.hosts.lock().unwrap();
        match hosts.iter_mut().find(|(known, _)| known.host_id == id) {
            Some((known, snapshots)) => {
                *known = row;
                snapshots.push(snapshot);
            }
            None => hosts.push((row, vec![snapshot])),
        }
        hosts.sort_by(|a, b| a.0.hostname.cmp(&b.0.hostname));
        drop(hosts);
        let _ = self.changes.send(id);
    }
}

impl Answers for Fleet {
    fn hosts(&self) -> Vec<HostRow> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.hosts.lock().unwrap().iter().map(|(row, _)| row.clone()).collect()
    }

    fn host(&self, host_id: HostId) -> Option<HostRow> {
        self.hosts.lock().unwrap().iter().map(|(row, _)| row).find(|row| row.host_id == host_id).cloned()
    }

    fn host_id(&self, host: &str) -> Result<HostId, QueryError> {
        let hosts = self.hosts.lock().unwrap();
        let known = hosts.iter().find(|(row, _)| row.host_id.to_string() == host || row.hostname == host);
        known.map(|(row, _)| row.host_id).ok_or_else(|| QueryError::UnknownHost(host.to_owned()))
    }

    fn snapshot<'a>(
        &'a self,
        host: &'a str,
        at_ns: Option<i64>,
    ) -> BoxFuture<'a, Result<Arc<HostSnapshot>, QueryError>> {
        Box::pin(self.find(host, at_ns))
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn omitted(&self) -> OmittedFrames {
        self.omitted.lock().unwrap().clone()
    }

    fn changes(&self) -> broadcast::Receiver<HostId> {
        self.changes.subscribe()
    }
}

impl Fleet {
    async fn find(&self, host: &str, at_ns: Option<i64>) -> Result<Arc<HostSnapshot>, QueryError> {
        let gate = self.gate.lock().unwrap().clone();
        let is_gated = self.gated_host.lock().unwrap().is_none_or(|gated| gated == host);
        if let Some(gate) = gate.filter(|_| is_gated) {
            gate.entered.notify_one();
            gate.open.notified().await;
        }
        if *self.archive_away.lock().unwrap() {
            return Err(QueryError::Archive("open the archive at /srv/edr: input/output error".to_owned()));
        }
        let hosts = self.hosts.lock().unwrap();
        let named = hosts.iter().find(|(row, _)| row.host_id.to_string() == host || row.hostname == host);
        let (_, snapshots) = named.ok_or_else(|| QueryError::UnknownHost(host.to_owned()))?;
        let before = snapshots.iter().rev().find(|snapshot| at_ns.is_none_or(|at| snapshot.captured_ns <= at));
        before.cloned().ok_or_else(|| QueryError::NothingThen {
            host: host.to_owned(),
            at: format!("{at_ns:?}"),
            first: "of 2026-11-24 00:00:00 UTC".to_owned(),
        })
    }
}
