//! Folders and disks that fail: frames are waited for, set aside, kept in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edr_agentd::sample::AcceptedFrame;
use edr_agentd::spool::{FrameId, MEMORY_BYTES_MAX, Patience};
use edr_wire::frame::{FrameKind, LostRange};

use super::agent::{SETTINGS, SpoolAgent, frames};

/// Patience that ends after a few attempts.
const SHORT: Patience = Patience {
    first: Duration::from_millis(1),
    last: Duration::from_millis(2),
    tries: 3,
    lasting: Duration::from_millis(4),
};

/// A folder that is away, as with an unmounted disk: nothing is lost, nothing deleted, nothing out of order.
#[test]
fn frames_in_a_missing_folder_are_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let made = [(); 5].map(|()| agent.tick(10).id);
    let (folder, away) = (dir.path().join("spool").join(made[0].epoch.to_string()), dir.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    let started = Instant::now();
    agent.spool.set_patience(SHORT);
    for _ in 0..40 {
        // No other frame can be read either, so the cause is the disk, not the frame.
        assert_eq!(agent.ship(), (vec![], vec![]));
        assert!(agent.spool.trouble(Instant::now()).unwrap().contains("its folder is not there"));
        agent.spool.wait(Duration::from_secs(1));
    }
    assert!(started.elapsed() > Duration::from_millis(40), "no wait between two tries");
    // Frames made meanwhile have a new epoch and are sent.
    let in_memory = agent.tick(10).id;
    assert_eq!(agent.ship().0, [in_memory]);
    fs::rename(&away, &folder).unwrap();
    while agent.spool.trouble(Instant::now()).is_some() {
        agent.spool.wait(Duration::from_secs(1));
        assert_eq!(agent.ship(), (made.to_vec(), vec![]));
    }
    // The same at a start: continuity cannot be proved, and nothing is lost.
    let last = agent.tick(10).id;
    drop(agent);
    let folder = dir.path().join("spool").join(last.epoch.to_string());
    fs::rename(folder.join(format!("{:020}.frame", last.seq)), &away).unwrap();
    std::os::unix::fs::symlink(&away, folder.join(format!("{:020}.frame", last.seq))).unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    assert_ne!(agent.tick(10).id.epoch, last.epoch);
    assert!(away.exists());
}

/// `/proc/self/mem` gives EIO at offset 0: bound over a frame's file, the mount acts as a bad sector.
#[test]
fn a_frame_with_an_io_error_is_tried_again_and_given_up_only_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let made = [(); 4].map(|()| agent.tick(10).id);
    let bad = frames(dir.path())[1].clone();
    let Some(sector) = BadSector::over(&bad) else {
        eprintln!("skipped: mounting over a file needs root");
        return;
    };
    assert_eq!(agent.ship(), (made[..1].to_vec(), vec![]));
    assert!(agent.spool.trouble(Instant::now()).unwrap().contains("Input/output error"));
    assert_eq!(agent.ship(), (vec![], vec![]), "it waits");
    drop(sector);
    while agent.spool.trouble(Instant::now()).is_some() {
        agent.spool.wait(Duration::from_secs(5));
        assert_eq!(agent.ship(), (made[1..].to_vec(), vec![]));
    }

    let made = [(); 4].map(|()| agent.tick(10).id);
    let bad = frames(dir.path()).into_iter().find(|path| path.ends_with(format!("{:020}.frame", made[1].seq))).unwrap();
    let sector = BadSector::over(&bad).unwrap();
    agent.spool.set_patience(SHORT);
    let mut ids = Vec::new();
    while ids.len() < 3 {
        ids.extend(agent.ship().0);
        agent.spool.wait(Duration::from_secs(1));
    }
    assert_eq!(ids, [made[0], made[2], made[3]]);
    for _ in 0..4 {
        agent.tick(10);
    }
    let (_, lost) = agent.ship();
    let said = LostRange {
        epoch: made[1].epoch,
        first_seq: made[1].seq,
        last_seq: made[1].seq,
        reason: "unreadable".to_owned(),
    };
    assert!(lost.contains(&said), "{lost:?}");
    // The frame is declared lost but not deleted: the file could not be set aside, and is sent when the disk can read
    // the file again.
    drop(sector);
    assert!(bad.exists());
    agent.tick(10);
    assert!(agent.ship().0.contains(&made[1]));
}

/// A mount over a file, from which no read succeeds.
struct BadSector(PathBuf);

impl BadSector {
    fn over(path: &Path) -> Option<Self> {
        let none: Option<&str> = None;
        nix::mount::mount(Some("/proc/self/mem"), path, none, nix::mount::MsFlags::MS_BIND, none).ok()?;
        Some(Self(path.to_owned()))
    }
}

