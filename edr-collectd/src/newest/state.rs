//! The state of all hosts behind the lock of [`Newest`](super::Newest).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use edr_archive::{ArchivedPart, PartitionName, RecordPosition, SavedFacts, SavedHost, SavedHosts, day_of};
use edr_model::OmittedFrames;
use edr_model::accounting::{Account, Declarations, ENTRIES_MAX, LogOffsets};
use edr_wire::HostId;
use edr_wire::frame::FrameKey;

use super::admission::{Admission, NEW_PER_MINUTE};
use super::assembly::{Assembly, Whole};
use super::host::{HostState, SILENT_NS_MAX};
use super::names::Names;
use super::{Current, LatestFrame};
use crate::event::Event;

/// Hosts in the list. Any writer of the topic can invent hosts, which cost about 2 KB each and 24 KB at most, frames
/// and accounts not included. Records of further hosts are still archived.
pub const HOSTS_MAX: usize = 100_000;
/// Hosts above which all hosts that were silent for long leave the list, the longest silent first.
const HOSTS_FULL: usize = HOSTS_MAX / 10 * 9;
/// Entries in the accounts of all hosts together, about 60 bytes each. Above the limit, an account that grows is cut to
/// [`FEW_ENTRIES`].
const ACCOUNT_ENTRIES_MAX: usize = 4_000_000;
/// Entries of one account when the accounts of all hosts are over their limit.
pub(super) const FEW_ENTRIES: usize = 32;
/// Memory, in bytes, for frames and the locations of their records; 10,000 hosts of 300 processes need 0.92 GiB. Above
/// the limit, frames of the longest silent hosts are dropped and read from the archive on demand.
pub const FRAME_BYTES_MAX: usize = 1 << 30;
/// Bytes of a snapshot that a usual host does not exceed: 5,000 processes with 30,000 open files.
const LARGE_BYTES: u32 = 8 << 20;
/// Hosts with smaller snapshots whose facts are computed before those of one host with a large snapshot.
const SMALL_FIRST: u32 = 16;

/// The hosts, the waiting parts and the counted offsets.
#[derive(Debug)]
pub(super) struct State {
    pub(super) hosts: HashMap<HostId, HostState>,
    pub(super) assembly: Assembly,
    pub(super) frame_bytes: usize,
    /// [`FRAME_BYTES_MAX`].
    pub(super) frame_bytes_max: usize,
    /// Hosts with facts older than their newest frame, in the order in which the facts became stale.
    pub(super) stale: VecDeque<HostId>,
    /// The same for hosts with a snapshot above [`LARGE_BYTES`].
    stale_large: VecDeque<HostId>,
    /// Hosts taken from `stale` since the last one from `stale_large`.
    small_taken: u32,
    pub(super) queued: HashSet<HostId>,
    /// The hosts of each name.
    pub(super) names: Names,
    /// Places for new hosts.
    pub(super) admission: Admission,
    /// When the last record was received, ns since the epoch.
    received_ns: i64,
    /// What the list of hosts leaves out, except abandoned frames.
    pub(super) omitted: OmittedFrames,
    /// Archived offsets of each log.
    pub(super) logs: BTreeMap<PartitionName, LogOffsets>,
    /// Entries in the accounts of all hosts.
    pub(super) account_entries: usize,
    /// [`ACCOUNT_ENTRIES_MAX`].
    pub(super) account_entries_max: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            assembly: Assembly::default(),
            frame_bytes: 0,
            frame_bytes_max: FRAME_BYTES_MAX,
            stale: VecDeque::new(),
            stale_large: VecDeque::new(),
            small_taken: 0,
            queued: HashSet::new(),
            names: Names::default(),
            admission: Admission::default(),
            received_ns: 0,
            omitted: OmittedFrames::default(),
            logs: BTreeMap::new(),
            account_entries: 0,
            account_entries_max: ACCOUNT_ENTRIES_MAX,
        }
    }
}

