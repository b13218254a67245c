//! The newest snapshot of every host, in memory, compressed: its newest frame and the key frame that one needs.
//!
//! Records come from two sides and in the same form: with their bytes as they are received, and without them when a
//! start reads back what was archived since the last save. So nothing here waits for a disk, a start need not read
//! bodies, and a body that is not in memory is fetched from its [`Place`] when somebody asks.
//!
//! It knows nothing of Kafka, and of the archive only how to read it ([`replay`]). Everything a host can make large is
//! bounded: parts that wait for
//! others ([`assembly`]), frames ([`FRAME_BYTES_MAX`]), hosts ([`HOSTS_MAX`]), and what is remembered to tell a duplicate
//! from a conflict ([`order`]).

mod assembly;
mod facts;
mod host;
mod order;
mod replay;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use edr_wire::frame::{FrameKind, Record};
use edr_wire::{Epoch, HostId};
use tokio::sync::{Notify, broadcast};

use self::assembly::{Assembly, Whole};
pub use self::facts::facts;
pub use self::host::Known;
use self::host::{CONFLICTS_MAX, Host};
use self::order::Lineage;
pub use self::replay::catch_up;
use crate::archive::{ArchivedHeader, Header, PartitionName, Place, SavedFacts, SavedFrame, SavedHost};
use crate::event::Event;
use crate::query::{HostRow, QueryError};

/// Hosts that are listed. Whoever may write the topic can invent hosts, about 1 KB each and 12 KB at most beside their
/// frames; what they send is archived all the same.
pub const HOSTS_MAX: usize = 100_000;
/// Memory of frames that are kept, with the places of their records; 10,000 hosts of 300 processes need 0.92 GiB. Beyond
/// it the frames of the hosts that were silent longest are left to the archive.
pub const FRAME_BYTES_MAX: usize = 1 << 30;
/// Hosts named in a message about an ambiguous name.
const NAMED_HOSTS_MAX: usize = 8;
/// The newest snapshots. Shared by the consumer, who adds to it, and by those who answer questions.
#[derive(Debug)]
pub struct Newest {
    state: Mutex<State>,
    changes: broadcast::Sender<HostId>,
    /// Somebody should compute facts.
    stale: Notify,
}

#[derive(Debug)]
struct State {
    hosts: HashMap<HostId, Host>,
    assembly: Assembly,
    frame_bytes: usize,
    /// [`FRAME_BYTES_MAX`].
    frame_bytes_max: usize,
    /// Hosts whose facts are older than their newest frame, in the order they got so.
    stale: VecDeque<HostId>,
    queued: HashSet<HostId>,
    /// Records of hosts beyond [`HOSTS_MAX`].
    unlisted: u64,
}

/// What is needed to open a host's newest snapshot.
#[derive(Debug, Clone)]
pub struct Current {
    /// The host.
    pub host_id: HostId,
    /// Its newest frame.
    pub newest: Known,
    /// The key it needs, when it is known.
    pub key: Option<Known>,
    /// Its newest frame came with another content too, afterwards.
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
        }
    }
}

impl Default for Newest {
    fn default() -> Self {
        // A listener that is 256 changes behind is told so and asks again.
        Self { state: Mutex::default(), changes: broadcast::channel(256).0, stale: Notify::new() }
    }
}

impl Newest {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record as it is received.
    pub fn offer(&self, partition: &PartitionName, place: Place, record: Record) {
        let header = ArchivedHeader::from(&record);
        self.take(partition, place, header, Some(record));
    }

    /// Takes a record that is archived already, without its bytes.
    pub fn note(&self, header: Header) {
        self.take(&header.partition, header.place, header.content, None);
    }

    fn take(&self, partition: &PartitionName, place: Place, header: ArchivedHeader, record: Option<Record>) {
        let host_id = header.host_id;
        let mut state = self.state();
        let whole = state.assembly.add(&header, place, record);
        if whole.is_some_and(|whole| state.add(partition, whole)) {
            state.mark_stale(host_id);
            drop(state);
            self.stale.notify_one();
        }
    }

    /// Takes hosts as they were saved.
    pub fn restore(&self, saved: Vec<SavedHost>) {
        let mut state = self.state();
        for saved in saved {
            state.restore(saved);
        }
        drop(state);
        self.stale.notify_one();
    }

    /// Hosts of these partitions, to be saved.
    pub fn save(&self, covered: impl Fn(&PartitionName) -> bool) -> Vec<SavedHost> {
        let state = self.state();
        let of_partition = state.hosts.iter().filter(|(_, host)| covered(&host.partition));
        of_partition.map(|(host_id, host)| host.saved(*host_id)).collect()
    }

    /// When the oldest part came, after `after_ns`, that still waits for others.
    pub fn waiting_since_ns(&self, after_ns: i64) -> Option<i64> {
        self.state().assembly.waiting_since_ns(after_ns)
    }

    /// All hosts, by name.
    pub fn rows(&self) -> Vec<HostRow> {
        let state = self.state();
        let mut rows: Vec<HostRow> = state.hosts.iter().map(|(host_id, host)| host.row(*host_id)).collect();
        drop(state);
        rows.sort_by(|a, b| (&a.hostname, a.host_id).cmp(&(&b.hostname, b.host_id)));
        rows
    }

