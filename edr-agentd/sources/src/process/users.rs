//! Names of users and groups from `/etc/passwd` (passwd(5)) and `/etc/group` (group(5)).
//!
//! Files only: an NSS module may use the network, and runs foreign code inside the agent. The ids are in every row, so
//! users known only to a directory service are still identified.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::file::read_more;
use super::number::decimal;
use crate::common::calls;

/// Maximum number of bytes read of a file. A million accounts have 60 MB; a host with that many uses a directory
/// service.
const FILE_BYTES_MAX: usize = 8 << 20;

/// Names by id. Clones share the map.
#[derive(Debug, Clone, Default)]
pub(super) struct AccountNames {
    path: PathBuf,
    /// Version of the file in memory: inode, size, mtime and ctime in ns.
    version: Option<(u64, u64, i128, i128)>,
    names: Arc<HashMap<u32, String>>,
}

impl AccountNames {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, version: None, names: Arc::default() }
    }

    pub(super) fn get(&self, id: u32) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// Reads the file again after a replacement or a write; returns true after a read.
    pub(super) fn refresh(&mut self) -> io::Result<bool> {
        calls::one();
        let found = std::fs::metadata(&self.path)?;
        let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let version =
            (found.ino(), found.size(), ns(found.mtime(), found.mtime_nsec()), ns(found.ctime(), found.ctime_nsec()));
        if self.version == Some(version) {
            return Ok(false);
        }
        if !found.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let text = self.read()?;
        self.names = Arc::new(parse_names(&text));
        self.version = Some(version);
        Ok(true)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = calls::opened(openat(CWD, &self.path, flags, Mode::empty()))?;
        let mut text = Vec::new();
        while text.len() < FILE_BYTES_MAX {
            let kept = text.len();
            text.resize(FILE_BYTES_MAX.min(kept + (64 << 10)), 0);
            let len = read_more(&file, &mut text[kept..])?;
            text.truncate(kept + len);
            if len == 0 {
                break;
            }
        }
        Ok(text)
    }
}

/// Names by the id in the third field; the first of several names for an id, like getpwuid(3).
fn parse_names(file: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in file.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b':');
        let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let Some(id) = decimal(id).and_then(|id| u32::try_from(id).ok()) else { continue };
        if !name.is_empty() {
            names.entry(id).or_insert_with(|| String::from_utf8_lossy(name).into_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_an_id_counts_and_bad_lines_are_passed_over() {
        let names = parse_names(
            b"root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\n\n#x\na:b\n:x:7:\nbad:x:-1:\nm\xff:x:9:",
        );
        let mut all: Vec<_> = names.into_iter().collect();
        all.sort_unstable();
        assert_eq!(all, [(0, "root".to_owned()), (9, "m\u{fffd}".to_owned())]);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let mut names = AccountNames::new(path.clone());
        assert!(names.refresh().is_err());
        std::fs::write(&path, "ann:x:1000:\n").unwrap();
        assert!(names.refresh().unwrap() && !names.refresh().unwrap());
        assert_eq!(names.get(1000), Some("ann"));
        // Like useradd(8): a new file over the old.
        std::fs::write(folder.path().join("passwd+"), "bob:x:1000:\n").unwrap();
        std::fs::rename(folder.path().join("passwd+"), &path).unwrap();
        assert!(names.refresh().unwrap());
        assert_eq!((names.get(1000), names.get(1)), (Some("bob"), None));
    }
}
