//! Shortens the lists of a row to the room that the owner's share leaves.

use edr_wire::Bytes;
use edr_wire::snapshot::{GapReason, MappedFile, OpenFile, Process};

use super::super::files::{FILE_ROW_BYTES, ListedFiles};
use super::super::missed::MissedFacts;
use super::super::room::{REWRITES, RowGrant, RowSize};
use crate::common::shares::divide;

/// Bytes of a name that belong to the core of a row.
const NAME_BYTES: usize = 256;
/// Supplementary groups that belong to the core of a row.
const GROUPS: usize = 32;
/// Bytes of a group in msgpack.
const GROUP_BYTES: usize = 5;
/// Bytes of an argument beside its text.
const ARGUMENT_BYTES: usize = 5;
/// Estimated bytes of a mapped file beside its path: field names, numbers.
const MAPPED_BYTES: usize = 45;
/// Bytes of the hash of a shortened command line.
const HASH_BYTES: usize = 16;
const DETAIL: &str = "shortened: the owner's share of the room in the snapshot is used up";

/// Hashes of the command line and of the names of a process, and how often they changed lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) struct TextHistory {
    pub(super) hash: u64,
    /// Changes in the last reads; a read without a change takes one off.
    pub(super) rewrites: u8,
}

impl TextHistory {
    /// The history after a read of the texts with this hash.
    pub(super) fn after(before: Option<Self>, hash: u64) -> Self {
        let rewrites = match before {
            None => 0,
            Some(before) if before.hash == hash => before.rewrites.saturating_sub(1),
            Some(before) => (before.rewrites + 1).min(2 * REWRITES),
        };
        Self { hash, rewrites }
    }

    pub(super) fn is_rewritten(self) -> bool {
        self.rewrites >= REWRITES
    }
}

/// Shortens the lists of `row`, and names each shortened list in `missed`.
pub(super) fn fit(
    row: &mut Process,
    listed: ListedFiles,
    grant: RowGrant,
    is_rewritten: bool,
    size: &mut RowSize,
    missed: &mut MissedFacts,
) {
    let argv = argv_bytes(&row.argv);
    let (names, mapped, files) = (names_bytes(row), mapped_bytes(&row.mapped), files_bytes(&row.files));
    // Of files that were not read the size is estimated.
    let whole = [argv, names, mapped, files + listed.unread_bytes()].map(|bytes| bytes as u64);
    let mut demands = whole;
    if is_rewritten {
        demands[..2].copy_from_slice(&divide(&whole[..2], grant.rewritten));
    }
    let shares = divide(&demands, grant.lists);
    let cut = |place: usize| (shares[place] < whole[place]).then_some(shares[place] as usize);
    if let Some(room) = cut(0) {
        cut_argv(row, room);
        missed.because("argv", GapReason::TooLong, DETAIL);
    }
    if cut(1).is_some() {
        cut_names(row, missed);
    }
    if let Some(room) = cut(2) {
        let kept = kept(&row.mapped, room, |file| MAPPED_BYTES + file.path.0.len());
        row.mapped.truncate(kept);
        missed.because("mapped", GapReason::TooLong, DETAIL);
    }
    if let Some(room) = cut(3) {
        let kept = kept(&row.files, room, file_bytes);
        row.truncated |= kept < row.files.len() || listed.unread > 0;
        row.files.truncate(kept);
        missed.because("files", GapReason::TooLong, DETAIL);
    }
    let texts = argv_bytes(&row.argv) + names_bytes(row);
    size.lists_max = grant.lists;
    size.lists = (texts + mapped_bytes(&row.mapped) + files_bytes(&row.files)) as u64;
    // A command line shortened for being rewritten is no demand on the room of the lists.
    size.lists_wanted = if shares == demands { size.lists } else { demands.iter().sum() };
    if is_rewritten {
        size.rewritten = texts as u64;
        size.rewritten_wanted = if demands == whole { size.rewritten } else { whole[0] + whole[1] };
    }
}

