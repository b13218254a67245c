//! The newest snapshot of every host, in memory and compressed: the newest frame, and the key frame needed to open a
//! delta.
//!
//! Records arrive in two ways and in one form: from Kafka with their bytes, and at a start from the archive without
//! bytes. So nothing here waits for a disk, a start need not read bodies, and a body that is not in memory is fetched
//! from its [`RecordPosition`] on demand.
//!
//! This module does not know Kafka, and uses the archive only to read ([`replay`]). Everything that a host can make
//! large is bounded: parts of incomplete frames ([`assembly`]), frames ([`FRAME_BYTES_MAX`]), hosts ([`HOSTS_MAX`]),
//! and the history for telling a duplicate from a conflict ([`order`]).

mod admission;
mod assembly;
mod doubts;
mod facts;
mod host;
mod names;
mod order;
#[cfg(test)]
mod order_tests;
mod replay;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edr_archive::{ArchivedFrame, ArchivedPart, ArchivedRow, PartitionName, RecordPosition, SavedFacts, SavedHosts};
use edr_model::accounting::{Account, CountedRecords, Declarations, Summary, records_by_day};
use edr_model::{HostRow, HostSnapshot, OmittedFrames, QueryError};
use edr_wire::frame::{FrameKey, Record};
use edr_wire::{Epoch, HostId};
use tokio::sync::{Notify, broadcast};

use self::admission::Admission;
pub use self::facts::facts;
pub use self::host::{LatestFrame, OpenableFrame};
pub use self::replay::{catch_up, check_days};
use self::state::State;
pub use self::state::{FRAME_BYTES_MAX, HOSTS_MAX};

/// The newest snapshots. The consumer adds records, the page reads.
#[derive(Debug)]
pub struct Newest {
    state: Mutex<State>,
    changes: broadcast::Sender<HostId>,
    /// Wakes the task that computes facts.
    stale: Notify,
}

/// The frames needed to open a host's newest snapshot.
#[derive(Debug, Clone)]
pub struct Current {
    /// The host.
    pub host_id: HostId,
    /// The newest frame.
    pub newest: LatestFrame,
    /// The key frame for `newest`, if known.
    pub key: Option<LatestFrame>,
    /// True when the newest frame was received again with another content.
    pub conflict: bool,
    /// Why the newest frame is unreadable, as found by an earlier attempt that need not be repeated.
    pub unreadable: Option<String>,
    /// The newest frame found readable, perhaps `newest` itself.
    pub readable: Option<OpenableFrame>,
    /// True when the newest readable frame was received again with another content.
    pub is_readable_conflict: bool,
}

impl Default for Newest {
    fn default() -> Self {
        // A receiver more than 256 changes behind gets an error and asks again.
        Self { state: Mutex::default(), changes: broadcast::channel(256).0, stale: Notify::new() }
    }
}

impl Newest {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an archived record from Kafka.
    pub fn offer(&self, partition: &PartitionName, place: RecordPosition, record: Record) {
        let (frame, part, parts) = (ArchivedFrame::from(&record), record.part, record.parts);
        let declared = Declarations::of(&record.header);
        let part = ArchivedPart { partition: partition.clone(), place, frame, part, parts };
        self.take(&part, &declared, Some(record));
    }

    /// Adds an archived record that is no frame.
    pub fn offer_fault(&self, partition: &PartitionName, place: RecordPosition) {
        self.state().archived(partition, place);
    }

    /// Adds a row of the archive, without the bytes.
    pub fn note(&self, row: &ArchivedRow) {
        match &row.content {
            Some((part, declared)) => self.take(part, declared, None),
            None => self.offer_fault(&row.partition, row.place),
        }
    }

    fn take(&self, part: &ArchivedPart, declared: &Declarations, record: Option<Record>) {
        let host_id = part.frame.key.host_id;
        let mut state = self.state();
        state.archived(&part.partition, part.place);
        let whole = state.assembly.add(part, record);
        let is_whole = whole.is_some();
        // A number that the host cannot have reached opens no hole in the account.
        let is_jump = state.is_jump(part, declared);
        let is_new = whole.is_some_and(|whole| state.add(&part.partition, whole, declared));
        if !is_jump {
            state.count(part, declared, is_whole);
        }
        if is_new {
            state.mark_stale(host_id);
            drop(state);
            self.stale.notify_one();
        }
    }

