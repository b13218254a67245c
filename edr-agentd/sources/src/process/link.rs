//! Parsers of the magic links below `/proc/PID` (proc_pid_fd(5), namespaces(7)).

use super::number::decimal;

const DELETED: &[u8] = b" (deleted)";

/// The path behind a link, without the ` (deleted)` appended by the kernel to a file without a name. The link count
/// decides, not the text: a file may be called `x (deleted)`.
pub(super) fn path_of(link: &[u8], nlink: u32) -> &[u8] {
    if nlink == 0 { link.strip_suffix(DELETED).unwrap_or(link) } else { link }
}

/// The name in `anon_inode:[eventpoll]`, `anon_inode:inotify` and, in kernels 6.9 to 6.14, `pidfd:[7]`. Paths start
/// with a slash, so no file can imitate an anonymous inode.
pub(super) fn anon_inode_name(link: &[u8]) -> Option<&[u8]> {
    if let Some(name) = link.strip_prefix(b"anon_inode:") {
        return Some(name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name));
    }
    link.starts_with(b"pidfd:[").then_some(b"pidfd")
}

/// The name in `/memfd:name (deleted)` (memfd_create(2)). The caller checks that the file is on the file system of
/// memfds.
pub(super) fn memfd_name(link: &[u8]) -> Option<&[u8]> {
    link.strip_prefix(b"/memfd:").map(|name| name.strip_suffix(DELETED).unwrap_or(name))
}

/// The inode in `net:[4026531840]`.
pub(super) fn namespace_inode(link: &[u8]) -> Option<u64> {
    let open = link.iter().position(|&b| b == b'[')?;
    decimal(link[open + 1..].strip_suffix(b"]")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_without_a_name_loses_the_word_deleted() {
        assert_eq!(path_of(b"/tmp/x (deleted)", 1), b"/tmp/x (deleted)");
        assert_eq!(path_of(b"/tmp/x (deleted)", 0), b"/tmp/x");
        assert_eq!(path_of(b"/tmp/x (deleted) (deleted)", 0), b"/tmp/x (deleted)");
        assert_eq!(path_of(b"/tmp/x", 0), b"/tmp/x");
    }

    #[test]
    fn names_are_taken_out_of_their_brackets() {
        assert_eq!(anon_inode_name(b"anon_inode:[eventpoll]"), Some(b"eventpoll".as_slice()));
        assert_eq!(anon_inode_name(b"anon_inode:inotify"), Some(b"inotify".as_slice()));
        assert_eq!(anon_inode_name(b"anon_inode:[pidfd]"), Some(b"pidfd".as_slice()));
        assert_eq!(anon_inode_name(b"pidfd:[12]"), Some(b"pidfd".as_slice()));
        assert_eq!(anon_inode_name(b"/anon_inode:[eventpoll]"), None);
        assert_eq!(memfd_name(b"/memfd: x (deleted) (deleted)"), Some(b" x (deleted)".as_slice()));
        assert_eq!(memfd_name(b"/tmp/memfd:x"), None);
        assert_eq!(namespace_inode(b"net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(namespace_inode(b"net:[]"), None);
        assert_eq!(namespace_inode(b"net:4026531840"), None);
    }
}