/// Number of the first items that fit into `room` bytes.
fn kept<T>(items: &[T], room: usize, bytes: impl Fn(&T) -> usize) -> usize {
    let mut sum = 0;
    let fits = |item: &&T| {
        sum += bytes(item);
        sum <= room
    };
    items.iter().take_while(fits).count()
}

/// Keeps the head of the command line, and its hash.
fn cut_argv(row: &mut Process, room: usize) {
    row.argv_hash = Some(argv_hash(&row.argv));
    let whole = kept(&row.argv, room, |argument| ARGUMENT_BYTES + argument.0.len());
    let used = argv_bytes(&row.argv[..whole]);
    let head = room.saturating_sub(used + ARGUMENT_BYTES);
    row.argv.truncate(whole + usize::from(head > 0));
    if let Some(last) = row.argv.get_mut(whole) {
        last.0.truncate(head);
        last.0.shrink_to_fit();
    }
}

/// First bytes of BLAKE3 over the arguments, each followed by NUL.
fn argv_hash(argv: &[Bytes]) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    for argument in argv {
        hasher.update(&argument.0).update(b"\0");
    }
    Bytes::from(&hasher.finalize().as_bytes()[..HASH_BYTES])
}

fn argv_bytes(argv: &[Bytes]) -> usize {
    argv.iter().map(|argument| ARGUMENT_BYTES + argument.0.len()).sum()
}

fn mapped_bytes(mapped: &[MappedFile]) -> usize {
    mapped.iter().map(|file| MAPPED_BYTES + file.path.0.len()).sum()
}

fn file_bytes(file: &OpenFile) -> usize {
    FILE_ROW_BYTES + file.path.0.len() + file.detail.0.len()
}

fn files_bytes(files: &[OpenFile]) -> usize {
    files.iter().map(file_bytes).sum()
}

/// The names that a process can make long, with the fields that hold them.
fn long_names(row: &mut Process) -> [(&'static str, Option<&mut Bytes>); 4] {
    [
        ("cgroup", Some(&mut row.cgroup)),
        ("exe", row.exe.as_mut().map(|exe| &mut exe.path)),
        ("cwd", row.cwd.as_mut()),
        ("root", row.root.as_mut()),
    ]
}

/// Bytes of names and groups beyond the core.
fn names_bytes(row: &Process) -> usize {
    let names = [Some(&row.cgroup), row.exe.as_ref().map(|exe| &exe.path), row.cwd.as_ref(), row.root.as_ref()];
    let beyond = names.into_iter().flatten().map(|name| name.0.len().saturating_sub(NAME_BYTES)).sum::<usize>();
    beyond + row.groups.len().saturating_sub(GROUPS) * GROUP_BYTES
}

fn cut_names(row: &mut Process, missed: &mut MissedFacts) {
    for (field, name) in long_names(row) {
        if let Some(name) = name.filter(|name| name.0.len() > NAME_BYTES) {
            name.0.truncate(NAME_BYTES);
            name.0.shrink_to_fit();
            missed.because(field, GapReason::TooLong, DETAIL);
        }
    }
    if row.groups.len() > GROUPS {
        row.groups.truncate(GROUPS);
        missed.because("groups", GapReason::TooLong, DETAIL);
    }
}

/// Texts that a process can rewrite: the command line, and the paths of its executable and folders.
pub(super) fn texts(row: &Process) -> impl std::hash::Hash + '_ {
    (&row.argv, row.exe.as_ref().map(|exe| &exe.path), &row.cwd, &row.root)
}

#[cfg(test)]
mod tests {
    use super::super::super::room::RowSize;
    use super::*;
    use crate::common::owner::Owner;
    use edr_wire::snapshot::{Exe, Fd, encode_row};
    use proptest::prelude::*;

