//! Why the disk refuses a frame, in words with a remedy.

use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Reason for a refused write in the spool's folder: the kernel's errno, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFault(Option<Errno>);

impl DiskFault {
    /// The reason from a failed write, rename or fsync.
    pub fn of(error: &io::Error) -> Self {
        Self(Errno::from_io_error(error))
    }

    /// A line of text: the fault and the remedy.
    pub fn in_words(self, folder: &Path) -> String {
        let folder = folder.display();
        match self.0 {
            Some(Errno::NOSPC) => format!("no space left on {folder}: free space there, or lower spool.bytes-max"),
            Some(Errno::DQUOT) => {
                format!("the disk quota on {folder} is used up: raise the quota, or lower spool.bytes-max")
            }
            Some(Errno::ROFS) => {
                format!(
                    "{folder} is mounted read-only: see dmesg for the cause, repair the file system, then mount -o \
                    remount,rw"
                )
            }
            Some(Errno::IO) => format!("the disk under {folder} fails (I/O error): look at dmesg and smartctl"),
            Some(Errno::ACCESS | Errno::PERM) => format!(
                "{folder} may not be written: chown -R edr-agentd: {folder}; chmod 700 {folder}; systemctl restart \
                edr-agentd"
            ),
            Some(Errno::STALE) => format!("stale file handle on {folder}: mount the file system again"),
            Some(Errno::MFILE | Errno::NFILE) => {
                format!("no file can be opened in {folder}, too many are open: look at LimitNOFILE= and fs.file-max")
            }
            Some(errno) => format!("{folder} cannot be used: {}", io::Error::from(errno)),
            None => format!("{folder} cannot be used: see the journal for the cause"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_fault_is_described_with_its_remedy() {
        let said = |errno: Errno| DiskFault::of(&errno.into()).in_words(Path::new("/s"));
        assert_eq!(said(Errno::NOSPC), "no space left on /s: free space there, or lower spool.bytes-max");
        assert!(said(Errno::ROFS).starts_with("/s is mounted read-only: "));
        assert!(said(Errno::IO).starts_with("the disk under /s fails "));
        assert_eq!(said(Errno::LOOP), "/s cannot be used: Too many levels of symbolic links (os error 40)");
        let none = DiskFault::of(&io::ErrorKind::WriteZero.into());
        assert_eq!(none.in_words(Path::new("/s")), "/s cannot be used: see the journal for the cause");
    }
}
