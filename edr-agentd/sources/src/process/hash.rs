//! SHA-256 of executables, read through `/proc/PID/exe`, each once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use edr_wire::snapshot::GapReason;
use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::file::{Inode, inode_of, read_more};
use super::step::Step;
use crate::common::hung::JobProgress;
use crate::common::owner::{HomeNames, Owner};
use crate::common::{GapCollector, calls};

/// Executables remembered. A host runs a few hundred; 100 bytes each.
const ENTRIES_MAX: usize = 4_096;
/// Executables of at most this size do not use the budget of the large ones: most tools and most implants.
const SMALL_BYTES: u64 = 1 << 20;
/// Bytes of small executables hashed in one tick, at least: 20 ms with SHA instructions and 90 ms without.
const SMALL_TICK_BYTES: u64 = 32 << 20;
/// Least cost of hashing a file, as bytes.
const FILE_COST_BYTES: u64 = 16 << 10;
/// Waiting executables of an owner; a hashed executable makes room for a further executable.
const WAITING_MAX: usize = 64;
/// Owners with waiting executables.
const OWNERS_MAX: usize = 1_024;

/// Limits on the hashing of executables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashSettings {
    /// Executables larger than this are not hashed, bytes.
    pub file_bytes_max: u64,
    /// Bytes read for hashing in one tick; the first executable of a tick may go beyond. At least 1.
    pub tick_bytes_max: u64,
}

impl Default for HashSettings {
    /// 256 MiB per executable and 32 MiB per tick: a host with 100 MB of running executables has all hashed within four
    /// ticks, each at a cost of 20 ms with SHA instructions and 90 ms without.
    fn default() -> Self {
        Self { file_bytes_max: 256 << 20, tick_bytes_max: 32 << 20 }
    }
}

/// Identity of a file's content. A content change with an equal key requires a writer that sets the clock back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ContentKey {
    dev: u64,
    inode: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl From<&Inode> for ContentKey {
    fn from(found: &Inode) -> Self {
        Self {
            dev: found.dev,
            inode: found.inode,
            size: found.size,
            mtime_ns: found.mtime_ns,
            ctime_ns: found.ctime_ns,
        }
    }
}

/// Why an executable has no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HashAbsence {
    Off,
    TooLarge,
    Budget,
    Denied,
    Stuck,
    Io,
}

impl HashAbsence {
    /// As in the row.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::TooLarge => "too_large",
            Self::Budget => "budget",
            Self::Denied => "denied",
            Self::Stuck => "stuck",
            Self::Io => "io",
        }
    }
}

/// The hashes known so far, and the order in which executables are hashed.
///
/// Executables of at most [`SMALL_BYTES`] have a budget of their own. An executable that does not fit the budget of a
/// tick waits; each tick serves the waiting executables, the longest wait of the owner with the fewest bytes first. So
/// an owner who runs new executables all the time delays only the owner's own.
#[derive(Debug)]
pub(super) struct Hashes {
    settings: Option<HashSettings>,
    known: HashMap<ContentKey, CachedHash>,
    /// Number of known hashes of each owner.
    known_of: HashMap<Owner, usize>,
    pass: u64,
    small: HashQueue,
    large: HashQueue,
}

/// The hash of a file, with the last pass that asked for the hash.
#[derive(Debug)]
struct CachedHash {
    sha256: [u8; 32],
    used: u64,
    owner: Owner,
}

/// Executables that wait for one budget.
#[derive(Debug, Default)]
struct HashQueue {
    /// Waiting executables of each owner, the longest wait first, with the last pass in which a process waited.
    waiting: BTreeMap<Owner, VecDeque<(ContentKey, u64)>>,
    /// Bytes hashed lately, of each owner and of each home.
    served: BTreeMap<Owner, u64>,
    served_homes: BTreeMap<Option<u64>, u64>,
    pass: u64,
    /// Executables whose turn is in this pass.
    granted: BTreeMap<ContentKey, Owner>,
    /// Bytes of this pass for executables that did not wait.
    free: u64,
    /// Nothing was granted in this pass, so that the first executable may go beyond the budget.
    is_untouched: bool,
}

