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

mod assembly;
mod facts;
mod host;
mod order;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edr_archive::{
    ArchivedFrame, ArchivedPart, ArchivedRow, PartitionName, RecordPosition, SavedFacts, SavedHost, SavedHosts, day_of,
};
use edr_model::accounting::{Account, CountedRecords, Declarations, ENTRIES_MAX, LogOffsets, Summary, records_by_day};
use edr_model::{HostRow, HostSnapshot, OmittedFrames, QueryError};
use edr_wire::frame::{FrameKey, FrameKind, Record};
use edr_wire::{Epoch, HostId};
use tokio::sync::{Notify, broadcast};

use self::assembly::{Assembly, Whole};
pub use self::facts::facts;
pub use self::host::LatestFrame;
use self::host::{CONFLICTS_MAX, HostState};
use self::order::Lineage;
pub use self::replay::{catch_up, check_days};
use crate::event::Event;

/// Hosts in the list. Any writer of the topic can invent hosts, which cost about 2 KB each and 16 KB at most, frames
/// and accounts not included. Records of further hosts are still archived.
pub const HOSTS_MAX: usize = 100_000;
/// Entries in the accounts of all hosts together, about 60 bytes each. Above the limit, an account that grows is cut to
/// [`FEW_ENTRIES`].
const ACCOUNT_ENTRIES_MAX: usize = 4_000_000;
/// Entries of one account when the accounts of all hosts are over their limit.
const FEW_ENTRIES: usize = 32;
/// Memory, in bytes, for frames and the locations of their records; 10,000 hosts of 300 processes need 0.92 GiB. Above
/// the limit, frames of the longest silent hosts are dropped and read from the archive on demand.
pub const FRAME_BYTES_MAX: usize = 1 << 30;
/// Host ids listed in the message about an ambiguous name.
const NAMED_HOSTS_MAX: usize = 8;
/// The newest snapshots. The consumer adds records, the page reads.
#[derive(Debug)]
pub struct Newest {
    state: Mutex<State>,
    changes: broadcast::Sender<HostId>,
    /// Wakes the task that computes facts.
    stale: Notify,
}

#[derive(Debug)]
struct State {
    hosts: HashMap<HostId, HostState>,
    assembly: Assembly,
    frame_bytes: usize,
    /// [`FRAME_BYTES_MAX`].
    frame_bytes_max: usize,
    /// Hosts with facts older than their newest frame, in the order in which the facts became stale.
    stale: VecDeque<HostId>,
    queued: HashSet<HostId>,
    /// Complete frames of hosts beyond [`HOSTS_MAX`].
    unlisted: u64,
    /// Archived offsets of each log.
    logs: BTreeMap<PartitionName, LogOffsets>,
    /// Entries in the accounts of all hosts.
    account_entries: usize,
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
}

