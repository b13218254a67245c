//! The state of all hosts behind the lock of [`Newest`](super::Newest).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use edr_archive::{ArchivedPart, PartitionName, RecordPosition, SavedFacts, SavedHost, SavedHosts, day_of};
use edr_model::accounting::{Account, Declarations, ENTRIES_MAX, LogOffsets};
use edr_wire::HostId;
use edr_wire::frame::{FrameKey, FrameKind};

use super::LatestFrame;
use super::assembly::{Assembly, Whole};
use super::host::{CONFLICTS_MAX, HostState};
use super::order::Lineage;
use crate::event::Event;

/// Hosts in the list. Any writer of the topic can invent hosts, which cost about 2 KB each and 16 KB at most, frames
/// and accounts not included. Records of further hosts are still archived.
pub const HOSTS_MAX: usize = 100_000;
/// Entries in the accounts of all hosts together, about 60 bytes each. Above the limit, an account that grows is cut to
/// [`FEW_ENTRIES`].
const ACCOUNT_ENTRIES_MAX: usize = 4_000_000;
/// Entries of one account when the accounts of all hosts are over their limit.
pub(super) const FEW_ENTRIES: usize = 32;
/// Memory, in bytes, for frames and the locations of their records; 10,000 hosts of 300 processes need 0.92 GiB. Above
/// the limit, frames of the longest silent hosts are dropped and read from the archive on demand.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

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
    pub(super) queued: HashSet<HostId>,
    /// Complete frames of hosts beyond [`HOSTS_MAX`].
    pub(super) unlisted: u64,
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
            queued: HashSet::new(),
            unlisted: 0,
            logs: BTreeMap::new(),
            account_entries: 0,
            account_entries_max: ACCOUNT_ENTRIES_MAX,
        }
    }
}

impl State {
    /// Adds a complete frame. Returns true when the host's newest frame or its key frame changed.
    pub(super) fn add(&mut self, partition: &PartitionName, whole: Whole) -> bool {
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
                account: Arc::default(),
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
    pub(super) fn archived(&mut self, partition: &PartitionName, place: RecordPosition) {
        let log = match self.logs.get_mut(partition) {
            Some(log) => log,
            None => self.logs.entry(partition.clone()).or_default(),
        };
        log.add(place.offset, day_of(place.received_ns), place.received_ns);
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
        // An account that does not grow keeps its entries, whatever other hosts have.
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
        let account = known.map_or_else(|| Arc::new(saved.account), |known| Arc::clone(&known.account));
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

    pub(super) fn mark_stale(&mut self, host_id: HostId) {
        if self.queued.insert(host_id) {
            self.stale.push_back(host_id);
        }
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
                host.newest.leave();
                host.key.iter_mut().for_each(LatestFrame::leave);
                self.frame_bytes = (self.frame_bytes + host.byte_len()).saturating_sub(before);
            }
        }
    }
}