/// Action for an executable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Known([u8; 32]),
    /// The budget is taken: the caller reads the file with [`hash`] and reports the result to [`Hashes::put`].
    Read,
    Not(HashAbsence),
}

impl HashQueue {
    /// Serves the waiting executables, up to `budget`.
    fn start(&mut self, budget: u64) {
        let last = self.pass;
        self.pass += 1;
        // A process that ended waits no longer.
        self.waiting.values_mut().for_each(|queue| queue.retain(|(_, seen)| *seen == last));
        self.waiting.retain(|_, queue| !queue.is_empty());
        self.granted.clear();
        halve(&mut self.served);
        halve(&mut self.served_homes);
        (self.free, self.is_untouched) = (budget, true);
        let mut places: BTreeMap<Owner, usize> = self.waiting.keys().map(|owner| (*owner, 0)).collect();
        while let Some(owner) = places.keys().min_by_key(|owner| self.served_of(**owner)).copied() {
            let place = places.entry(owner).or_default();
            let Some((key, _)) = self.waiting.get(&owner).and_then(|queue| queue.get(*place)).copied() else {
                places.remove(&owner);
                continue;
            };
            *place += 1;
            if !self.take(owner, key.size) {
                // The owner is the first in the next pass.
                break;
            }
            self.granted.insert(key, owner);
        }
    }

    /// Bytes hashed lately of the owner's home and of the owner.
    fn served_of(&self, owner: Owner) -> (u64, u64) {
        let of_home = self.served_homes.get(&owner.home).copied().unwrap_or(0);
        (of_home, self.served.get(&owner).copied().unwrap_or(0))
    }

    /// Takes budget for a file.
    fn take(&mut self, owner: Owner, size: u64) -> bool {
        if size > self.free && !self.is_untouched {
            return false;
        }
        self.free = self.free.saturating_sub(size);
        self.is_untouched = false;
        // Every file costs some system calls.
        let cost = size.max(FILE_COST_BYTES);
        for served in [self.served.entry(owner).or_default(), self.served_homes.entry(owner.home).or_default()] {
            *served = served.saturating_add(cost);
        }
        true
    }

    /// True when the file is read in this pass; otherwise the file waits.
    fn is_served(&mut self, owner: Owner, key: ContentKey) -> bool {
        if self.granted.remove(&key).is_some() || self.take(owner, key.size) {
            return true;
        }
        if !self.still_waits(owner, &key) && (self.waiting.len() < OWNERS_MAX || self.waiting.contains_key(&owner)) {
            let queue = self.waiting.entry(owner).or_default();
            if queue.len() < WAITING_MAX {
                queue.push_back((key, self.pass));
            }
        }
        false
    }

    /// Keeps the place of a file that waits; false for a file without a place.
    fn still_waits(&mut self, owner: Owner, key: &ContentKey) -> bool {
        let place = self.waiting.get_mut(&owner).and_then(|queue| queue.iter_mut().find(|(waits, _)| waits == key));
        place.map(|(_, seen)| *seen = self.pass).is_some()
    }

    /// True when a waiting file would be read now, or has to wait anew.
    fn would_answer(&mut self, owner: Owner, key: &ContentKey) -> bool {
        let has_turn = self.granted.contains_key(key) || self.is_untouched || key.size <= self.free;
        has_turn || !self.still_waits(owner, key)
    }
}

/// Forgets what was served in earlier passes, by and by.
fn halve<K: Ord>(served: &mut BTreeMap<K, u64>) {
    served.values_mut().for_each(|served| *served /= 2);
    served.retain(|_, served| *served > 0);
}

impl Hashes {
    pub(super) fn new(settings: Option<HashSettings>) -> Self {
        let (small, large) = (HashQueue::default(), HashQueue::default());
        Self { settings, known: HashMap::new(), known_of: HashMap::new(), pass: 0, small, large }
    }

