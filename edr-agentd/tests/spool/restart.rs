//! A start: what continues, what is refused, what is waited for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use edr_agentd::spool::{FrameId, Resume, Spool, SpoolError, verify};
use edr_wire::HostId;
use edr_wire::frame::FrameKind;

use super::agent::{SETTINGS, SpoolAgent, frames, mode, rewrite};

#[test]
fn a_start_goes_on_in_the_same_epoch_and_another_boot_or_host_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let last = [(); 3].map(|()| agent.tick(10).id)[2];
    drop(agent);
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let next = agent.tick(10);
    assert_eq!((next.id, next.kind), (FrameId { seq: 4, ..last }, FrameKind::Key));
    drop(agent);
    let mut agent = SpoolAgent::start_as(dir.path(), SETTINGS, HostId([1; 16]), "next boot");
    let booted = agent.tick(10).id;
    assert!(booted.epoch != last.epoch && booted.seq == 1);
    let header = agent.spool.load(booted, Instant::now()).unwrap().header.clone();
    let previous = header.previous_epoch.unwrap();
    assert_eq!((previous.id, previous.last_seq), (last.epoch, 4));
    drop(agent);
    let mut agent = SpoolAgent::start_as(dir.path(), SETTINGS, HostId([2; 16]), "next boot");
    let cloned = agent.tick(10).id;
    assert!(cloned.epoch != booted.epoch && cloned.seq == 1);
    assert_eq!(agent.spool.load(cloned, Instant::now()).unwrap().header.previous_epoch, None);
    // The frames of the other host are sent unchanged, first.
    assert_eq!(agent.ship().0.len(), 6);
}

#[test]
fn a_spool_restored_from_a_backup_does_not_use_a_sequence_number_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let id = [(); 3].map(|()| agent.tick(10).id)[2];
    drop(agent);
    // `cp -a` keeps every date except the change time of the inode; this copy is of two hours ago.
    let newest = frames(dir.path()).pop().unwrap();
    rewrite(&newest, &newest, |header| header.captured_ns -= 7_200_000_000_000);
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    assert_ne!(agent.tick(10).id.epoch, id.epoch);
}

#[test]
fn leftovers_go_strangers_stay_and_rights_for_others_are_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let id = agent.tick(10).id;
    drop(agent);
    let spool = dir.path().join("spool");
    let folder = spool.join(id.epoch.to_string());
    for name in [".77-3.tmp", "2.frame", "00000000000000000000.frame", "notes"] {
        fs::write(folder.join(name), b"x").unwrap();
    }
    fs::write(spool.join(".1-1.tmp"), b"x").unwrap();
    // An empty file at the next sequence number, as left by a power cut on some file systems.
    fs::write(folder.join("00000000000000000002.frame"), b"").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join("00000000000000000003.frame")).unwrap();
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o755)).unwrap();
    let (_, findings) = verify(dir.path()).unwrap();
    assert_eq!(findings.len(), 8, "{findings:?}");

    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    assert_eq!(mode(&spool), 0o700);
    let next = agent.tick(10).id;
    assert_ne!(next.epoch, id.epoch, "an empty newest frame proves nothing");
    agent.tick(10);
    let (ids, lost) = agent.ship();
    assert_eq!(ids.len(), 3);
    assert!(lost.iter().any(|lost| lost.epoch == id.epoch && lost.first_seq == 2 && lost.reason == "corrupt"));
    let left: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    for stranger in ["2.frame", "00000000000000000000.frame", "notes", "00000000000000000003.frame"] {
        assert!(left.contains(&stranger.to_owned()), "{left:?}");
    }
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_second_agent_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let agent = SpoolAgent::start(dir.path(), SETTINGS);
    let refused = Spool::open(dir.path(), dir.path(), SETTINGS).unwrap_err();
    let lock = dir.path().join("lock");
    assert_eq!(
        refused.to_string(),
        format!("another edr-agentd (pid {}) holds {}", std::process::id(), lock.display())
    );
    assert!(matches!(refused, SpoolError::Locked { .. }));
    drop(agent);
    drop(SpoolAgent::start(dir.path(), SETTINGS));
    // The error for an unusable folder names the operation.
    let refused = Spool::open(&lock, dir.path(), SETTINGS).unwrap_err().to_string();
    assert!(refused.contains("create state-dir") && refused.contains("File exists"), "{refused}");
}

