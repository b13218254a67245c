//! Files of the spool do not fill the journal: the first messages are logged, the others are counted.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, Once};

use edr_wire::frame::FrameKind;
use log::{Log, Metadata, Record};

use super::agent::{SETTINGS, SpoolAgent, frames, rewrite};

/// All lines logged by this program.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        LINES.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Lines about a spool, with the epoch or the folder.
fn lines(epoch: &str, folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let is_meant = |line: &&String| line.contains(epoch) || line.contains(&folder);
    LINES.lock().unwrap().iter().filter(is_meant).cloned().collect()
}

/// Starts an agent on a spool whose files were changed, and works the spool off.
fn lines_after(count: usize, change: impl Fn(&Path)) -> Vec<String> {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    let epoch = agent.tick(10).id.epoch.to_string();
    drop(agent);
    let frame = frames(dir.path()).remove(0);
    for seq in 2..=count as u64 {
        let copy = frame.with_file_name(format!("{seq:020}.frame"));
        rewrite(&frame, &copy, |header| header.seq = seq);
        change(&copy);
    }
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    for _ in 0..6 {
        agent.tick(10);
        agent.ship();
    }
    assert!(frames(dir.path()).len() < 20, "the files are worked off");
    lines(&epoch, dir.path())
}

#[test]
fn thousands_of_damaged_files_make_few_lines() {
    for (name, change) in [
        ("empty", Box::new(|path: &Path| fs::write(path, b"").unwrap()) as Box<dyn Fn(&Path)>),
        ("noise", Box::new(|path| fs::write(path, vec![0x5a; 700]).unwrap())),
        ("cut", Box::new(|path| fs::write(path, &fs::read(path).unwrap()[..90]).unwrap())),
        (
            "of another epoch",
            Box::new(|path| {
                rewrite(path, path, |header| header.epoch = edr_wire::Epoch([7; 8]));
            }),
        ),
    ] {
        let lines = lines_after(2_995, change);
        assert!((2..20).contains(&lines.len()), "{name}: {} lines, {:?}", lines.len(), lines.first());
    }
}

/// Whole deltas whose key is gone are sent, and a start looks at each of the newest.
#[test]
fn deltas_without_their_key_make_few_lines() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    drop(lines_after(2, |_| ()));
    let epoch = agent.tick(10).id.epoch.to_string();
    let made: Vec<_> = (0..600).map(|_| agent.tick(1)).collect();
    drop(agent);
    let is_key = |seq: u64| seq == 1 || made[seq as usize - 2].kind == FrameKind::Key;
    for (at, path) in frames(dir.path()).into_iter().enumerate() {
        if is_key(at as u64 + 1) {
            fs::remove_file(path).unwrap();
        }
    }
    let mut agent = SpoolAgent::start(dir.path(), SETTINGS);
    agent.tick(10);
    assert!(agent.ship().0.len() >= 500);
    let lines = lines(&epoch, dir.path());
    assert!(lines.len() < 20, "{} lines, {:?}", lines.len(), lines.last());
}
