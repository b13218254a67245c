//! Stage 4: saves the table `hosts`, from which the next start reads, and does the upkeep of all tables: checkpoints,
//! removal of old log entries and unused files.
//!
//! No other stage waits for this stage. While a save takes long, the newest coverage replaces the coverage before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edr_archive::{ArchiveError, Coverage, HostsTable, PartitionName, SavedHosts, Upkeep};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Vitals, sleep_until};
use crate::event::Event as Said;
use crate::newest::Newest;

/// Age, in ns, at which an incomplete frame stops limiting the coverage of a save.
const WAITING_NS_MAX: i64 = 600_000_000_000;

/// Intervals of the derived work.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Between two saves of the hosts. A start reads all records of `frames` received after the last save.
    pub save: Duration,
    /// Between two rounds of upkeep, which look for due work.
    pub upkeep: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { save: Duration::from_secs(60), upkeep: Duration::from_secs(60) }
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

/// The tables of the archive, as this stage uses the tables.
pub trait DerivedStore: Send + 'static {
    /// Replaces the rows of `hosts` in the covered partitions.
    fn save_hosts(
        &mut self,
        saved: SavedHosts,
        coverage: &Coverage,
    ) -> impl Future<Output = Result<(), ArchiveError>> + Send;

    /// Does the due upkeep of all tables. `sign` is called before each table. Upkeep goes on after a failure; the first
    /// error is returned.
    fn maintain(&mut self, sign: &(dyn Fn() + Sync)) -> impl Future<Output = Result<(), ArchiveError>> + Send;
}

/// The tables in an archive's folder.
#[derive(Debug)]
pub struct DerivedTables {
    /// The table of hosts.
    pub hosts: HostsTable,
    /// The upkeep of each table.
    pub upkeep: Vec<Upkeep>,
}

impl DerivedTables {
    /// Opens the tables in the archive's folder; creates tables when missing.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds something else.
    pub async fn open(archive: &Path) -> Result<Self, ArchiveError> {
        Ok(Self { hosts: HostsTable::open(archive).await?, upkeep: edr_archive::upkeep(archive) })
    }
}

impl DerivedStore for DerivedTables {
    async fn save_hosts(&mut self, saved: SavedHosts, coverage: &Coverage) -> Result<(), ArchiveError> {
        self.hosts.save(saved, coverage).await
    }

    async fn maintain(&mut self, sign: &(dyn Fn() + Sync)) -> Result<(), ArchiveError> {
        let mut result = Ok(());
        for table in &mut self.upkeep {
            sign();
            result = result.and(table.run().await);
        }
        result
    }
}

/// The fourth stage.
#[derive(Debug)]
pub(super) struct Derive<S> {
    published: watch::Receiver<PublishedPositions>,
    newest: Arc<Newest>,
    store: S,
    schedule: Schedule,
    save_at: Instant,
    upkeep_at: Instant,
    /// True when something was published after the last save.
    is_unsaved: bool,
    /// [`PublishedPositions::set_back`] at the last look.
    set_back: u64,
    vitals: Arc<Vitals>,
}

impl<S: DerivedStore> Derive<S> {
    pub(super) fn new(
        published: watch::Receiver<PublishedPositions>,
        newest: Arc<Newest>,
        store: S,
        schedule: Schedule,
        vitals: Arc<Vitals>,
    ) -> Self {
        let (save_at, upkeep_at) = (Instant::now() + schedule.save, Instant::now() + schedule.upkeep);
        Self { published, newest, store, schedule, save_at, upkeep_at, is_unsaved: false, set_back: 0, vitals }
    }

    /// Runs until `publish` has ended; then saves once more. Upkeep ends early when `ending` becomes true, so that the
    /// last save has time.
    pub(super) async fn run(mut self, mut ending: watch::Receiver<bool>) {
        loop {
            let (save_at, upkeep_at) = (self.is_unsaved.then_some(self.save_at), self.upkeep_at);
            tokio::select! {
                biased;
                changed = self.published.changed() => match changed {
                    Ok(()) => self.look(),
                    Err(_) => break,
                },
                () = sleep_until(save_at) => self.save().await,
                () = tokio::time::sleep_until(upkeep_at) => {
                    tokio::select! {
                        () = self.maintain() => {}
                        _ = ending.wait_for(|ending| *ending) => {}
                    }
                    self.upkeep_at = Instant::now() + self.schedule.upkeep;
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
        let saved = self.newest.save(|partition| positions.keys().any(|read| read.partition == partition.partition));
        let until_ns = waiting_since_ns.map_or(until_ns, |since_ns| since_ns.min(until_ns));
        let coverage = positions.into_iter().map(|(partition, position)| (partition, (position, until_ns))).collect();
        if let Err(error) = self.store.save_hosts(saved, &coverage).await {
            edr_daemon::limited!(
                log::Level::Warn,
                Said::ArchiveFails,
                EDR_SOURCE = "archive",
                "{error}; a start would read more of the archive"
            );
        }
    }

    async fn maintain(&mut self) {
        let _step = self.vitals.derive.step();
        let sign = || self.vitals.derive.sign();
        if let Err(error) = self.store.maintain(&sign).await {
            edr_daemon::limited!(log::Level::Warn, "{error}; upkeep of the table is tried again");
        }
    }
}
