//! The folder of psad, in the states recorded in a fixture.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::checkout;

/// The paths of a psad folder and of psad's packet log, for an agent to read.
#[derive(Debug)]
pub struct PsadTree {
    /// psad's folder.
    pub dir: PathBuf,
    /// The log with the packets.
    pub packet_log: PathBuf,
}

impl PsadTree {
    /// Returns the paths below `dir`, without making anything.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.join("psad"), packet_log: dir.join("kern.log") }
    }

    /// Brings the folder into the state recorded as `moment` (`autoblock/t1`, …). Changed files are rewritten in place,
    /// surplus files are removed, and missing lines are appended to the packet log.
    ///
    /// # Errors
    /// When the fixture cannot be read, or when the folder cannot be written.
    pub fn show(&self, moment: &str) -> Result<()> {
        self.show_psad(moment)?;
        self.append_packets(moment, 0, usize::MAX).map(drop)
    }

    /// Like [`PsadTree::show`], without the packet log.
    ///
    /// # Errors
    /// When the fixture cannot be read, or when the folder cannot be written.
    pub fn show_psad(&self, moment: &str) -> Result<()> {
        mirror(&log_folder(moment).join("psad"), &self.dir)
    }

    /// Appends the lines `from..from + count` of the fixture's packet log, and returns the number of appended lines.
    ///
    /// # Errors
    /// When the fixture cannot be read, or when the log cannot be written.
    pub fn append_packets(&self, moment: &str, from: usize, count: usize) -> Result<usize> {
        let path = log_folder(moment).join("kern.log");
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').skip(from).take(count).collect();
        let mut log =
            File::options().create(true).append(true).open(&self.packet_log).context("open the packet log")?;
        log.write_all(&lines.concat()).context("write the packet log")?;
        Ok(lines.len())
    }
}

fn log_folder(moment: &str) -> PathBuf {
    checkout().join("tests/fixtures/psad").join(moment).join("var/log")
}

/// Gives `to` the same content as `from`, and touches only differing files.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    for entry in fs::read_dir(to).with_context(|| format!("read {}", to.display()))? {
        let entry = entry?;
        if !from.join(entry.file_name()).exists() {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("remove {}", path.display()))?;
        }
    }
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            mirror(&source, &target)?;
            continue;
        }
        let wanted = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        if fs::read(&target).ok().as_deref() != Some(&wanted) {
            // psad truncates and rewrites most of its files.
            fs::write(&target, wanted).with_context(|| format!("write {}", target.display()))?;
        }
    }
    Ok(())
}

/// A repeated replay of psad's work: attackers arrive, are blocked, psad is restarted. A step is about one second.
#[derive(Debug)]
pub struct Replay {
    tree: PsadTree,
    step: usize,
    lines: usize,
}

/// State at the start of the replay, and again after each round.
const BEFORE: &str = "autoblock/t1";
/// State after a restart of psad and more scans. The log continues the log of [`BEFORE`].
const DURING: &str = "autoblock/t2-after-restart-import";
/// State after an operator has blocked an address.
const AFTER: &str = "autoblock/t3-manual-block";
/// Packets of a step: the 181 packets of a round take half a minute.
const STEP_LINES: usize = 6;
/// The steps at which psad has written [`DURING`] and [`AFTER`], and the step at which the log is rotated and a new
/// round begins.
const DURING_STEP: usize = 15;
const AFTER_STEP: usize = 32;
const ROUND_STEPS: usize = 50;

impl Replay {
    /// Makes the first state below `dir`.
    ///
    /// # Errors
    /// When the fixture cannot be read, or when the folder cannot be written.
    pub fn start(dir: &Path) -> Result<Self> {
        let tree = PsadTree::new(dir);
        tree.show_psad(BEFORE)?;
        let lines = tree.append_packets(BEFORE, 0, usize::MAX)?;
        Ok(Self { tree, step: 0, lines })
    }

    /// The paths of folder and log.
    pub fn tree(&self) -> &PsadTree {
        &self.tree
    }

    /// Replays one second: appends packets, and writes the next state of psad when due.
    ///
    /// # Errors
    /// When the fixture cannot be read, or when the folder cannot be written.
    pub fn step(&mut self) -> Result<()> {
        self.lines += self.tree.append_packets(DURING, self.lines, STEP_LINES)?;
        self.step += 1;
        match self.step {
            DURING_STEP => self.tree.show_psad(DURING)?,
            AFTER_STEP => self.tree.show_psad(AFTER)?,
            ROUND_STEPS => {
                let rotated = self.tree.packet_log.with_extension("log.1");
                fs::rename(&self.tree.packet_log, rotated).context("rotate the packet log")?;
                self.tree.show_psad(BEFORE)?;
                self.lines = self.tree.append_packets(BEFORE, 0, usize::MAX)?;
                self.step = 0;
            }
            _ => {}
        }
        Ok(())
    }
}
