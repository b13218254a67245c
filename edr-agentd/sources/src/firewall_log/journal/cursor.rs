//! A position in the journal, in systemd's own text form, which `journalctl --after-cursor` accepts.

use super::file::EntryHead;

/// The position after the last entry read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalCursor {
    pub(super) seqnum_id: [u8; 16],
    pub(super) entry: EntryHead,
}

impl JournalCursor {
    /// Parses `s=<seqnum id>;i=<seqnum>;b=<boot id>;m=<monotonic>;t=<realtime>;x=<xor hash>`; numbers are hexadecimal.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split(';');
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let cursor = Self {
            seqnum_id: id(field("s")?)?,
            entry: EntryHead {
                seqnum: u64::from_str_radix(field("i")?, 16).ok()?,
                boot_id: id(field("b")?)?,
                monotonic_us: u64::from_str_radix(field("m")?, 16).ok()?,
                realtime_us: u64::from_str_radix(field("t")?, 16).ok()?,
                xor_hash: u64::from_str_radix(field("x")?, 16).ok()?,
            },
        };
        fields.next().is_none().then_some(cursor)
    }

    /// True when `entry`, of a file with `seqnum_id`, comes after this cursor.
    ///
    /// Inside a boot the monotonic clock decides, because journald assigns new sequence numbers when it moves entries
    /// from memory to disk, and a new id after damage. Otherwise the sequence number decides, and between two sequences
    /// the wall clock.
    pub(super) fn is_before(&self, seqnum_id: &[u8; 16], entry: &EntryHead) -> bool {
        let last = &self.entry;
        if entry.boot_id == last.boot_id && entry.monotonic_us != last.monotonic_us {
            entry.monotonic_us > last.monotonic_us
        } else if *seqnum_id == self.seqnum_id {
            entry.seqnum > last.seqnum
        } else {
            (entry.realtime_us, entry.xor_hash) > (last.realtime_us, last.xor_hash)
        }
    }
}

impl std::fmt::Display for JournalCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EntryHead { seqnum, realtime_us, monotonic_us, boot_id, xor_hash } = &self.entry;
        let (id, boot) = (u128::from_be_bytes(self.seqnum_id), u128::from_be_bytes(*boot_id));
        write!(f, "s={id:032x};i={seqnum:x};b={boot:032x};m={monotonic_us:x};t={realtime_us:x};x={xor_hash:x}")
    }
}

fn id(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "s=04b779733fad75471f965cf54b06472f;i=30d2d;b=0123456789abcdef0123456789abcdef;\
                    m=2cb21f8b;t=6608b1f2cb2e0;x=ab12";
        assert_eq!(JournalCursor::parse(text).unwrap().to_string(), text);
        for end in 0..text.len() - 3 {
            assert_eq!(JournalCursor::parse(&text[..end]), None);
        }
    }

    #[test]
    fn order() {
        let entry = EntryHead { seqnum: 10, realtime_us: 100, monotonic_us: 50, boot_id: [1; 16], xor_hash: 7 };
        let cursor = JournalCursor { seqnum_id: [9; 16], entry };
        assert!(!cursor.is_before(&[9; 16], &entry));
        assert!(cursor.is_before(&[9; 16], &EntryHead { seqnum: 11, ..entry }));
        // The clock was set back, and journald assigned new numbers: the monotonic clock of the boot decides.
        assert!(cursor.is_before(&[8; 16], &EntryHead { seqnum: 1, realtime_us: 1, monotonic_us: 51, ..entry }));
        assert!(!cursor.is_before(&[8; 16], &EntryHead { seqnum: 99, realtime_us: 999, monotonic_us: 49, ..entry }));
        // Another boot.
        let later = EntryHead { boot_id: [2; 16], monotonic_us: 1, seqnum: 11, ..entry };
        assert!(cursor.is_before(&[9; 16], &later));
        assert!(!cursor.is_before(&[8; 16], &EntryHead { realtime_us: 99, ..later }));
    }
}
