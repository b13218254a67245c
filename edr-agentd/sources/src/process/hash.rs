//! SHA-256 of executables, read through `/proc/PID/exe`, each once.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::file::{Inode, inode_of, read_more};
use super::step::Step;
use crate::common::calls;
use crate::common::hung::JobProgress;

/// Executables remembered. A host runs a few hundred; 100 bytes each.
const ENTRIES_MAX: usize = 4_096;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// The hashes known so far.
#[derive(Debug)]
pub(super) struct Hashes {
    settings: Option<HashSettings>,
    known: HashMap<ContentKey, CachedHash>,
    pass: u64,
    left: u64,
    is_untouched: bool,
}

/// The hash of a file, with the last pass that asked for the hash.
#[derive(Debug)]
struct CachedHash {
    sha256: [u8; 32],
    used: u64,
}

/// Action for an executable.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lookup {
    Known([u8; 32]),
    /// The budget is taken: the caller reads the file with [`hash`] and reports the result to [`Hashes::put`].
    Read,
    Not(HashAbsence),
}

impl Hashes {
    pub(super) fn new(settings: Option<HashSettings>) -> Self {
        Self { settings, known: HashMap::new(), pass: 0, left: 0, is_untouched: true }
    }

    /// A tick begins. `passes_max`: after so many passes every running executable has been asked for.
    pub(super) fn start_pass(&mut self, passes_max: u64) {
        self.pass += 1;
        self.left = self.settings.map_or(0, |settings| settings.tick_bytes_max);
        self.is_untouched = true;
        if self.known.len() >= ENTRIES_MAX / 2 {
            let oldest = self.pass.saturating_sub(2 * passes_max.max(1));
            self.known.retain(|_, known| known.used >= oldest);
        }
    }

    /// Looks up the hash of an executable, or takes budget for the read.
    pub(super) fn look_up(&mut self, exe: &Inode) -> Lookup {
        let Some(settings) = self.settings else { return Lookup::Not(HashAbsence::Off) };
        if let Some(known) = self.known.get_mut(&ContentKey::from(exe)) {
            known.used = self.pass;
            return Lookup::Known(known.sha256);
        }
        if FileType::from_raw_mode(exe.mode) != FileType::RegularFile {
            return Lookup::Not(HashAbsence::Io);
        }
        if exe.size > settings.file_bytes_max {
            return Lookup::Not(HashAbsence::TooLarge);
        }
        if exe.size > self.left && !self.is_untouched {
            return Lookup::Not(HashAbsence::Budget);
        }
        self.left = self.left.saturating_sub(exe.size);
        self.is_untouched = false;
        Lookup::Read
    }

    /// True when a row that waits for this hash would get the hash now.
    pub(super) fn would_answer(&self, key: &ContentKey) -> bool {
        self.known.contains_key(key) || self.is_untouched || key.size <= self.left
    }

    /// Remembers a hash.
    pub(super) fn put(&mut self, exe: &Inode, sha256: [u8; 32]) {
        if self.known.len() < ENTRIES_MAX {
            self.known.insert(ContentKey::from(exe), CachedHash { sha256, used: self.pass });
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

    #[test]
    fn size_and_budget_are_kept_and_every_file_gets_its_turn() {
        let sized = |inode, size| Inode { inode, size, mode: 0o100_755, ..Inode::default() };
        let mut hashes = Hashes::new(Some(HashSettings { file_bytes_max: 1_000, tick_bytes_max: 100 }));
        assert_eq!(Hashes::new(None).look_up(&sized(1, 1)), Lookup::Not(HashAbsence::Off));
        hashes.start_pass(6);
        assert_eq!(hashes.look_up(&sized(1, 1_001)), Lookup::Not(HashAbsence::TooLarge));
        assert_eq!(hashes.look_up(&sized(2, 90)), Lookup::Read);
        hashes.put(&sized(2, 90), [2; 32]);
        assert_eq!(hashes.look_up(&sized(3, 500)), Lookup::Not(HashAbsence::Budget));
        assert!(!hashes.would_answer(&ContentKey::from(&sized(3, 500))));
        assert_eq!(hashes.look_up(&sized(4, 10)), Lookup::Read);
        hashes.start_pass(6);
        assert!(hashes.would_answer(&ContentKey::from(&sized(3, 500))));
        assert_eq!(hashes.look_up(&sized(2, 90)), Lookup::Known([2; 32]));
        assert_eq!(hashes.look_up(&sized(3, 500)), Lookup::Read);
        let touched = Inode { ctime_ns: 1, ..sized(2, 90) };
        assert_ne!(hashes.look_up(&touched), Lookup::Known([2; 32]));
    }

    #[test]
    fn hashes_of_ended_processes_are_forgotten() {
        let mut hashes = Hashes::new(Some(HashSettings::default()));
        hashes.start_pass(2);
        for inode in 0..2 * ENTRIES_MAX as u64 {
            hashes.put(&Inode { inode, ..Inode::default() }, [0; 32]);
        }
        assert_eq!(hashes.known.len(), ENTRIES_MAX);
        for _ in 0..4 {
            hashes.start_pass(2);
            assert_eq!(hashes.look_up(&Inode { inode: 5, ..Inode::default() }), Lookup::Known([0; 32]));
        }
        hashes.start_pass(2);
        assert_eq!(hashes.known.len(), 1);
    }
}
