//! psad's folder, as psad itself left it at the moments of a fixture.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::checkout;

/// A psad folder and the log it works on, laid out for an agent to look at.
#[derive(Debug)]
pub struct PsadTree {
    /// psad's folder.
    pub dir: PathBuf,
    /// The log with the packets.
    pub packet_log: PathBuf,
}

impl PsadTree {
    /// The paths below `dir`; nothing is there yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.join("psad"), packet_log: dir.join("kern.log") }
    }

    /// Makes the folder what psad had left at `moment` (`autoblock/t1`, …): files are rewritten in place, those that
    /// are gone are removed, and the packet log grows by the lines it does not have yet.
    ///
    /// # Errors
    /// When the fixture cannot be read or the folder not be written.
    pub fn show(&self, moment: &str) -> Result<()> {
        self.show_psad(moment)?;
        self.append_packets(moment, 0, usize::MAX).map(drop)
    }

    /// Like [`PsadTree::show`], without the packet log.
    ///
    /// # Errors
    /// When the fixture cannot be read or the folder not be written.
    pub fn show_psad(&self, moment: &str) -> Result<()> {
        mirror(&log_folder(moment).join("psad"), &self.dir)
    }

    /// Appends lines `from..from + count` of the fixture's packet log, and returns how many there were.
    ///
    /// # Errors
    /// When the fixture cannot be read or the log not be written.
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

/// Makes `to` hold exactly what `from` holds, touching only what differs.
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
            // psad truncates most of its files and writes them anew.
            fs::write(&target, wanted).with_context(|| format!("write {}", target.display()))?;
        }
    }
    Ok(())
}

/// psad at work, again and again: attackers come, are blocked, psad is restarted. One step is about a second's worth.
#[derive(Debug)]
pub struct Replay {
    tree: PsadTree,
    step: usize,
    lines: usize,
}

/// What psad had written when the replay starts, and again after each round.
const BEFORE: &str = "autoblock/t1";
/// What it had written when it had been started again and seen more scans. The log goes on from that of [`BEFORE`].
const DURING: &str = "autoblock/t2-after-restart-import";
/// What it had written when an operator had blocked an address.
const AFTER: &str = "autoblock/t3-manual-block";
/// Packets of one step: the 181 of a round take half a minute.
const STEP_LINES: usize = 6;
/// When psad has written [`DURING`], and [`AFTER`], and the log is rotated and everything begins again.
const DURING_STEP: usize = 15;
const AFTER_STEP: usize = 32;
const ROUND_STEPS: usize = 50;

impl Replay {
    /// Lays out the first moment below `dir`.
    ///
    /// # Errors
    /// When the fixture cannot be read or the folder not be written.
    pub fn start(dir: &Path) -> Result<Self> {
        let tree = PsadTree::new(dir);
        tree.show_psad(BEFORE)?;
        let lines = tree.append_packets(BEFORE, 0, usize::MAX)?;
        Ok(Self { tree, step: 0, lines })
    }

    /// The folder and the log.
    pub fn tree(&self) -> &PsadTree {
        &self.tree
    }

    /// Lets a second's worth of packets come in, and psad write what it then writes.
    ///
    /// # Errors
    /// When the fixture cannot be read or the folder not be written.
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