    /// Adds the saved state.
    pub fn restore(&self, saved: SavedHosts) {
        self.state().restore_all(saved);
        self.stale.notify_one();
    }

    /// Returns the hosts and the archived offsets of the covered partitions, for a save.
    pub fn save(&self, covered: impl Fn(&PartitionName) -> bool) -> SavedHosts {
        let state = self.state();
        let of_partition = state.hosts.iter().filter(|(_, host)| covered(&host.partition));
        let offsets = state.logs.iter().filter(|(log, _)| covered(log));
        SavedHosts {
            hosts: of_partition.map(|(host_id, host)| host.saved(*host_id)).collect(),
            offsets: offsets.map(|(log, offsets)| (log.clone(), offsets.clone())).collect(),
            complete_until_ns: None,
        }
    }

    /// Returns the number of archived records of each day, as counted at their arrival.
    pub fn counted_days(&self) -> BTreeMap<i32, CountedRecords> {
        records_by_day(self.state().logs.values())
    }

    /// Makes an empty memory that takes records of any number of new hosts, to count records again.
    fn unlimited() -> Self {
        let newest = Self::default();
        newest.state().admission = Admission::unlimited();
        newest
    }

    /// Removes hosts that were seen for a short time only, and then were silent for a day.
    pub fn age(&self) {
        self.state().age();
    }

    /// Replaces the counts of a day by the counts in `again`, which has all archived records of the day. Readers and
    /// saves see the counts before or after the replacement, never between.
    pub fn recount_day(&self, day: i32, again: &Self) {
        let mut again = again.save(|_| true);
        let mut state = self.state();
        again.hosts.retain(|host| state.hosts.contains_key(&host.host_id));
        state.change_day(day, Account::uncount_day);
        state.restore_all(again);
        drop(state);
        self.stale.notify_one();
    }

    /// Removes a day that the archive no longer has from all accounts.
    pub fn forget_day(&self, day: i32) {
        self.state().change_day(day, Account::forget_day);
    }

    /// Returns the account of a host, for readers.
    pub fn account(&self, host_id: HostId) -> Arc<Summary> {
        let account = self.state().hosts.get(&host_id).map(|host| Arc::clone(&host.account));
        Arc::new(account.map(|account| account.summary()).unwrap_or_default())
    }

    /// Takes the time of a boot from an opened snapshot, for the times of missed ticks.
    pub fn note_boot(&self, snapshot: &HostSnapshot) {
        let (Some(booted_ns), Ok(host)) = (facts::booted_ns(&snapshot.view), snapshot.view.host()) else { return };
        self.state().set_boot(snapshot.host_id, &facts::bounded(host.boot_id), booted_ns);
    }

    /// Returns what the list of hosts leaves out.
    pub fn omitted(&self) -> OmittedFrames {
        let state = self.state();
        OmittedFrames { abandoned_frames: state.assembly.abandoned(), ..state.omitted.clone() }
    }

    /// Returns when the oldest incomplete frame began (ns since the epoch), among frames begun after `after_ns`.
    pub fn waiting_since_ns(&self, after_ns: i64) -> Option<i64> {
        self.state().assembly.waiting_since_ns(after_ns)
    }

    /// Returns all hosts, sorted by name.
    pub fn rows(&self) -> Vec<HostRow> {
        let state = self.state();
        let rows =
            state.hosts.iter().map(|(host_id, host)| (host.row(*host_id, &state.names), Arc::clone(&host.account)));
        let rows: Vec<(HostRow, Arc<Account>)> = rows.collect();
        // The records of all hosts wait for this lock; summaries are made without the lock.
        drop(state);
        let mut rows: Vec<HostRow> = rows.into_iter().map(with_summary).collect();
        rows.sort_by(|a, b| (&a.hostname, a.host_id).cmp(&(&b.hostname, b.host_id)));
        rows
    }