/// The folder, removed and made again, has a new lock file.
#[test]
fn a_second_agent_is_refused_when_the_state_folder_was_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (spool, _) = Spool::open(&state, dir.path(), SETTINGS).unwrap();
    fs::remove_dir_all(&state).unwrap();
    let refused = Spool::open(&state, dir.path(), SETTINGS).unwrap_err();
    assert!(matches!(refused, SpoolError::Locked { .. }), "{refused}");
    drop(spool);
    Spool::open(&state, dir.path(), SETTINGS).unwrap();
}

#[test]
fn an_epoch_away_at_a_start_is_sent_after_its_return() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let made = [(); 3].map(|()| agent.tick(10).id);
    drop(agent);
    let (folder, away) = (dir.path().join("spool").join(made[0].epoch.to_string()), dir.path().join("away"));
    fs::rename(&folder, &away).unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let next = agent.tick(10).id;
    let header = agent.spool.load(next, Instant::now()).unwrap().header.clone();
    let previous = header.previous_epoch.unwrap();
    assert_eq!((previous.id, previous.last_seq), (made[2].epoch, made[2].seq), "the witness knows what is away");
    assert_eq!(agent.ship().0, [next]);
    fs::rename(&away, &folder).unwrap();
    let last = agent.tick(10).id;
    assert_eq!(agent.ship(), (vec![made[0], made[1], made[2], last], vec![]));
}

#[test]
fn a_folder_that_cannot_be_listed_at_a_start_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = nix::unistd::Uid::from_raw(65_534);
    // For root every folder can be listed.
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(nobody.as_raw()), None).unwrap();
        nix::unistd::setfsuid(nobody);
    }
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let first = agent.tick(10).id;
    drop(agent);
    let mut agent = SpoolAgent::start_as(dir.path(), SETTINGS, HostId([1; 16]), "next boot");
    let second = agent.tick(10).id;
    drop(agent);
    let folder = dir.path().join("spool").join(second.epoch.to_string());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o0)).unwrap();
    let (_, findings) = verify(dir.path()).unwrap();
    assert!(findings.iter().any(|finding| finding.path == folder && finding.fault.contains("cannot be listed")));
    let mut agent = SpoolAgent::start_as(dir.path(), SETTINGS, HostId([1; 16]), "next boot");
    assert_eq!(agent.ship().0, [first]);
    let third = agent.tick(10).id;
    assert!(agent.spool.trouble(Instant::now()).unwrap().contains("list spool folder"));
    assert_eq!(agent.ship().0, [third]);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let fourth = agent.tick(10).id;
    assert_eq!(agent.ship(), (vec![second, fourth], vec![]));
    assert_eq!(agent.spool.trouble(Instant::now()), None);
}

#[test]
fn fifty_thousand_frames_are_found_by_their_names() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let id = agent.tick(1_000).id;
    drop(agent);
    let newest = frames(dir.path()).pop().unwrap();
    let folder = newest.parent().unwrap();
    rewrite(&newest, &folder.join(format!("{:020}.frame", 60_000)), |header| header.seq = 60_000);
    // A start reads only the newest frame, so the content of the rest does not matter.
    for seq in 2..=50_000 {
        fs::File::create(folder.join(format!("{seq:020}.frame"))).unwrap();
    }
    let started = Instant::now();
    let (spool, resume) = Spool::open(dir.path(), dir.path(), SETTINGS).unwrap();
    let took = started.elapsed();
    assert_eq!(spool.state().unsent_frames, 50_001);
    assert_eq!((resume.last.unwrap().last_seq, resume.newest.unwrap().header.seq), (60_000, 60_000));
    assert_eq!(spool.oldest_unsent(Instant::now()), Some(id));
    eprintln!("50,000 frames: start took {took:?}");
}

#[test]
fn a_start_without_anything_is_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let (_, resume) = Spool::open(&dir.path().join("a/b"), dir.path(), SETTINGS).unwrap();
    let Resume { last, newest, declared, last_made } = resume;
    assert_eq!(last_made, None);
    assert!(declared.is_none());
    assert!(last.is_none() && newest.is_none());
    assert_eq!(mode(&dir.path().join("a/b")), 0o700);
}
