//! Change events of the kernel for psad's folder (inotify(7)). Events only set marks; the tick reads the files.
//!
//! The number of watched folders is bounded, and a mark costs at most an address; all further folders are polled. After
//! an overflow of the kernel's queue everything is marked. A slow poll runs in addition, for file systems without
//! events.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::common::Recorder;
use crate::common::lines::address;

/// Limit of watched folders: half of the smallest default of `fs.inotify.max_user_watches` (8,192), which is shared
/// with the host's programs.
pub(crate) const WATCHES_MAX: usize = 4_096;
/// Readings until a failed watch is tried again.
const RETRY_READINGS: u32 = 60;

/// The marks set since the last reading.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Everything may have changed.
    pub(crate) everything: bool,
    /// A name was added to or removed from psad's folder.
    pub(crate) listing: bool,
    /// Sources whose folders changed.
    pub(crate) sources: HashSet<IpAddr>,
    /// Sources with new or removed folders, and thereby lost watches.
    pub(crate) renewed: HashSet<IpAddr>,
    /// Number of overflows of the queue.
    overflows: u64,
}

/// A watch on psad's folder and on folders of sources inside.
#[derive(Debug, Default)]
pub(crate) struct FolderWatch {
    watcher: Option<RecommendedWatcher>,
    /// Written by the thread of the watcher.
    marks: Recorder<Marks>,
    root: PathBuf,
    watched: usize,
    problem: Option<String>,
    retry_in: u32,
    /// Number of complete rescans after an overflow.
    pub(crate) rescans: u64,
}

impl FolderWatch {
    /// Watches `root`, and drops all earlier watches. On a failure [`FolderWatch::problem`] has the reason.
    pub(crate) fn start(&mut self, root: &Path) {
        self.watcher = None;
        self.watched = 0;
        self.root = root.to_owned();
        self.retry_in = RETRY_READINGS;
        self.marks = Recorder::default();
        let marks = self.marks.clone();
        let of = root.to_owned();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            marks.record(|marks| match event {
                Ok(event) => marks.hear(&of, &event),
                Err(_) => marks.everything = true,
            });
        });
        let watcher = watcher.and_then(|mut watcher| {
            watcher.watch(root, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.watched = 1;
                self.problem = None;
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    /// True when events of psad's folder arrive.
    pub(crate) fn is_active(&self) -> bool {
        self.watcher.is_some()
    }

    /// The reason why folders are polled instead of watched.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Returns the marks since the last call. Without a watch everything is marked.
    pub(crate) fn take(&mut self) -> Marks {
        if !self.is_active() {
            self.retry_in = self.retry_in.saturating_sub(1);
            if self.retry_in == 0 {
                let root = std::mem::take(&mut self.root);
                self.start(&root);
            }
            return Marks { everything: true, listing: true, ..Marks::default() };
        }
        let mut marks = self.marks.drain();
        self.rescans += marks.overflows;
        marks.listing |= marks.everything;
        marks
    }

    /// Watches the folder `name` of a source; returns false when the folder must be polled.
    pub(crate) fn add(&mut self, name: &str) -> bool {
        if self.watched >= WATCHES_MAX {
            return false;
        }
        let Some(watcher) = &mut self.watcher else { return false };
        match watcher.watch(&self.root.join(name), RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched += 1;
                self.problem = None;
                true
            }
            Err(error) => {
                if !matches!(error.kind, notify::ErrorKind::PathNotFound) {
                    self.problem = Some(error.to_string());
                }
                false
            }
        }
    }

    /// Stops watching the folder `name`. `is_gone`: the folder was removed, so the kernel has already dropped the
    /// watch.
    pub(crate) fn remove(&mut self, name: &str, is_gone: bool) {
        self.watched = self.watched.saturating_sub(1);
        if let Some(watcher) = &mut self.watcher
            && !is_gone
        {
            // The folder may have been removed meanwhile; then there is no watch to remove.
            watcher.unwatch(&self.root.join(name)).unwrap_or_default();
        }
    }
}

impl Marks {
    fn hear(&mut self, root: &Path, event: &Event) {
        if event.need_rescan() {
            self.everything = true;
            self.overflows += 1;
            return;
        }
        let renames = match event.kind {
            // The agent's own reading opens files too.
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
            EventKind::Access(_) => return,
            EventKind::Modify(notify::event::ModifyKind::Name(_)) | EventKind::Create(_) | EventKind::Remove(_) => true,
            _ => false,
        };
        for path in &event.paths {
            let Ok(inside) = path.strip_prefix(root) else { continue };
            let mut names = inside.iter().map(|name| address(name.as_bytes()));
            match (names.next(), names.next()) {
                // psad's folder itself.
                (None, _) => self.everything |= renames,
                // A file of psad's folder: these few files are checked at each reading.
                (Some(None), _) => {}
                (Some(Some(source)), None) => {
                    self.listing |= renames;
                    if renames {
                        self.renewed.insert(source);
                    }
                }
                (Some(Some(source)), Some(_)) => {
                    self.sources.insert(source);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use super::*;

    fn wait_for(watch: &mut FolderWatch, mut enough: impl FnMut(&Marks) -> bool) -> Marks {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut all = Marks::default();
        while !enough(&all) {
            assert!(Instant::now() < deadline, "{all:?}");
            let marks = watch.take();
            all.everything |= marks.everything;
            all.listing |= marks.listing;
            all.sources.extend(marks.sources);
            all.renewed.extend(marks.renewed);
            std::thread::yield_now();
        }
        all
    }

    #[test]
    fn a_change_marks_only_its_source() {
        let root = tempfile::tempdir().unwrap();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut watch = FolderWatch::default();
        watch.start(root.path());
        fs::create_dir(root.path().join("192.0.2.1")).unwrap();
        let marks = wait_for(&mut watch, |marks| marks.listing);
        assert!(marks.renewed.contains(&address) && !marks.everything);
        assert!(watch.add("192.0.2.1"));
        fs::write(root.path().join("192.0.2.1/danger_level"), "1\n").unwrap();
        fs::write(root.path().join("top_ports"), "").unwrap();
        let marks = wait_for(&mut watch, |marks| marks.sources.contains(&address));
        assert!(!marks.everything && !marks.listing);
        fs::read(root.path().join("192.0.2.1/danger_level")).unwrap();
        fs::remove_dir_all(root.path().join("192.0.2.1")).unwrap();
        wait_for(&mut watch, |marks| marks.renewed.contains(&address));
    }

    #[test]
    fn an_overflow_of_the_kernels_queue_marks_everything_and_is_counted() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::default();
        watch.start(root.path());
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        if limit > 100_000 {
            println!("skipped: max_queued_events is {limit}, which takes too many files to overflow");
            return;
        }
        // While the marks are locked, no thread takes events from the queue. Each file causes at least three events.
        watch.marks.clone().record(|_| {
            for n in 0..=limit / 2 {
                fs::write(root.path().join(n.to_string()), "x").unwrap();
            }
        });
        wait_for(&mut watch, |marks| marks.everything);
        assert!(watch.rescans > 0);
    }

    #[test]
    fn a_folder_without_a_watch_is_reported_and_polled() {
        let mut watch = FolderWatch::default();
        watch.start(Path::new("/nonexistent/psad"));
        assert!(watch.problem().is_some() && !watch.is_active());
        assert!(watch.take().everything && !watch.add("192.0.2.1"));
    }
}
