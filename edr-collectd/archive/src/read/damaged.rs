//! Tests of damaged data files and of table logs that somebody else wrote.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use edr_wire::HostId;
use rustix::fs::inotify;

use crate::testing::{append, entries, header, noise, partition, records, row};
use crate::*;

/// The time of receipt and of capture of a frame.
fn at(seq: u64) -> i64 {
    i64::try_from(seq).unwrap() * 10_000_000_000
}

/// Makes an archive with one data file for each of eight frames of hosts 1 and 2 in turn. Returns the files in order.
async fn archive(dir: &Path) -> Vec<PathBuf> {
    let mut frames = Frames::open(dir).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    for seq in 1..=8 {
        let host = 2 - u8::try_from(seq % 2).unwrap();
        let bytes = records(&header(host, seq), &noise(3_000, seq), None, 1 << 20).remove(0);
        append(&mut frames, &[row(0, i64::try_from(seq).unwrap() - 1, at(seq), &bytes)]).await.unwrap();
    }
    let mut files = Vec::new();
    for entry in entries(frames.path()).into_values() {
        let text = std::fs::read_to_string(entry).unwrap();
        let path = text.split("\"add\":{\"path\":\"").nth(1).map(|rest| rest.split('"').next().unwrap());
        files.extend(path.map(|path| frames.path().join(path)));
    }
    assert_eq!(files.len(), 8);
    files
}

/// Returns the numbers of the frames in all rows.
async fn all(reader: &Reader) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let take = |row: ArchivedRow| found.extend(row.content.map(|(part, _)| part.frame.key.seq));
    reader.rows(0..i64::MAX, take).await.unwrap();
    found
}

/// Returns the number of the newest readable frame of a host before a moment.
async fn last(reader: &Reader, host: u8, at_ns: i64) -> Option<u64> {
    let found = reader.last_before(HostId([host; 16]), at_ns, None).await.unwrap().found;
    for frame in found {
        if let Ok(frame) = reader.found(&frame).await {
            return Some(frame.header.seq);
        }
    }
    None
}

#[tokio::test]
async fn a_damaged_file_is_a_named_gap_and_everything_else_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let files = archive(dir.path()).await;
    let file = &files[2];
    let whole = std::fs::read(file).unwrap();
    let secret = dir.path().join("elsewhere");
    std::fs::write(&secret, &whole).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        bytes
    };
    type Damager<'a> = Box<dyn Fn() + 'a>;
    let write = |bytes: Vec<u8>| -> Damager { Box::new(move || std::fs::write(file, &bytes).unwrap()) };
    let damagers: [(&str, Damager, &str); 8] = [
        ("missing", Box::new(|| {}), "No such file"),
        ("empty", write(Vec::new()), "it has 0 bytes instead of"),
        ("half", write(whole[..whole.len() / 2].to_vec()), "bytes instead of"),
        ("no data", write(vec![b'x'; whole.len()]), "arquet"),
        ("footer", write(flipped(whole.len() - 6)), ""),
        (
            "pages",
            write(whole.iter().enumerate().map(|(at, byte)| byte ^ u8::from((8..600).contains(&at))).collect()),
            "",
        ),
        ("a folder", Box::new(|| std::fs::create_dir(file).unwrap()), ""),
        ("a link out of the folder", Box::new(|| symlink(&secret, file).unwrap()), "outside of the table's folder"),
    ];
    let reader = Reader::new(dir.path());
    for (name, damage, reason) in &damagers {
        std::fs::remove_file(file).unwrap();
        damage();
        let others = BTreeSet::from([1, 2, 4, 5, 6, 7, 8]);
        assert_eq!(all(&reader).await, others, "{name}");
        assert_eq!(all(&Reader::new(dir.path())).await, others, "{name}");
        assert_eq!(last(&reader, 1, at(4)).await, Some(1), "{name}");
        assert_eq!(last(&reader, 2, at(4)).await, Some(4), "{name}");
        let first = reader.first_after(HostId([1; 16]), at(1)).await.unwrap();
        assert_eq!(first, FirstSnapshot::At(at(5)), "{name}");
        assert_eq!(reader.record_at(&partition(0), 2).await.unwrap(), None, "{name}");
        assert!(reader.record_at(&partition(0), 3).await.unwrap().is_some(), "{name}");
        assert_eq!(reader.rows_by_day().await.unwrap().values().copied().collect::<Vec<_>>(), [Some(7)], "{name}");

        let [found] = &reader.damage().files()[..] else { panic!("{name}: {:?}", reader.damage()) };
        let id = HostId([1; 16]).to_string();
        assert_eq!(dir.path().join(&found.path), *file);
        assert!(found.may_have(&id) && !found.may_have(&HostId([2; 16]).to_string()));
        let text = found.to_string();
        let gap = format!("1 rows of host {id}, received from 1970-01-01 00:00:30 to 1970-01-01 00:00:30 UTC,");
        assert!(text.starts_with(&gap) && text.contains(reason), "{name}: {text}");

        if file.is_dir() {
            std::fs::remove_dir(file).unwrap();
        } else {
            let _ = std::fs::remove_file(file);
        }
        std::fs::write(file, &whole).unwrap();
        assert_eq!(all(&reader).await.len(), 8, "{name}: a repaired file is read");
        assert_eq!(reader.damage().files(), [], "{name}");
    }
    // Several files at once, of any host, and all of them.
    for file in &files[4..] {
        std::fs::write(file, b"no data").unwrap();
    }
    assert_eq!(all(&reader).await, BTreeSet::from([1, 2, 3, 4]));
    assert_eq!(reader.damage().files().len(), 4);
    files.iter().for_each(|file| std::fs::write(file, b"no data").unwrap());
    assert_eq!(all(&reader).await, BTreeSet::new());
    assert_eq!(reader.rows_by_day().await.unwrap().len(), 0);
    // The archive grows on.
    let mut frames = Frames::open(dir.path()).await.unwrap();
    frames.position(&partition(0)).await.unwrap();
    let bytes = records(&header(1, 9), b"snapshot", None, 1 << 20).remove(0);
    append(&mut frames, &[row(0, 8, at(9), &bytes)]).await.unwrap();
    assert_eq!(all(&reader).await, BTreeSet::from([9]));
}