    /// A tick begins. `passes_max`: after so many passes every running executable has been asked for.
    pub(super) fn start_pass(&mut self, passes_max: u64) {
        self.pass += 1;
        let budget = self.settings.map_or(0, |settings| settings.tick_bytes_max);
        self.large.start(budget);
        self.small.start(budget.max(SMALL_TICK_BYTES));
        if self.known.len() >= ENTRIES_MAX / 2 {
            let oldest = self.pass.saturating_sub(2 * passes_max.max(1));
            self.known.retain(|_, known| known.used >= oldest);
            self.known_of.clear();
            self.known.values().for_each(|known| *self.known_of.entry(known.owner).or_default() += 1);
        }
    }

    /// Looks up the hash of an executable, or takes budget for the read.
    pub(super) fn look_up(&mut self, owner: Owner, exe: &Inode) -> Lookup {
        let Some(settings) = self.settings else { return Lookup::Not(HashAbsence::Off) };
        let key = ContentKey::from(exe);
        if let Some(known) = self.known.get_mut(&key) {
            known.used = self.pass;
            return Lookup::Known(known.sha256);
        }
        if FileType::from_raw_mode(exe.mode) != FileType::RegularFile {
            return Lookup::Not(HashAbsence::Io);
        }
        if exe.size > settings.file_bytes_max {
            return Lookup::Not(HashAbsence::TooLarge);
        }
        let queue = if exe.size <= SMALL_BYTES { &mut self.small } else { &mut self.large };
        if queue.is_served(owner, key) { Lookup::Read } else { Lookup::Not(HashAbsence::Budget) }
    }

    /// True when a row that waits for this hash would get the hash now.
    pub(super) fn would_answer(&mut self, owner: Owner, key: &ContentKey) -> bool {
        let queue = if key.size <= SMALL_BYTES { &mut self.small } else { &mut self.large };
        self.known.contains_key(key) || queue.would_answer(owner, key)
    }

    /// Remembers a hash. In a full memory the owner with the most hashes loses the hash that was not used for the
    /// longest time.
    pub(super) fn put(&mut self, owner: Owner, exe: &Inode, sha256: [u8; 32]) {
        if self.known.len() >= ENTRIES_MAX {
            let most = self.known_of.iter().max_by_key(|(owner, hashes)| (**hashes, **owner)).map(|(owner, _)| *owner);
            let of_most = self.known.iter().filter(|(_, known)| Some(known.owner) == most);
            if let Some(oldest) = of_most.min_by_key(|(_, known)| known.used).map(|(key, _)| *key) {
                self.forget(&oldest);
            }
        }
        let key = ContentKey::from(exe);
        self.forget(&key);
        self.known.insert(key, CachedHash { sha256, used: self.pass, owner });
        *self.known_of.entry(owner).or_default() += 1;
    }

    fn forget(&mut self, key: &ContentKey) {
        if let Some(known) = self.known.remove(key)
            && let Some(hashes) = self.known_of.get_mut(&known.owner)
        {
            *hashes -= 1;
            if *hashes == 0 {
                self.known_of.remove(&known.owner);
            }
        }
    }

    /// Records the owners with waiting executables, with the bytes.
    pub(super) fn report(&self, names: &HomeNames, gaps: &mut GapCollector) {
        for (owner, queue) in &self.large.waiting {
            let bytes = queue.iter().fold(0_u64, |sum, (key, _)| sum.saturating_add(key.size));
            // At a start all executables of the host wait for a few ticks.
            if queue.len() >= WAITING_MAX {
                let name = names.name(*owner);
                let detail = format!("alarm: {name}: {} executables with {bytes} bytes wait to be hashed", queue.len());
                let field = format!("sha256: {name}");
                gaps.add_count("processes", field.as_bytes(), GapReason::Budget, &detail, queue.len() as u64);
            }
        }
    }
}