    fn row(arguments: usize, path_bytes: usize, files: u32) -> Process {
        let path = Bytes::from(vec![b'p'; path_bytes].as_slice());
        Process {
            argv: (0..arguments).map(|_| Bytes::from(&b"argument"[..])).collect(),
            exe: Some(Exe { path: path.clone(), ..Exe::default() }),
            cgroup: path.clone(),
            cwd: Some(path.clone()),
            groups: vec![u32::MAX; path_bytes / 10],
            mapped: vec![MappedFile { path: path.clone(), dev: 1 << 40, inode: 1 << 40, ..MappedFile::default() }; 3],
            files: (0..files)
                .map(|fd| OpenFile { fd: Fd::Number(fd), path: path.clone(), ..OpenFile::default() })
                .collect(),
            files_total: Some(files.into()),
            state: 'S',
            ..Process::default()
        }
    }

    fn fitted(row: &mut Process, lists: u64, rewritten: Option<u64>) -> (RowSize, Vec<&'static str>) {
        let mut size = RowSize::unknown(Owner::new(1, b"/"));
        let grant = RowGrant { is_listed: true, lists, rewritten: rewritten.unwrap_or(0) };
        let mut missed = MissedFacts::default();
        fit(row, ListedFiles::default(), grant, rewritten.is_some(), &mut size, &mut missed);
        (size, missed.drain().map(|miss| miss.field).collect())
    }

    #[test]
    fn what_fits_is_not_touched() {
        let mut fits = row(10, 300, 10);
        let before = fits.clone();
        let (size, missed) = fitted(&mut fits, u64::MAX, None);
        assert!(fits == before && missed.is_empty() && !size.is_cut());
        assert_eq!(fitted(&mut fits, size.lists_wanted, None).1, [""; 0]);
    }

    #[test]
    fn each_cut_is_named_and_the_core_stays() {
        let mut cut = row(100, 4_000, 50);
        let (size, missed) = fitted(&mut cut, 0, None);
        assert_eq!(missed, ["argv", "cgroup", "exe", "cwd", "groups", "mapped", "files"]);
        assert!(size.is_cut() && size.lists == 0 && cut.truncated && cut.files_total == Some(50));
        assert_eq!(cut.argv_hash.as_ref().map(|hash| hash.0.len()), Some(HASH_BYTES));
        assert_eq!(cut.exe.as_ref().unwrap().path.0.len(), NAME_BYTES);
        assert!(encode_row(&cut).len() < 2_000);
    }

    #[test]
    fn a_rewritten_command_line_is_sent_as_hash_and_head() {
        let mut rewritten = row(1_000, 10, 5);
        let whole = rewritten.clone();
        let (size, missed) = fitted(&mut rewritten, u64::MAX, Some(64));
        assert_eq!((missed, size.is_cut()), (vec!["argv"], false));
        assert!(size.rewritten <= 64 && size.rewritten < size.rewritten_wanted);
        assert_eq!(rewritten.argv_hash, Some(argv_hash(&whole.argv)));
        let head: Vec<&[u8]> = rewritten.argv.iter().map(|argument| argument.0.as_slice()).collect();
        assert_eq!(head, [&b"argument"[..], b"argument", b"argument", b"argument", b"argumen"]);
        assert!(rewritten.files == whole.files && rewritten.mapped == whole.mapped);
    }

    #[test]
    fn texts_count_as_rewritten_after_some_changes_and_no_longer_after_some_reads_without() {
        let mut history = TextHistory::after(None, 0);
        let mut read = |hash| {
            history = TextHistory::after(Some(history), hash);
            history.is_rewritten()
        };
        assert_eq!([1, 2, 3, 4].map(&mut read), [false, false, true, true]);
        assert_eq!([4, 4].map(&mut read), [true, false]);
    }

    proptest! {
        #[test]
        fn a_row_takes_no_more_than_its_room(
            arguments in 0..300_usize,
            path_bytes in 0..4_000_usize,
            files in 0..40_u32,
            room in 0..20_000_u64,
        ) {
            let mut cut = row(arguments, path_bytes, files);
            let (size, missed) = fitted(&mut cut, room, None);
            prop_assert!(size.lists <= room);
            prop_assert_eq!(size.is_cut(), !missed.is_empty());
            prop_assert!(encode_row(&cut).len() as u64 <= 2_500 + size.lists);
        }
    }
}
