//! Parser of `/proc/PID/maps` (proc_pid_maps(5)): the mapped files, each once.

use edr_wire::Bytes;
use edr_wire::snapshot::MappedFile;

use super::number::{decimal, hex};

/// Maximum number of distinct mapped files listed per process.
pub(super) const MAPPED_MAX: usize = 1_024;

/// Collects the distinct files of a process from the lines of `maps`, sorted by device and inode.
#[derive(Debug, Default)]
pub(super) struct MappedFiles {
    files: Vec<MappedFile>,
    spare: Vec<MappedFile>,
    last: Option<usize>,
    cut: bool,
}

impl MappedFiles {
    /// Starts again and reuses the memory of `old` rows.
    pub(super) fn start(&mut self, old: &mut Vec<MappedFile>) {
        self.spare.append(old);
        self.spare.append(&mut self.files);
        self.spare.truncate(MAPPED_MAX);
        self.last = None;
        self.cut = false;
    }

    /// Takes one line: `start-end perms offset dev inode path`. Lines of anonymous memory and malformed lines are
    /// ignored.
    pub(super) fn add_line(&mut self, line: &[u8]) {
        let mut fields = line.splitn(6, |&b| b == b' ');
        let (Some(_), Some(perms), Some(_), Some(dev), Some(inode), Some(path)) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return;
        };
        let (Some(inode), Some(dev)) = (decimal(inode), device(dev)) else { return };
        let path = path.trim_ascii_start();
        // The first segment of System V shared memory has the inode 0 (the inode is the id) on a device of its own.
        if path.is_empty() || (inode == 0 && (dev == 0 || path[0] != b'/')) {
            return;
        }
        let executable = perms.get(2) == Some(&b'x');
        // The segments of a file are adjacent.
        let place = match self.last.filter(|&last| (self.files[last].dev, self.files[last].inode) == (dev, inode)) {
            Some(last) => Ok(last),
            None => self.files.binary_search_by_key(&(dev, inode), |file| (file.dev, file.inode)),
        };
        let index = match place {
            Ok(index) => index,
            Err(_) if self.files.len() == MAPPED_MAX => {
                self.cut = true;
                return;
            }
            Err(index) => {
                let mut file = self.spare.pop().unwrap_or_default();
                let (name, deleted) = match path.strip_suffix(b" (deleted)") {
                    Some(name) => (name, true),
                    None => (path, false),
                };
                (file.dev, file.inode, file.deleted, file.executable) = (dev, inode, deleted, false);
                unescape(name, &mut file.path);
                self.files.insert(index, file);
                index
            }
        };
        self.files[index].executable |= executable;
        self.last = Some(index);
    }

    /// Gives the files out; true when there were more than [`MAPPED_MAX`].
    pub(super) fn finish(&mut self, into: &mut Vec<MappedFile>) -> bool {
        into.append(&mut self.files);
        self.cut
    }
}

/// `fd:01`: major and minor in hexadecimal.
fn device(field: &[u8]) -> Option<u64> {
    let colon = field.iter().position(|&b| b == b':')?;
    let number = |digits: &[u8]| hex(digits).and_then(|number| u32::try_from(number).ok());
    Some(rustix::fs::makedev(number(&field[..colon])?, number(&field[colon + 1..])?))
}

/// Replaces `\012` by a newline. The kernel writes a newline as `\012` and a backslash as itself, so both names print
/// alike; [`as_printed`] is the other name.
fn unescape(name: &[u8], into: &mut Bytes) {
    into.0.clear();
    let mut rest = name;
    while let Some(at) = rest.windows(4).position(|window| window == b"\\012") {
        into.0.extend_from_slice(&rest[..at]);
        into.0.push(b'\n');
        rest = &rest[at + 4..];
    }
    into.0.extend_from_slice(rest);
}

/// The name of a file exactly as the kernel printed it, for a name in which `\012` was taken for a newline.
pub(super) fn as_printed(path: &[u8]) -> Option<Vec<u8>> {
    path.contains(&b'\n').then(|| path.split(|&b| b == b'\n').collect::<Vec<_>>().join(&b"\\012"[..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(maps: &str) -> Vec<MappedFile> {
        let mut mapped = MappedFiles::default();
        let mut old = vec![MappedFile { path: Bytes::from(b"old"), executable: true, ..MappedFile::default() }];
        mapped.start(&mut old);
        maps.lines().for_each(|line| mapped.add_line(line.as_bytes()));
        assert!(!mapped.finish(&mut old));
        old
    }

    #[test]
    fn each_file_once_and_no_anonymous_memory() {
        let found = parse(
            "55d0c0000000-55d0c0004000 r--p 00000000 fe:00 2097 /usr/bin/cat\n\
             55d0c0004000-55d0c0009000 r-xp 00004000 fe:00 2097 /usr/bin/cat\n\
             55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]\n\
             7f0000000000-7f0000001000 rw-s 00000000 00:01 9 /dev/zero (deleted)\n\
             7f0000010000-7f0000011000 rw-s 00000000 00:01 0                          /SYSV00000000 (deleted)\n\
             7f0000020000-7f0000021000 rw-s 00000000 00:01 0 \n\
             7f0000100000-7f0000101000 r--p 00000000 fe:00 12   /tmp/a\\012b c\n\
             7f0000200000-7f0000201000 r--p 00001000 fe:00 2097 /usr/bin/cat\n\
             7f0000300000-7f0000301000 rw-p 00000000 00:00 0 \n\
             7fff00000000-7fff00001000 r-xp 00000000 00:00 0 [vdso]\n",
        );
        let file = |path: &[u8], dev, inode, deleted, executable| MappedFile {
            path: Bytes::from(path),
            dev,
            inode,
            deleted,
            executable,
        };
        let root = rustix::fs::makedev(0xfe, 0);
        assert_eq!(
            found,
            [
                file(b"/SYSV00000000", rustix::fs::makedev(0, 1), 0, true, false),
                file(b"/dev/zero", rustix::fs::makedev(0, 1), 9, true, false),
                file(b"/tmp/a\nb c", root, 12, false, false),
                file(b"/usr/bin/cat", root, 2097, false, true),
            ]
        );
    }

    #[test]
    fn a_printed_name_is_restored() {
        for printed in [&b"/tmp/a\\012b"[..], b"\\012\\012", b"/tmp/a\\0122"] {
            let mut name = Bytes::default();
            unescape(printed, &mut name);
            assert_eq!(as_printed(&name.0), Some(printed.to_vec()));
        }
        assert_eq!(as_printed(b"/tmp/a\\b"), None);
    }

    #[test]
    fn their_number_is_bounded() {
        let mut mapped = MappedFiles::default();
        for inode in 1..=2 * MAPPED_MAX {
            mapped.add_line(format!("0-1 r--p 0 01:02 {inode} /x").as_bytes());
        }
        let mut files = Vec::new();
        assert!(mapped.finish(&mut files) && files.len() == MAPPED_MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in proptest::collection::vec(any::<u8>(), 0..120)) {
            let mut mapped = MappedFiles::default();
            mapped.add_line(&line);
            mapped.add_line(&[b"0-1 r-xp 0 01:02 3 ", line.as_slice()].concat());
        }
    }
}
