//! A frame of ten times the usual size is named, in the next snapshot and in the journal.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use edr_agentd::config::Config;
use edr_agentd::heartbeat::Heartbeat;
use edr_agentd::sample::{AcceptedFrame, Sampler};
use edr_agentd::spool::{FrameId, Spool};
use edr_wire::snapshot::SnapshotView;

use super::agent::{SETTINGS, SpoolAgent, noise};

#[test]
fn a_frame_of_ten_usual_sizes_is_noticed_whatever_its_kind() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let usual: Vec<Option<usize>> = (0..100).map(|_| agent.tick(1_000).usual_bytes).collect();
    assert!(usual.iter().all(Option::is_none), "{usual:?}");
    // The first makes a key necessary, which is large in turn.
    let large = [agent.tick(200_000), agent.tick(200_000), agent.tick(200_000)];
    assert!(large.iter().all(|made| made.usual_bytes.is_some_and(|usual| usual < 20_000)), "{large:?}");
    assert_ne!(large[0].kind, large[1].kind);
    // A small frame beside large ones is nothing special.
    assert_eq!(agent.tick(1_000).usual_bytes, None);
}

/// Arguments of many processes, random and so incompressible. The processes end with the test.
struct Loud(Vec<Child>);

impl Loud {
    fn start(count: u64) -> Self {
        let one = |seed| {
            let mut command = Command::new("sh");
            command.args(["-c", "read x", "sh"]).arg(noise(seed + 1, 60_000));
            command.stdin(Stdio::piped()).spawn().unwrap()
        };
        Self((0..count).map(one).collect())
    }
}

impl Drop for Loud {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The reasons listed by a frame's snapshot.
fn reasons(spool: &Spool, made: &AcceptedFrame) -> Vec<String> {
    let load = |id| spool.load(id, std::time::Instant::now()).unwrap();
    let frame = load(made.id);
    let base = FrameId { seq: frame.header.base_seq, ..made.id };
    let key = (base != made.id).then(|| load(base).open(None).unwrap());
    let view = SnapshotView::parse(frame.open(key.as_deref()).unwrap()).unwrap();
    view.agent().unwrap().degraded
}

#[test]
fn the_next_snapshot_names_a_large_frame() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let text = format!("state-dir = {:?}\n[kafka]\nbrokers = [\"127.0.0.1:1\"]\n", dir.path());
    std::fs::write(&path, text).unwrap();
    let config = Arc::new(Config::load(&path).unwrap());
    let (spool, resume) = Spool::open(dir.path(), dir.path(), SETTINGS).unwrap();
    let spool = Arc::new(spool);
    let heartbeat = Arc::<Heartbeat>::default();
    let mut sampler = Sampler::start(config, Path::new("/proc"), Arc::clone(&spool), &resume, heartbeat).unwrap();
    let usual: Vec<AcceptedFrame> = (0..12).map(|_| sampler.tick(|| false).unwrap()).collect();
    let loud = Loud::start(60);
    let large = sampler.tick(|| false).unwrap();
    assert!(large.usual_bytes.is_some(), "{} bytes after {:?}", large.bytes, usual.last());
    let next = sampler.tick(|| false).unwrap();
    drop(loud);
    let said = format!("frame {} has {} bytes, usual are ", large.id.seq, large.bytes);
    let named = |made: &AcceptedFrame| reasons(&spool, made).iter().any(|reason| reason.starts_with(&said));
    assert!(named(&next), "{:?}", reasons(&spool, &next));
    assert!(!named(&large));
}