impl State {
    /// Adds a complete frame. Returns true when the host's newest frame or its key frame changed.
    pub(super) fn add(&mut self, partition: &PartitionName, whole: Whole, declared: &Declarations) -> bool {
        let host_id = whole.frame.key.host_id;
        let known = LatestFrame::from(whole);
        let Some(host) = self.hosts.get_mut(&host_id) else {
            if !self.admission.admit(host_id, known.saved.received_ns) {
                self.omitted.refused_frames += 1;
                edr_daemon::limited!(
                    log::Level::Warn,
                    Event::TooManyHosts,
                    EDR_SOURCE = "newest",
                    EDR_HOST = host_id.to_string(),
                    "{host_id} is new, and more than {NEW_PER_MINUTE} hosts a minute are: its records are archived, it \
                     is not listed yet"
                );
                return false;
            }
            if self.hosts.len() >= HOSTS_MAX {
                self.omitted.unlisted_frames += 1;
                edr_daemon::limited!(
                    log::Level::Warn,
                    Event::TooManyHosts,
                    EDR_SOURCE = "newest",
                    EDR_HOST = host_id.to_string(),
                    "{HOSTS_MAX} hosts are listed and {host_id} is one more: its records are archived, it is not listed"
                );
                return false;
            }
            let host = HostState::begin(partition.clone(), known);
            self.frame_bytes += host.byte_len();
            self.hosts.insert(host_id, host);
            self.shed_frames();
            return true;
        };
        let before = host.byte_len();
        let changed = host.add(partition, known, &declared.lost);
        let after = host.byte_len();
        self.frame_bytes = (self.frame_bytes + after).saturating_sub(before);
        self.shed_frames();
        changed
    }

    /// Returns true for a part of a frame with a number that the host cannot have reached.
    pub(super) fn is_jump(&self, part: &ArchivedPart, declared: &Declarations) -> bool {
        let host = self.hosts.get(&part.frame.key.host_id);
        host.is_some_and(|host| host.is_jump(&part.frame, part.place.received_ns, &declared.lost))
    }

    /// Adds an archived record to the log's offsets.
    pub(super) fn archived(&mut self, partition: &PartitionName, place: RecordPosition) {
        let log = match self.logs.get_mut(partition) {
            Some(log) => log,
            None => self.logs.entry(partition.clone()).or_default(),
        };
        log.add(place.offset, day_of(place.received_ns), place.received_ns);
        self.received_ns = place.received_ns;
    }

    /// Adds an archived record to the host's account.
    pub(super) fn count(&mut self, part: &ArchivedPart, declared: &Declarations, is_whole: bool) {
        let FrameKey { host_id, epoch, seq, .. } = part.frame.key;
        let Some(host) = self.hosts.get_mut(&host_id) else { return };
        let account = Arc::make_mut(&mut host.account);
        let before = account.entries();
        if is_whole {
            let day = day_of(part.place.received_ns);
            account.frame(epoch, seq, day, part.frame.captured_ns, declared);
        } else {
            account.part(epoch, seq, declared);
        }
        // An account without growth keeps all entries, also beside larger accounts.
        let is_full = self.account_entries > self.account_entries_max && account.entries() > before;
        account.shrink(if is_full { FEW_ENTRIES } else { ENTRIES_MAX });
        self.account_entries = (self.account_entries + account.entries()).saturating_sub(before);
    }

    /// Adds the time of a boot to the account of a host.
    pub(super) fn set_boot(&mut self, host_id: HostId, boot_id: &str, booted_ns: i64) {
        let Some(host) = self.hosts.get_mut(&host_id) else { return };
        let account = Arc::make_mut(&mut host.account);
        let before = account.entries();
        account.set_boot(boot_id, booted_ns);
        self.account_entries = (self.account_entries + account.entries()).saturating_sub(before);
    }

    /// Changes a day in the offsets of all logs and in all accounts.
    pub(super) fn change_day(&mut self, day: i32, change: impl Fn(&mut Account, i32)) {
        self.logs.values_mut().for_each(|log| log.remove_day(day));
        let mut entries = 0;
        for host in self.hosts.values_mut() {
            let account = Arc::make_mut(&mut host.account);
            change(account, day);
            entries += account.entries();
        }
        self.account_entries = entries;
    }

    pub(super) fn restore_all(&mut self, saved: SavedHosts) {
        for (log, offsets) in &saved.offsets {
            self.logs.entry(log.clone()).or_default().merge(offsets);
        }
        for saved in saved.hosts {
            self.restore(saved);
        }
    }

    pub(super) fn restore(&mut self, saved: SavedHost) {
        if let Some(known) = self.hosts.get_mut(&saved.host_id) {
            let account = Arc::make_mut(&mut known.account);
            let before = account.entries();
            account.merge(&saved.account);
            account.shrink(ENTRIES_MAX);
            self.account_entries = (self.account_entries + account.entries()).saturating_sub(before);
        }
        let known = self.hosts.get(&saved.host_id);
        // The host in memory stays, unless another collector received something later.
        if known.is_some_and(|known| known.newest.saved.received_ns >= saved.newest.received_ns)
            || (known.is_none() && self.hosts.len() >= HOSTS_MAX)
        {
            return;
        }
        let account = known.map_or_else(|| Arc::new(saved.account.clone()), |known| Arc::clone(&known.account));
        if known.is_none() {
            self.account_entries += account.entries();
        }
        let before = known.map_or(0, HostState::byte_len);
        let host_id = saved.host_id;
        let host = HostState::restore(saved, account);
        let is_stale = host.facts_of != Some(host.newest.saved.frame.key);
        if let Some(known) = self.hosts.get(&host_id) {
            self.names.remove(&known.facts.hostname, known.named_ns, host_id);
        }
        self.names.add(&host.facts.hostname, host.named_ns, host_id);
        self.frame_bytes = (self.frame_bytes + host.byte_len()).saturating_sub(before);
        self.hosts.insert(host_id, host);
        self.shed_frames();
        if is_stale {
            self.mark_stale(host_id);
        }
    }