    /// One host.
    pub fn row(&self, host_id: HostId) -> Option<HostRow> {
        self.state().hosts.get(&host_id).map(|host| host.row(host_id))
    }

    /// The host with this id, or the only one with this name.
    ///
    /// # Errors
    /// When there is none, or several have the name.
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

    /// What is needed to open a host's newest snapshot.
    pub fn current(&self, host_id: HostId) -> Option<Current> {
        let state = self.state();
        let host = state.hosts.get(&host_id)?;
        Some(host.current(host_id))
    }

    /// A host whose facts are older than its newest frame, when there is one now.
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

    /// Waits until there may be such a host.
    pub async fn stale(&self) {
        self.stale.notified().await;
    }

    /// Sets what the newest frame of a host says, or why it says nothing, and tells those who listen.
    pub fn set_facts(&self, host_id: HostId, frame: &SavedFrame, facts: Result<SavedFacts, String>) {
        let mut state = self.state();
        if let Some(host) = state.hosts.get_mut(&host_id) {
            match facts {
                Ok(facts) => {
                    (host.facts, host.unreadable) = (facts, None);
                    host.facts_of = Some((frame.epoch, frame.seq));
                }
                // A newer frame has come meanwhile; its own turn will tell.
                Err(_) if host.newest.saved.seq != frame.seq => {}
                Err(reason) => host.unreadable = Some(facts::bounded(reason)),
            }
        }
        drop(state);
        // Nobody may be listening.
        let _ = self.changes.send(host_id);
    }

    /// Tells the id of each host whose newest snapshot was replaced.
    pub fn changes(&self) -> broadcast::Receiver<HostId> {
        self.changes.subscribe()
    }

    /// Hosts in memory.
    pub fn len(&self) -> usize {
        self.state().hosts.len()
    }

    /// No host yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    /// Adds a whole frame; true when the host's newest snapshot, or what it needs to be opened, changed.
    fn add(&mut self, partition: &PartitionName, whole: Whole) -> bool {
        let host_id = whole.header.host_id;
        let known = Known::from(whole.frame, &whole.header, whole.places);
        let Some(host) = self.hosts.get_mut(&host_id) else {
            if self.hosts.len() >= HOSTS_MAX {
                self.unlisted += 1;
                edr_daemon::limited!(
                    log::Level::Warn, Event::TooManyHosts, EDR_SOURCE = "newest", EDR_HOST = host_id.to_string();
                    "{HOSTS_MAX} hosts are listed and {host_id} is one more: its records are archived, it is not listed"
                );
                return false;
            }
            let mut lineage = Lineage::default();
            lineage.judge(&whole.header, known.saved.received_ns);
            let key = (known.saved.kind == FrameKind::Key).then(|| known.clone());
            let host = Host {
                partition: partition.clone(),
                lineage,
                newest: known,
                key,
                facts: SavedFacts::default(),
                facts_of: None,
                conflicting: VecDeque::new(),
                conflicts: 0,
                unreadable: None,
            };
            self.frame_bytes += host.byte_len();
            self.hosts.insert(host_id, host);
            self.shed_frames();
            return true;
        };
        let before = host.byte_len();
        let changed = host.add(partition, known, &whole.header);
        let after = host.byte_len();
        self.frame_bytes = (self.frame_bytes + after).saturating_sub(before);
        self.shed_frames();
        changed
    }

    fn restore(&mut self, saved: SavedHost) {
        let known = self.hosts.get(&saved.host_id);
        // What is in memory stays, unless another collector got something later.
        if known.is_some_and(|known| known.newest.saved.received_ns >= saved.newest.received_ns)
            || (known.is_none() && self.hosts.len() >= HOSTS_MAX)
        {
            return;
        }
        let before = known.map_or(0, Host::byte_len);
        let lineage = Lineage::restore(&saved.newest, saved.epochs);
        let key = if saved.newest.kind == FrameKind::Key { Some(saved.newest.clone()) } else { saved.key };
        let host = Host {
            partition: saved.partition,
            lineage,
            newest: Known { saved: saved.newest, frame: None },
            key: key.map(|saved| Known { saved, frame: None }),
            facts: saved.facts,
            facts_of: saved.facts_of,
            conflicting: saved.conflicting.into_iter().take(CONFLICTS_MAX).collect(),
            conflicts: saved.conflicts,
            unreadable: None,
        };
        let is_stale = host.facts_of != Some((host.newest.saved.epoch, host.newest.saved.seq));
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

    /// Leaves frames to the archive until a tenth of the budget is free.
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
                host.key.iter_mut().for_each(Known::leave);
                self.frame_bytes = (self.frame_bytes + host.byte_len()).saturating_sub(before);
            }
        }
    }
}

/// Epoch, sequence number and half of the hash of a content.
pub type Content = (Epoch, u64, [u8; 16]);

/// Epochs of a host with the highest sequence number of each.
pub type Epochs = Vec<(Epoch, u64)>;