impl Drop for BadSector {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_frame_whole_again_before_being_set_aside_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let harmed = agent.tick(100).id;
    agent.tick(10);
    let path = &frames(dir.path())[0];
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..100]).unwrap();
    agent.ship();
    fs::write(path, whole).unwrap();
    agent.tick(10);
    agent.tick(10);
    let (ids, lost) = agent.ship();
    assert!(lost.iter().any(|lost| lost.reason == "corrupt") && ids.contains(&harmed), "{ids:?} {lost:?}");
    assert!(!dir.path().join("spool/set-aside").exists());
}

/// Among the set-aside frames, only the damaged make room for new frames.
#[test]
fn unreadable_frames_are_kept_among_any_number_of_set_aside_frames() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let aside = dir.path().join("spool/set-aside");
    fs::create_dir(&aside).unwrap();
    let first = agent.tick(10).id;
    // The oldest entry, and unreadable: a link to nowhere instead of a file.
    let kept = aside.join(format!("{}.{:020}.frame", first.epoch, 77));
    std::os::unix::fs::symlink("/nowhere", &kept).unwrap();
    for _ in 0..20 {
        let harmed = agent.tick(10).id;
        agent.tick(10);
        let path = frames(dir.path()).into_iter().find(|path| path.ends_with(format!("{:020}.frame", harmed.seq)));
        fs::write(path.unwrap(), b"x").unwrap();
        agent.ship();
    }
    agent.tick(10);
    agent.tick(10);
    assert!(kept.is_symlink());
    assert_eq!(fs::read_dir(&aside).unwrap().count(), 17);
}

/// Frames on a file system of 1 MiB, which is then filled, or made read-only.
#[test]
fn a_disk_that_takes_nothing_sends_frames_to_memory_and_comes_back_by_itself() {
    let Some(disk) = SmallDisk::mount("1m") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let mut agent = SpoolAgent::start(disk.path(), SETTINGS);
    // The status line's text about the disk.
    let said = |made: &AcceptedFrame| made.disk_fault.map(|fault| fault.in_words(Path::new("/s"))).unwrap_or_default();
    let on_disk = agent.tick(1_000).id;
    fs::write(disk.path().join("spool/filler"), vec![0; 4 << 20]).unwrap_err();
    let made = agent.tick(5_000);
    assert!(said(&made).starts_with("no space left on /s: "), "{made:?}");
    let in_memory = made.id;
    assert_ne!(in_memory.epoch, on_disk.epoch);
    assert!(agent.spool.state().memory_only);
    assert_eq!(agent.tick(5_000).id, FrameId { seq: 2, ..in_memory });
    let header = agent.spool.load(in_memory, Instant::now()).unwrap().header.clone();
    assert_eq!(header.previous_epoch.map(|previous| (previous.id, previous.last_seq)), Some((on_disk.epoch, 1)));
    assert_eq!(header.kind, FrameKind::Key);
    fs::remove_file(disk.path().join("spool/filler")).unwrap();
    let made = agent.tick(5_000);
    assert_eq!(said(&made), "");
    let back = made.id;
    assert!(back.epoch != in_memory.epoch && back.seq == 1);
    assert!(!agent.spool.state().memory_only);
    let previous = agent.spool.load(back, Instant::now()).unwrap().header.previous_epoch.unwrap();
    assert_eq!((previous.id, previous.last_seq), (in_memory.epoch, 2));

    disk.remount("ro");
    let read_only = agent.tick(10).id;
    assert_ne!(read_only.epoch, back.epoch);
    disk.remount("rw");
    let writable = agent.tick(10).id;
    assert_ne!(writable.epoch, read_only.epoch);
    // The frames from memory are on the disk now: a crash does not lose them.
    drop(agent);
    let mut agent = SpoolAgent::start(disk.path(), SETTINGS);
    // All frames, in the order of their making, and nothing else.
    let (ids, lost) = agent.ship();
    let epochs: Vec<_> = ids.iter().map(|id| id.epoch).collect();
    let expected = [on_disk.epoch, in_memory.epoch, in_memory.epoch, back.epoch, read_only.epoch, writable.epoch];
    assert_eq!((epochs.as_slice(), lost.as_slice()), (expected.as_slice(), [].as_slice()));

    let writable = agent.tick(10).id;
    agent.ship();
    drop(agent);

    // A read-only disk does not stop a start. Frames made in memory get a new epoch: in the epoch on the disk their
    // numbers would be used twice after a crash.
    disk.remount("ro");
    let mut agent = SpoolAgent::start(disk.path(), SETTINGS);
    let made = agent.tick(10);
    let in_memory = made.id;
    assert!(said(&made).starts_with("/s is mounted read-only: "), "{made:?}");
    assert!(agent.spool.state().memory_only && agent.spool.in_memory().0 == 1);
    assert_ne!(in_memory.epoch, writable.epoch);
    assert_eq!(agent.ship().0, [writable, in_memory]);
    drop(agent);
    disk.remount("rw");
    // After a crash the epoch on the disk does not continue, even on a good disk: frames in memory may have followed.
    let mut agent = SpoolAgent::start(disk.path(), SETTINGS);
    let next = agent.tick(10).id;
    assert!(![writable.epoch, in_memory.epoch].contains(&next.epoch));
    let header = agent.spool.load(next, Instant::now()).unwrap().header.clone();
    assert_eq!(header.previous_epoch.map(|previous| (previous.id, previous.last_seq)), Some((writable.epoch, 2)));
    drop(agent);
    // An epoch that was on the disk all the time continues.
    let mut agent = SpoolAgent::start(disk.path(), SETTINGS);
    assert_eq!(agent.tick(10).id, FrameId { seq: 2, ..next });
    disk.remount("ro");
    agent.tick(10);
    assert!(agent.spool.state().memory_only);
    disk.remount("rw");
    agent.tick(10);
    assert!(!agent.spool.state().memory_only);
}

