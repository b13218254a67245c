//! Facts from the memory of the process, or from its memory map: the reads that may hang.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use edr_wire::snapshot::{GapReason, MappedFile};
use rustix::io::Errno;

use super::super::cmdline::split_cmdline;
use super::super::file::{inode, open_file, read_more};
use super::super::maps::as_printed;
use super::super::step::Step;
use super::{ReadTask, RowReader};
use crate::common::hung::JobProgress;

/// Maximum counted length of a command line in bytes; the kernel allows 6 MiB (execve(2)).
const CMDLINE_COUNT_MAX: u64 = 16 << 20;

impl RowReader {
    /// Reads the command line and the mapped files.
    pub(super) fn read_memory(&mut self, task: &ReadTask, place: BorrowedFd<'_>) {
        let detail = "not read: reads of this process, or of processes of the same owner, hang";
        if task.left_out.has(Step::Cmdline) {
            self.missed.because("argv", GapReason::Stuck, detail);
        } else {
            self.read_cmdline(place);
        }
        if self.reads_maps && task.left_out.has(Step::Maps) {
            self.missed.because("mapped", GapReason::Stuck, detail);
        } else if self.reads_maps {
            self.read_maps(place);
        }
    }

    fn read_cmdline(&mut self, place: BorrowedFd<'_>) {
        self.progress.at(Step::Cmdline);
        match read_counted(place, c"cmdline", &mut self.buf, &self.progress) {
            Ok((kept, total)) => {
                self.argv_total = total;
                if !split_cmdline(&self.buf[..kept], &mut self.row.argv) || total > kept as u64 {
                    self.row.argv_bytes = Some(total);
                }
                if let Some(redactor) = &self.redactor {
                    redactor.redact(&mut self.row.argv);
                }
            }
            Err(errno) => self.missed.add("argv", errno),
        }
    }

    /// The kernel gives a page of lines at a time.
    fn read_maps(&mut self, place: BorrowedFd<'_>) {
        self.progress.at(Step::Maps);
        let mut read_all = || -> Result<(), Errno> {
            let file = open_file(place, c"maps")?;
            let mut kept = 0; // the beginning of a line whose end is still to come
            loop {
                let len = kept + read_more(&file, &mut self.buf[kept..])?;
                self.progress.beat();
                let ended = len == kept;
                let mut line_start = 0;
                for at in kept..len {
                    if self.buf[at] == b'\n' {
                        self.mapped.add_line(&self.buf[line_start..at]);
                        line_start = at + 1;
                    }
                }
                if ended || line_start == 0 && len == self.buf.len() {
                    return Ok(());
                }
                self.buf.copy_within(line_start..len, 0);
                kept = len - line_start;
            }
        };
        if let Err(errno) = read_all() {
            self.missed.add("mapped", errno);
        }
        if self.mapped.finish(&mut self.row.mapped) {
            self.missed.because("mapped", GapReason::TooLong, "more mapped files than are listed");
        }
        for file in &mut self.row.mapped {
            let printed = as_printed(&file.path.0);
            let names = [Some(&file.path.0), printed.as_ref()].into_iter().flatten();
            let called_deleted = names.filter(|_| file.deleted).map(|name| ([name, DELETED].concat(), false));
            let as_printed = printed.iter().map(|name| (name.clone(), file.deleted));
            let found = called_deleted.chain(as_printed).find(|(name, _)| {
                self.progress.beat();
                is_name_of(place, file, name)
            });
            if let Some((name, deleted)) = found {
                (file.path.0, file.deleted) = (name, deleted);
            }
        }
    }
}

const DELETED: &[u8] = b" (deleted)";

/// True when a mapped file really has the name `path`: `x (deleted)`, or `\012` instead of a newline. The kernel prints
/// a text for mapped files and no link (`/proc/PID/map_files` requires CAP_CHECKPOINT_RESTORE), so the name is looked
/// up in the root of the process: the same device and inode with a link prove the name. On file systems with different
/// numbers (overlayfs, btrfs) the text decides.
fn is_name_of(place: BorrowedFd<'_>, file: &MappedFile, path: &[u8]) -> bool {
    let path = [b"root", path].concat();
    let found = CString::new(path).ok().and_then(|path| inode(place, &path).ok());
    found.is_some_and(|found| (found.dev, found.inode) == (file.dev, file.inode) && found.nlink > 0)
}

/// Reads `name` into `buf` and counts its bytes to the end. Returns the bytes in `buf`, and the total.
fn read_counted(
    dir: BorrowedFd<'_>,
    name: &CStr,
    buf: &mut [u8],
    progress: &JobProgress,
) -> Result<(usize, u64), Errno> {
    let file = open_file(dir, name)?;
    let kept = read_more(&file, buf)?;
    let mut total = kept as u64;
    if kept == buf.len() {
        let mut rest = vec![0; 64 << 10];
        while total < CMDLINE_COUNT_MAX {
            match read_more(&file, &mut rest)? {
                0 => break,
                more => total += more as u64,
            }
            progress.beat();
        }
    }
    Ok((kept, total))
}