/// Reads and hashes `place/exe`, which must be the file `exe` from start to end of the read.
pub(super) fn hash(
    place: BorrowedFd<'_>,
    exe: &Inode,
    buf: &mut [u8],
    progress: &JobProgress,
) -> Result<[u8; 32], HashAbsence> {
    progress.at(Step::Hash);
    let refused = |errno: Errno| match errno {
        Errno::ACCESS | Errno::PERM => HashAbsence::Denied,
        _ => HashAbsence::Io,
    };
    let file = open_exe(place).map_err(refused)?;
    let is_same = || inode_of(file.as_fd()).is_ok_and(|found| ContentKey::from(&found) == ContentKey::from(exe));
    if !is_same() {
        return Err(HashAbsence::Io);
    }
    let mut hasher = Sha256::new();
    let mut left = exe.size;
    loop {
        let len = read_more(&file, buf).map_err(refused)?;
        progress.beat();
        if len == 0 {
            break;
        }
        left = left.checked_sub(len as u64).ok_or(HashAbsence::Io)?;
        hasher.update(&buf[..len]);
    }
    if left == 0 && is_same() { Ok(hasher.finalize().into()) } else { Err(HashAbsence::Io) }
}

/// Without moving the access time where the kernel lets us (open(2): to the owner or with CAP_FOWNER).
fn open_exe(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    calls::opened(openat(place, c"exe", flags | OFlags::NOATIME, Mode::empty()))
        .or_else(|_| calls::opened(openat(place, c"exe", flags, Mode::empty())))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;

    use super::super::file::inode;
    use super::*;

    fn exe(content: &[u8]) -> (tempfile::TempDir, File, Inode) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("program"), content).unwrap();
        symlink("program", folder.path().join("exe")).unwrap();
        let place = File::open(folder.path()).unwrap();
        let found = inode(place.as_fd(), c"exe").unwrap();
        (folder, place, found)
    }

    #[test]
    fn the_hash_is_that_of_the_content() {
        let (_folder, place, found) = exe(&b"abc".repeat(100_000));
        let mut buf = vec![0; 1000];
        let sha256 = hash(place.as_fd(), &found, &mut buf, &JobProgress::default()).unwrap();
        assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(b"abc".repeat(100_000))));
    }

    #[test]
    fn a_file_that_changed_has_no_hash() {
        let (folder, place, found) = exe(b"before");
        std::fs::write(folder.path().join("program"), "another").unwrap();
        let hashed = hash(place.as_fd(), &found, &mut [0; 100], &JobProgress::default());
        assert_eq!(hashed, Err(HashAbsence::Io));
    }

    const ROOT: Owner = Owner { home: None, uid: 0 };
    const MIB: u64 = 1 << 20;

    fn sized(inode: u64, size: u64) -> Inode {
        Inode { inode, size, mode: 0o100_755, ..Inode::default() }
    }

    fn hashes(tick_bytes_max: u64) -> Hashes {
        Hashes::new(Some(HashSettings { file_bytes_max: 100 * MIB, tick_bytes_max }))
    }

    /// Looks a file up; true when the file has its hash now.
    fn is_hashed(hashes: &mut Hashes, owner: Owner, exe: &Inode) -> bool {
        let found = hashes.look_up(owner, exe);
        if found == Lookup::Read {
            hashes.put(owner, exe, [1; 32]);
        }
        found != Lookup::Not(HashAbsence::Budget)
    }

    #[test]
    fn size_and_budget_are_kept_and_every_file_gets_its_turn() {
        let (mut hashes, waits) = (hashes(20 * MIB), sized(3, 50 * MIB));
        assert_eq!(Hashes::new(None).look_up(ROOT, &sized(1, 1)), Lookup::Not(HashAbsence::Off));
        hashes.start_pass(6);
        assert_eq!(hashes.look_up(ROOT, &sized(1, 100 * MIB + 1)), Lookup::Not(HashAbsence::TooLarge));
        assert_eq!(hashes.look_up(ROOT, &sized(2, 18 * MIB)), Lookup::Read);
        hashes.put(ROOT, &sized(2, 18 * MIB), [2; 32]);
        assert_eq!(hashes.look_up(ROOT, &waits), Lookup::Not(HashAbsence::Budget));
        assert!(!hashes.would_answer(ROOT, &ContentKey::from(&waits)));
        assert_eq!(hashes.look_up(ROOT, &sized(4, 2 * MIB)), Lookup::Read);
        hashes.start_pass(6);
        assert!(hashes.would_answer(ROOT, &ContentKey::from(&waits)));
        assert_eq!(hashes.look_up(ROOT, &sized(2, 18 * MIB)), Lookup::Known([2; 32]));
        assert_eq!(hashes.look_up(ROOT, &waits), Lookup::Read);
        let touched = Inode { ctime_ns: 1, ..sized(2, 18 * MIB) };
        assert_ne!(hashes.look_up(ROOT, &touched), Lookup::Known([2; 32]));
    }

    #[test]
    fn new_large_files_of_some_owners_delay_nobody_elses() {
        let (mut hashes, mut inode) = (hashes(32 * MIB), 1_000);
        let mut waited = 0;
        for pass in 0..60 {
            hashes.start_pass(6);
            // Two users, one of them with many ids, run new files all the time, before everybody else.
            for owner in [Owner { home: None, uid: 1_000 }, Owner { home: Some(7), uid: 100_000 + pass }] {
                for _ in 0..3 {
                    inode += 1;
                    is_hashed(&mut hashes, owner, &sized(inode, 33 * MIB));
                }
            }
            // An implant, and a large program that is new every ten passes.
            assert!(is_hashed(&mut hashes, ROOT, &sized(u64::from(pass), 44 << 10)), "{pass}");
            waited =
                if is_hashed(&mut hashes, ROOT, &sized(500 + u64::from(pass / 10), 60 * MIB)) { 0 } else { waited + 1 };
            assert!(waited < 5, "pass {pass}");
        }
    }

    #[test]
    fn many_small_files_of_one_owner_wait_for_each_other() {
        let mut hashes = hashes(32 * MIB);
        let crowd = Owner { home: None, uid: 1_000 };
        let mut listed = 0;
        for pass in 0..6 {
            hashes.start_pass(6);
            for inode in 1..=100 {
                listed += u32::from(is_hashed(&mut hashes, crowd, &sized(pass * 1_000 + inode, MIB)));
            }
            let hashed = (1..=3).map(|inode| is_hashed(&mut hashes, ROOT, &sized(90_000 + pass / 3 * 10 + inode, MIB)));
            let hashed: Vec<bool> = hashed.collect();
            assert!(
                pass % 3 == 0 || hashed.iter().all(|is_hashed| *is_hashed),
                "at the latest in the next pass: {pass}"
            );
        }
        assert!(listed <= 6 * 32);
    }

    #[test]
    fn hashes_of_ended_processes_are_forgotten_and_one_owner_fills_no_memory() {
        let mut hashes = hashes(32 * MIB);
        hashes.start_pass(2);
        let crowd = Owner { home: None, uid: 1_000 };
        hashes.put(ROOT, &sized(5, 0), [0; 32]);
        for inode in 0..2 * ENTRIES_MAX as u64 {
            hashes.put(crowd, &sized(100 + inode, 0), [0; 32]);
        }
        assert_eq!(hashes.known.len(), ENTRIES_MAX);
        assert_eq!(hashes.known_of.values().sum::<usize>(), ENTRIES_MAX);
        for _ in 0..4 {
            hashes.start_pass(2);
            assert_eq!(hashes.look_up(ROOT, &sized(5, 0)), Lookup::Known([0; 32]));
        }
        hashes.start_pass(2);
        assert_eq!((hashes.known.len(), hashes.known_of.len()), (1, 1));
    }
}