    pub(super) fn mark_stale(&mut self, host_id: HostId) {
        let large = |host: &HostState| host.newest.loaded.as_ref().is_some_and(|frame| frame.raw_len > LARGE_BYTES);
        if self.queued.insert(host_id) {
            let is_large = self.hosts.get(&host_id).is_some_and(large);
            if is_large { &mut self.stale_large } else { &mut self.stale }.push_back(host_id);
        }
    }

    /// Takes the next host with stale facts from the queues. A few large snapshots cost as much as thousands of small
    /// ones, so while both queues have hosts, one large snapshot follows [`SMALL_FIRST`] others.
    pub(super) fn next_stale(&mut self) -> Option<HostId> {
        let is_turn_of_large = self.small_taken >= SMALL_FIRST || self.stale.is_empty();
        let large = if is_turn_of_large { self.stale_large.pop_front() } else { None };
        self.small_taken = if large.is_some() { 0 } else { self.small_taken.saturating_add(1) };
        let host_id = large.or_else(|| self.stale.pop_front())?;
        self.queued.remove(&host_id);
        Some(host_id)
    }

    /// Remembers that an opened frame is readable, with its facts.
    pub(super) fn set_facts(&mut self, opened: &Current, facts: SavedFacts) {
        let host_id = opened.host_id;
        let Some(host) = self.hosts.get(&host_id) else { return };
        let is_renamed = host.facts.hostname != facts.hostname;
        if is_renamed {
            self.names.remove(&host.facts.hostname, host.named_ns, host_id);
        }
        self.change(host_id, |host| host.set_facts(opened, facts));
        if let Some(host) = self.hosts.get(&host_id).filter(|_| is_renamed) {
            self.names.add(&host.facts.hostname, host.named_ns, host_id);
        }
    }

    /// Removes hosts that were seen for a short time only, and then were silent for long: invented hosts, most of all.
    /// A list that is nearly full loses the longest silent of the other hosts, too.
    pub(super) fn age(&mut self) {
        let now_ns = self.received_ns;
        let last_ns = |host: &HostState| host.newest.saved.received_ns;
        let (aged, kept): (Vec<_>, Vec<_>) = self.hosts.iter().partition(|(_, host)| host.is_aged(now_ns));
        let mut leaving: Vec<HostId> = aged.into_iter().map(|(host_id, _)| *host_id).collect();
        if kept.len() > HOSTS_FULL {
            let is_silent = |host: &HostState| now_ns.saturating_sub(last_ns(host)) > SILENT_NS_MAX;
            let mut silent: Vec<(i64, HostId)> = kept
                .iter()
                .filter(|(_, host)| is_silent(host))
                .map(|(host_id, host)| (last_ns(host), **host_id))
                .collect();
            silent.sort_unstable();
            leaving.extend(silent.into_iter().take(kept.len() - HOSTS_FULL).map(|(_, host_id)| host_id));
        }
        for host_id in leaving {
            let Some(host) = self.hosts.remove(&host_id) else { continue };
            self.names.remove(&host.facts.hostname, host.named_ns, host_id);
            self.frame_bytes = self.frame_bytes.saturating_sub(host.byte_len());
            self.account_entries = self.account_entries.saturating_sub(host.account.entries());
            self.omitted.aged_hosts += 1;
        }
    }

    /// Changes a host, and counts the memory of its frames again.
    pub(super) fn change(&mut self, host_id: HostId, change: impl FnOnce(&mut HostState)) {
        let Some(host) = self.hosts.get_mut(&host_id) else { return };
        let before = host.byte_len();
        change(host);
        self.frame_bytes = (self.frame_bytes + host.byte_len()).saturating_sub(before);
        self.shed_frames();
    }

    /// When the budget is exceeded, drops frames of the longest silent hosts until a tenth of the budget is free.
    pub(super) fn shed_frames(&mut self) {
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
                host.leave();
                self.frame_bytes = (self.frame_bytes + host.byte_len()).saturating_sub(before);
            }
        }
    }
}