#[tokio::test]
async fn no_flipped_byte_fails_a_search() {
    let dir = tempfile::tempdir().unwrap();
    let files = archive(dir.path()).await;
    let whole = std::fs::read(&files[2]).unwrap();
    let places: Vec<usize> = (0..whole.len()).step_by(401).chain(whole.len() - 16..whole.len()).collect();
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&files[2], bytes).unwrap();
        let found = all(&Reader::new(dir.path())).await;
        assert!(found.is_superset(&BTreeSet::from([1, 2, 4, 5, 6, 7, 8])), "{at}: {found:?}");
    }
}

/// Adds an entry to the log of `frames` that names a data file. Returns the path of the entry.
fn enter(dir: &Path, path: &str) -> PathBuf {
    let version = entries(&dir.join("frames")).into_keys().max().unwrap() + 1;
    let statistics = serde_json::json!({
        "numRecords": 1,
        "minValues": {
            "received_ns": 0, "partition": 0, "offset": 0, "host_id": "0", "epoch": "0", "seq": 0, "captured_ns": 0,
        },
        "maxValues": {
            "received_ns": i64::MAX, "partition": 9, "offset": i64::MAX, "host_id": "f".repeat(32), "epoch": "f",
            "seq": i64::MAX, "captured_ns": i64::MAX
        },
    });
    let entry = serde_json::json!({"add": {
        "path": path, "partitionValues": {"receive_day": "1970-01-01"}, "size": 100, "modificationTime": 1,
        "dataChange": true, "stats": statistics.to_string(),
    }});
    let file = dir.join(format!("frames/_delta_log/{version:020}.json"));
    std::fs::write(&file, format!("{entry}\n")).unwrap();
    file
}

#[tokio::test]
async fn no_path_in_the_log_leads_out_of_the_archive() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.parquet");
    let address = secret.to_str().unwrap();
    let up = "../".repeat(12);
    let encoded = "%2e%2e/".repeat(12);
    let slashes = "..%2f".repeat(12);
    let bare = address.trim_start_matches('/');
    let paths = [
        address.to_owned(),
        format!("file://{address}"),
        format!("file:{address}"),
        format!("file://localhost{address}"),
        format!("FILE://{address}"),
        format!("//{bare}"),
        format!("{up}{bare}"),
        format!("receive_day=1970-01-01/{up}{bare}"),
        format!("{encoded}{bare}"),
        format!("{slashes}{}", bare.replace('/', "%2f")),
        format!("%2f{bare}"),
        format!("receive_day=1970-01-01\\..\\..\\{bare}"),
        "http://127.0.0.1:9/secret.parquet".to_owned(),
        "s3://bucket/secret.parquet".to_owned(),
        "link/secret.parquet".to_owned(),
        "linked.parquet".to_owned(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let files = archive(dir.path()).await;
    // A file that a search would take: the secret has rows of its own.
    std::fs::copy(&files[0], &secret).unwrap();
    symlink(outside.path(), dir.path().join("frames/link")).unwrap();
    symlink(&secret, dir.path().join("frames/linked.parquet")).unwrap();
    for path in &paths {
        let entry = enter(dir.path(), path);
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, &secret, inotify::WatchFlags::OPEN).unwrap();

        let reader = Reader::new(dir.path());
        assert_eq!(all(&reader).await.len(), 8, "{path}");
        assert_eq!(last(&reader, 2, at(4)).await, Some(4), "{path}");
        reader.rows_by_day().await.unwrap();
        let named = reader.damage().files();
        assert!(named.len() == 1 && named[0].to_string().contains("not opened"), "{path}: {named:?}");
        let mut frames = Frames::open(dir.path()).await.unwrap();
        assert_eq!(frames.position(&partition(0)).await.unwrap(), Some(8), "{path}");

        let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
        let opened = inotify::Reader::new(&watch, &mut buffer).next().is_ok();
        assert!(!opened, "{path} was opened");
        std::fs::remove_file(entry).unwrap();
    }
}

#[tokio::test]
async fn a_log_with_an_address_that_is_none_says_what_to_remove() {
    let dir = tempfile::tempdir().unwrap();
    archive(dir.path()).await;
    enter(dir.path(), "http://[");
    let error = Reader::new(dir.path()).rows(0..i64::MAX, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("remove the lines with frames/http://["), "{error}");
}