    /// Returns one host.
    pub fn row(&self, host_id: HostId) -> Option<HostRow> {
        let state = self.state();
        let host = state.hosts.get(&host_id);
        let row = host.map(|host| (host.row(host_id, &state.names), Arc::clone(&host.account)));
        drop(state);
        row.map(with_summary)
    }

    /// Returns the id of a host, from a host id or a host name. A name means the host that had the name first. A host
    /// id may be of a host that is not listed: the archive has its records.
    ///
    /// # Errors
    /// When no host has the name.
    pub fn resolve(&self, host: &str) -> Result<HostId, QueryError> {
        let first = || self.state().names.first(host).ok_or_else(|| QueryError::UnknownHost(host.to_owned()));
        host.parse().or_else(|_| first())
    }

    /// Returns the frames needed to open a host's newest snapshot.
    pub fn current(&self, host_id: HostId) -> Option<Current> {
        let state = self.state();
        let host = state.hosts.get(&host_id)?;
        Some(host.current(host_id))
    }

    /// Takes the next host with stale facts from the queue and returns its frames; `None` for an empty queue.
    pub fn next_stale(&self) -> Option<Current> {
        let mut state = self.state();
        loop {
            let host_id = state.next_stale()?;
            if let Some(host) = state.hosts.get(&host_id) {
                return Some(host.current(host_id));
            }
        }
    }

    /// Waits until a host may have stale facts.
    pub async fn stale(&self) {
        self.stale.notified().await;
    }

    /// Remembers that an opened frame is readable, with its facts, and notifies the receivers of changes.
    pub fn set_facts(&self, opened: &Current, facts: SavedFacts) {
        let mut state = self.state();
        if let Some(booted_ns) = facts.booted_ns {
            state.set_boot(opened.host_id, &facts.boot_id, booted_ns);
        }
        state.set_facts(opened, facts);
        drop(state);
        // Sending fails when there is no receiver; ignored.
        let _ = self.changes.send(opened.host_id);
    }

    /// Remembers why a frame is unreadable, and notifies the receivers of changes. Questions try again after `retry`;
    /// with `None` never.
    pub fn set_unreadable(&self, frame: &FrameKey, reason: String, retry: Option<Duration>) {
        let retry_at = retry.map(|retry| Instant::now() + retry);
        if let Some(host) = self.state().hosts.get_mut(&frame.host_id) {
            host.set_unreadable(frame, reason, retry_at);
        }
        let _ = self.changes.send(frame.host_id);
    }

    /// Remembers a frame that was found readable while the host's newest frame is not.
    pub fn set_readable(&self, host_id: HostId, readable: OpenableFrame) {
        self.state().change(host_id, |host| host.readable = Some(readable));
    }

    /// Returns a receiver for the id of each host whose newest snapshot was replaced.
    pub fn changes(&self) -> broadcast::Receiver<HostId> {
        self.changes.subscribe()
    }

    /// Returns the alarm of a frame whose number or time cannot be right.
    pub fn doubt_of(&self, host_id: HostId, place: (Epoch, u64)) -> Option<String> {
        self.state().hosts.get(&host_id).and_then(|host| doubts::alarm_of(&host.doubts, place))
    }

    /// Returns true when frames of a host claim times after the newest frame and not after `at_ns`.
    pub fn has_early(&self, host_id: HostId, at_ns: i64) -> bool {
        let state = self.state();
        let host = state.hosts.get(&host_id);
        host.is_some_and(|host| doubts::has_early(&host.doubts, host.newest.saved.frame.captured_ns, at_ns))
    }

    /// Returns the number of hosts.
    pub fn len(&self) -> usize {
        self.state().hosts.len()
    }

    /// Returns true when there is no host.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Adds the summary of the account to an entry of the list of hosts.
fn with_summary((row, account): (HostRow, Arc<Account>)) -> HostRow {
    HostRow { account: Arc::new(account.brief_summary()), ..row }
}

/// Epochs of a host, with the highest sequence number of each.
pub type Epochs = Vec<(Epoch, u64)>;