#[test]
fn a_removed_folder_is_made_again_and_its_frames_are_declared() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let gone = [(); 3].map(|()| agent.tick(10).id)[0];
    fs::remove_dir_all(dir.path().join("spool")).unwrap();
    let in_memory = agent.tick(10).id;
    assert!(agent.spool.state().memory_only);
    let back = agent.tick(10).id;
    assert!(!agent.spool.state().memory_only && back.epoch != in_memory.epoch && in_memory.epoch != gone.epoch);
    // The folder may come back with its frames, but the wait is limited.
    assert_eq!(agent.ship().0, [in_memory, back]);
    agent.tick(10);
    assert_eq!(agent.ship().1, []);
    agent.spool.set_patience(SHORT);
    while agent.spool.trouble(Instant::now()).is_some() {
        agent.spool.wait(Duration::from_secs(1));
        agent.ship();
        agent.tick(10);
    }
    agent.tick(10);
    let (_, lost) = agent.ship();
    let said = LostRange { epoch: gone.epoch, first_seq: 1, last_seq: 3, reason: "vanished".to_owned() };
    assert!(!lost.is_empty() && lost.iter().all(|lost| *lost == said), "{lost:?}");
}

#[test]
fn memory_is_bounded_and_dropped_frames_are_declared() {
    let Some(disk) = SmallDisk::mount("64k") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let mut agent = SpoolAgent::start(disk.path(), SETTINGS);
    // Nothing to thin.
    agent.pace = Duration::from_secs(600);
    let first = agent.tick(100_000).id;
    for _ in 0..400 {
        agent.tick(100_000);
        let state = agent.spool.state();
        assert!(state.memory_only && state.unsent_bytes <= MEMORY_BYTES_MAX, "{state:?}");
    }
    let (ids, lost) = agent.ship();
    let lost: Vec<_> = lost.iter().filter(|lost| lost.reason == "memory_full").collect();
    let said =
        |seq| lost.iter().any(|lost| lost.epoch == first.epoch && (lost.first_seq..=lost.last_seq).contains(&seq));
    let undeclared: Vec<u64> = (1..=401).filter(|&seq| !said(seq) && !ids.iter().any(|id| id.seq == seq)).collect();
    let dropped = agent.spool.state().dropped_frames;
    assert!(dropped > 100);
    // The frames chosen last are declared by the next frame.
    agent.tick(10);
    let (_, more) = agent.ship();
    for seq in undeclared {
        assert!(more.iter().any(|lost| (lost.first_seq..=lost.last_seq).contains(&seq)), "{seq}");
    }
}

/// A state folder whose spool lies on a separate tmpfs. The lock is outside: a file open for writing keeps a file
/// system from becoming read-only.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("spool")).unwrap();
        let options = format!("size={size},mode=700");
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, &dir.path().join("spool"), Some("tmpfs"), flags, Some(options.as_str())).ok()?;
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn remount(&self, how: &str) {
        let none: Option<&str> = None;
        let mut flags = nix::mount::MsFlags::MS_REMOUNT;
        flags.set(nix::mount::MsFlags::MS_RDONLY, how == "ro");
        nix::mount::mount(none, &self.path().join("spool"), none, flags, none).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path().join("spool"), nix::mount::MntFlags::MNT_DETACH);
    }
}
