//! Stage 4: work derived from archived records: saves the table `hosts`, from which the next start reads, and removes
//! the files of earlier saves.
//!
//! Nothing waits for this stage. While a save takes long, the newest coverage replaces the coverage before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Vitals, sleep_until};
use crate::archive::{ArchiveError, Coverage, HostsTable, PartitionName, SavedHost};
use crate::event::Event as Said;
use crate::newest::Newest;

/// Age, in ns, at which an incomplete frame stops limiting the coverage of a save.
const WAITING_NS_MAX: i64 = 600_000_000_000;

/// Intervals of the derived work.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Between two saves of the hosts. A start reads all records of `frames` received after the last save.
    pub save: Duration,
    /// Between two removals of the files of earlier saves.
    pub clean: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { save: Duration::from_secs(60), clean: Duration::from_secs(3_600) }
    }
}

/// The archived records that memory has.
#[derive(Debug, Clone, Default)]
pub(super) struct PublishedPositions {
    /// The position after the last published record of each log being read.
    pub(super) positions: BTreeMap<PartitionName, i64>,
    /// All records of these logs received before this moment (ns since the epoch) are published.
    pub(super) until_ns: i64,
    /// How often the collector's clock was found set back.
    pub(super) set_back: u64,
}

impl PublishedPositions {
    /// Notes a published record, in the order of receipt.
    pub(super) fn receive(&mut self, received_ns: i64) {
        self.set_back += u64::from(received_ns < self.until_ns);
        self.until_ns = received_ns;
    }
}

/// The stored list of hosts, as this stage uses the list.
pub trait HostsStore: Send + 'static {
    /// Replaces the rows of the covered partitions.
    fn save(
        &mut self,
        hosts: &[SavedHost],
        coverage: &Coverage,
    ) -> impl Future<Output = Result<(), ArchiveError>> + Send;

    /// Removes the files of earlier saves.
    fn clean(&mut self) -> impl Future<Output = Result<(), ArchiveError>> + Send;
}

impl HostsStore for HostsTable {
    async fn save(&mut self, hosts: &[SavedHost], coverage: &Coverage) -> Result<(), ArchiveError> {
        Self::save(self, hosts, coverage).await
    }

    async fn clean(&mut self) -> Result<(), ArchiveError> {
        Self::clean(self).await
    }
}

/// The fourth stage.
#[derive(Debug)]
pub(super) struct Derive<H> {
    published: watch::Receiver<PublishedPositions>,
    newest: Arc<Newest>,
    hosts: H,
    schedule: Schedule,
    save_at: Instant,
    /// `None` when there are no files of earlier saves.
    clean_at: Option<Instant>,
    /// True when something was published after the last save.
    is_unsaved: bool,
    /// [`PublishedPositions::set_back`] at the last look.
    set_back: u64,
    vitals: Arc<Vitals>,
}

impl<H: HostsStore> Derive<H> {
    pub(super) fn new(
        published: watch::Receiver<PublishedPositions>,
        newest: Arc<Newest>,
        hosts: H,
        schedule: Schedule,
        vitals: Arc<Vitals>,
    ) -> Self {
        let save_at = Instant::now() + schedule.save;
        Self { published, newest, hosts, schedule, save_at, clean_at: None, is_unsaved: false, set_back: 0, vitals }
    }

    /// Runs until `publish` has ended; then saves once more. A clean-up ends early when `ending` becomes true, so that
    /// the last save has time.
    pub(super) async fn run(mut self, mut ending: watch::Receiver<bool>) {
        loop {
            let (save_at, clean_at) = (self.is_unsaved.then_some(self.save_at), self.clean_at);
            tokio::select! {
                biased;
                changed = self.published.changed() => match changed {
                    Ok(()) => self.look(),
                    Err(_) => break,
                },
                () = sleep_until(save_at) => self.save().await,
                () = sleep_until(clean_at) => {
                    tokio::select! {
                        () = self.clean() => {}
                        _ = ending.wait_for(|ending| *ending) => {}
                    }
                    self.clean_at = None;
                }
            }
        }
        self.save().await;
    }

    /// Looks at new coverage. After the clock was set back, the hosts are saved at once, because a start finds the
    /// records after a save by their times.
    fn look(&mut self) {
        let set_back = self.published.borrow_and_update().set_back;
        if set_back != self.set_back {
            self.save_at = Instant::now();
        }
        (self.set_back, self.is_unsaved) = (set_back, true);
    }

    /// Saves the hosts. A start reads all records again that were received after the end of the coverage; the coverage
    /// therefore ends before the first part of any incomplete frame.
    async fn save(&mut self) {
        let _step = self.vitals.derive.step();
        self.save_at = Instant::now() + self.schedule.save;
        self.is_unsaved = false;
        // In this order: the hosts are read last, and so have at least the records of the coverage.
        let PublishedPositions { positions, until_ns, .. } = self.published.borrow_and_update().clone();
        if positions.is_empty() {
            return;
        }
        let waiting_since_ns = self.newest.waiting_since_ns(until_ns.saturating_sub(WAITING_NS_MAX));
        let hosts = self.newest.save(|partition| positions.keys().any(|read| read.partition == partition.partition));
        let until_ns = waiting_since_ns.map_or(until_ns, |since_ns| since_ns.min(until_ns));
        let coverage = positions.into_iter().map(|(partition, position)| (partition, (position, until_ns))).collect();
        if let Err(error) = self.hosts.save(&hosts, &coverage).await {
            edr_daemon::limited!(
                log::Level::Warn, Said::ArchiveFails, EDR_SOURCE = "archive";
                "{error}; a start would read more of the archive"
            );
        }
        self.clean_at.get_or_insert_with(|| Instant::now() + self.schedule.clean);
    }

    async fn clean(&mut self) {
        let _step = self.vitals.derive.step();
        if let Err(error) = self.hosts.clean().await {
            edr_daemon::limited!(log::Level::Warn, "{error}; it is tried again after the next save");
        }
    }
}