impl Default for State {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            assembly: Assembly::default(),
            frame_bytes: 0,
            frame_bytes_max: FRAME_BYTES_MAX,
            stale: VecDeque::new(),
            queued: HashSet::new(),
            unlisted: 0,
            logs: BTreeMap::new(),
            account_entries: 0,
        }
    }
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
        let is_new = whole.is_some_and(|whole| state.add(&part.partition, whole));
        state.count(part, declared, is_whole);
        if is_new {
            state.mark_stale(host_id);
            drop(state);
            self.stale.notify_one();
        }
    }

    /// Adds the saved state.
    pub fn restore(&self, saved: SavedHosts) {
        let mut state = self.state();
        for (log, offsets) in &saved.offsets {
            state.logs.entry(log.clone()).or_default().merge(offsets);
        }
        for saved in saved.hosts {
            state.restore(saved);
        }
        drop(state);
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

    /// Removes a day from all counts, to count the day again.
    pub fn uncount_day(&self, day: i32) {
        self.change_day(day, Account::uncount_day);
    }

    /// Removes a day that the archive no longer has from all accounts.
    pub fn forget_day(&self, day: i32) {
        self.change_day(day, Account::forget_day);
    }

    fn change_day(&self, day: i32, change: impl Fn(&mut Account, i32)) {
        let mut state = self.state();
        state.logs.values_mut().for_each(|log| log.remove_day(day));
        let mut entries = 0;
        for host in state.hosts.values_mut() {
            change(&mut host.account, day);
            entries += host.account.entries();
        }
        state.account_entries = entries;
    }

    /// Returns the account of a host, for readers.
    pub fn account(&self, host_id: HostId) -> Arc<Summary> {
        let state = self.state();
        Arc::new(state.hosts.get(&host_id).map(|host| host.account.summary()).unwrap_or_default())
    }

    /// Takes the time of a boot from an opened snapshot, for the times of missed ticks.
    pub fn note_boot(&self, snapshot: &HostSnapshot) {
        let (Some(booted_ns), Ok(host)) = (facts::booted_ns(&snapshot.view), snapshot.view.host()) else { return };
        self.state().set_boot(snapshot.host_id, &facts::bounded(host.boot_id), booted_ns);
    }

    /// Returns what the list of hosts leaves out.
    pub fn omitted(&self) -> OmittedFrames {
        let state = self.state();
        OmittedFrames {
            unlisted_frames: state.unlisted,
            abandoned_frames: state.assembly.abandoned(),
            ..OmittedFrames::default()
        }
    }

    /// Returns when the oldest incomplete frame began (ns since the epoch), among frames begun after `after_ns`.
    pub fn waiting_since_ns(&self, after_ns: i64) -> Option<i64> {
        self.state().assembly.waiting_since_ns(after_ns)
    }

    /// Returns all hosts, sorted by name.
    pub fn rows(&self) -> Vec<HostRow> {
        let state = self.state();
        let mut rows: Vec<HostRow> = state.hosts.iter().map(|(host_id, host)| host.row(*host_id)).collect();
        drop(state);
        rows.sort_by(|a, b| (&a.hostname, a.host_id).cmp(&(&b.hostname, b.host_id)));
        rows
    }

    /// Returns one host.
    pub fn row(&self, host_id: HostId) -> Option<HostRow> {
        self.state().hosts.get(&host_id).map(|host| host.row(host_id))
    }

    /// Returns the id of the host with this id, or of the only host with this name.
    ///
    /// # Errors
    /// When no host or several hosts match.
    pub fn resolve(&self, host: &str) -> Result<HostId, QueryError> {
        let state = self.state();
        if let Ok(host_id) = host.parse::<HostId>()
            && state.hosts.contains_key(&host_id)
        {
            return Ok(host_id);
        }
        let mut named: Vec<HostId> =
            state.hosts.iter().filter(|(_, known)| known.facts.hostname == host).map(|(host_id, _)| *host_id).collect();
        named.sort_unstable();
        match named.as_slice() {
            [] => Err(QueryError::UnknownHost(host.to_owned())),
            [only] => Ok(*only),
            several => Err(QueryError::AmbiguousHost {
                name: host.to_owned(),
                count: several.len(),
                ids: {
                    let ids: Vec<String> = several.iter().take(NAMED_HOSTS_MAX).map(HostId::to_string).collect();
                    ids.join(", ")
                },
            }),
        }
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
            let host_id = state.stale.pop_front()?;
            state.queued.remove(&host_id);
            if let Some(host) = state.hosts.get(&host_id) {
                return Some(host.current(host_id));
            }
        }
    }

    /// Waits until a host may have stale facts.
    pub async fn stale(&self) {
        self.stale.notified().await;
    }

    /// Sets the facts from a host's newest frame, or the reason why the frame is unreadable, and notifies the receivers
    /// of changes.
    pub fn set_facts(&self, frame: &FrameKey, facts: Result<SavedFacts, String>) {
        let mut state = self.state();
        if let Ok(SavedFacts { booted_ns: Some(booted_ns), boot_id, .. }) = &facts {
            state.set_boot(frame.host_id, boot_id, *booted_ns);
        }
        if let Some(host) = state.hosts.get_mut(&frame.host_id) {
            match facts {
                Ok(facts) => {
                    (host.facts, host.unreadable) = (facts, None);
                    host.facts_of = Some(*frame);
                }
                // A newer frame has arrived meanwhile and is opened next.
                Err(_) if host.newest.saved.frame.key != *frame => {}
                Err(reason) => host.unreadable = Some(facts::bounded(reason)),
            }
        }
        drop(state);
        // Sending fails when there is no receiver; ignored.
        let _ = self.changes.send(frame.host_id);
    }

    /// Returns a receiver for the id of each host whose newest snapshot was replaced.
    pub fn changes(&self) -> broadcast::Receiver<HostId> {
        self.changes.subscribe()
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

impl State {
    /// Adds a complete frame. Returns true when the host's newest frame or its key frame changed.
    fn add(&mut self, partition: &PartitionName, whole: Whole) -> bool {
        let host_id = whole.frame.key.host_id;
        let known = LatestFrame::from(whole);
        let Some(host) = self.hosts.get_mut(&host_id) else {
            if self.hosts.len() >= HOSTS_MAX {
                self.unlisted += 1;
                edr_daemon::limited!(
                    log::Level::Warn,
                    Event::TooManyHosts,
                    EDR_SOURCE = "newest",
                    EDR_HOST = host_id.to_string(),
                    "{HOSTS_MAX} hosts are listed and {host_id} is one more: its records are archived, it is not listed"
                );
                return false;
            }
            let lineage = Lineage::begin(&known.saved.frame.key, Vec::new());
            let key = (known.saved.frame.kind == FrameKind::Key).then(|| known.clone());
            let host = HostState {
                partition: partition.clone(),
                lineage,
                newest: known,
                key,
                facts: SavedFacts::default(),
                facts_of: None,
                conflicting: VecDeque::new(),
                conflicts: 0,
                unreadable: None,
                account: Account::default(),
            };
            self.frame_bytes += host.byte_len();
            self.hosts.insert(host_id, host);
            self.shed_frames();
            return true;
        };
        let before = host.byte_len();
        let changed = host.add(partition, known);
        let after = host.byte_len();
        self.frame_bytes = (self.frame_bytes + after).saturating_sub(before);
        self.shed_frames();
        changed
    }

    /// Adds an archived record to the log's offsets.
    fn archived(&mut self, partition: &PartitionName, place: RecordPosition) {
        let log = match self.logs.get_mut(partition) {
            Some(log) => log,
            None => self.logs.entry(partition.clone()).or_default(),
        };
        log.add(place.offset, day_of(place.received_ns), place.received_ns);
    }

    /// Adds an archived record to the host's account.
    fn count(&mut self, part: &ArchivedPart, declared: &Declarations, is_whole: bool) {
        let FrameKey { host_id, epoch, seq, .. } = part.frame.key;
        let Some(host) = self.hosts.get_mut(&host_id) else { return };
        let before = host.account.entries();
        if is_whole {
            let day = day_of(part.place.received_ns);
            host.account.frame(epoch, seq, day, part.frame.captured_ns, declared);
        } else {
            host.account.part(epoch, seq, declared);
        }
        // An account that does not grow keeps its entries, whatever other hosts have.
        let is_full = self.account_entries > ACCOUNT_ENTRIES_MAX && host.account.entries() > before;
        host.account.shrink(if is_full { FEW_ENTRIES } else { ENTRIES_MAX });
        self.account_entries = (self.account_entries + host.account.entries()).saturating_sub(before);
    }

    /// Adds the time of a boot to the account of a host.
    fn set_boot(&mut self, host_id: HostId, boot_id: &str, booted_ns: i64) {
        let Some(host) = self.hosts.get_mut(&host_id) else { return };
        let before = host.account.entries();
        host.account.set_boot(boot_id, booted_ns);
        self.account_entries = (self.account_entries + host.account.entries()).saturating_sub(before);
    }

    fn restore(&mut self, saved: SavedHost) {
        if let Some(known) = self.hosts.get_mut(&saved.host_id) {
            let before = known.account.entries();
            known.account.merge(&saved.account);
            known.account.shrink(ENTRIES_MAX);
            self.account_entries = (self.account_entries + known.account.entries()).saturating_sub(before);
        }
        let known = self.hosts.get(&saved.host_id);
        // The host in memory stays, unless another collector received something later.
        if known.is_some_and(|known| known.newest.saved.received_ns >= saved.newest.received_ns)
            || (known.is_none() && self.hosts.len() >= HOSTS_MAX)
        {
            return;
        }
        let account = known.map_or(saved.account, |known| known.account.clone());
        if known.is_none() {
            self.account_entries += account.entries();
        }
        let before = known.map_or(0, HostState::byte_len);
        let lineage = Lineage::begin(&saved.newest.frame.key, saved.epochs);
        let key = if saved.newest.frame.kind == FrameKind::Key { Some(saved.newest.clone()) } else { saved.key };
        let host = HostState {
            partition: saved.partition,
            lineage,
            newest: LatestFrame { saved: saved.newest, loaded: None },
            key: key.map(|saved| LatestFrame { saved, loaded: None }),
            facts: saved.facts,
            facts_of: saved.facts_of,
            conflicting: saved.conflicting.into_iter().take(CONFLICTS_MAX).collect(),
            conflicts: saved.conflicts,
            unreadable: None,
            account,
        };
        let is_stale = host.facts_of != Some(host.newest.saved.frame.key);
        self.frame_bytes = (self.frame_bytes + host.byte_len()).saturating_sub(before);
        self.hosts.insert(saved.host_id, host);
        self.shed_frames();
        if is_stale {
            self.mark_stale(saved.host_id);
        }
    }

    fn mark_stale(&mut self, host_id: HostId) {
        if self.queued.insert(host_id) {
            self.stale.push_back(host_id);
        }
    }

    /// When the budget is exceeded, drops frames of the longest silent hosts until a tenth of the budget is free.
    fn shed_frames(&mut self) {
        if self.frame_bytes <= self.frame_bytes_max {
            return;
        }
        let mut silent: Vec<(i64, HostId)> =
            self.hosts.iter().map(|(host_id, host)| (host.newest.saved.received_ns, *host_id)).collect();
        silent.sort_unstable();
        for (_, host_id) in silent {
            if self.frame_bytes <= self.frame_bytes_max / 10 * 9 {
                return;
            }
            if let Some(host) = self.hosts.get_mut(&host_id) {
                let before = host.byte_len();
                host.newest.leave();
                host.key.iter_mut().for_each(LatestFrame::leave);
                self.frame_bytes = (self.frame_bytes + host.byte_len()).saturating_sub(before);
            }
        }
    }
}

/// Epochs of a host, with the highest sequence number of each.
pub type Epochs = Vec<(Epoch, u64)>;
