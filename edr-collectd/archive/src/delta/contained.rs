//! A store of the local file system that opens nothing outside one folder.
//!
//! A table's log names the files of the table. Whoever can edit the log can write any path or address there, and can
//! put links into the folder. Every access to a file of a table passes this store, which follows all links first and
//! refuses a path that leads out of the table's folder, and a data file that is no regular file.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::datafusion::object_store::local::LocalFileSystem;
use deltalake::datafusion::object_store::path::Path as StorePath;
use deltalake::datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use futures::StreamExt as _;
use futures::stream::BoxStream;

/// Fails unless `path`, with all links followed, is below `folder`, and a data file is a regular file. Of a path that
/// does not exist the part that exists counts.
pub(crate) fn contain(folder: &Path, path: &Path) -> io::Result<()> {
    let mut existing = path;
    while let Err(error) = std::fs::symlink_metadata(existing) {
        match existing.parent() {
            Some(parent) if error.kind() == io::ErrorKind::NotFound => existing = parent,
            _ => return Err(error),
        }
    }
    let real = std::fs::canonicalize(existing)?;
    if !real.starts_with(std::fs::canonicalize(folder)?) {
        return Err(refused("it lies outside of the table's folder and is not opened"));
    }
    // The opening of a pipe waits for ever. Entries of the log are not checked: a commit that waits is noticed.
    if real.extension().is_some_and(|extension| extension == "parquet") && !std::fs::metadata(&real)?.is_file() {
        return Err(refused("it is no regular file and is not opened"));
    }
    Ok(())
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

/// Returns true for the path of a data file as a table's writer makes it: relative, of letters, digits and `=._-`,
/// without empty segments and `..`. So neither an address nor an encoded character can be in a path.
pub(crate) fn is_plain(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"=._-".contains(&byte);
    path.split('/').all(|segment| !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(is_plain))
}

/// The local file system, of which only one folder can be used. Paths begin at the root of the file system.
#[derive(Debug, Clone)]
pub(super) struct ContainedStore {
    inner: Arc<LocalFileSystem>,
    folder: PathBuf,
}

impl ContainedStore {
    pub(super) fn new(folder: &Path) -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()), folder: folder.to_owned() }
    }

    fn check(&self, location: &StorePath) -> Result<()> {
        let path = self.inner.path_to_filesystem(location)?;
        contain(&self.folder, &path).map_err(|error| {
            let (kind, path, source) = (error.kind(), path.display().to_string(), Box::new(error));
            match kind {
                io::ErrorKind::NotFound => Error::NotFound { path, source },
                io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source },
                _ => Error::Generic { store: "archive", source },
            }
        })
    }
}

impl fmt::Display for ContainedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "archive {}", self.folder.display())
    }
}

#[async_trait]
impl ObjectStore for ContainedStore {
    async fn put_opts(&self, location: &StorePath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check(location)?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &StorePath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check(location)?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &StorePath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<StorePath>>) -> BoxStream<'static, Result<StorePath>> {
        let store = self.clone();
        let checked = locations.map(move |location| location.and_then(|path| store.check(&path).map(|()| path)));
        self.inner.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, Result<ObjectMeta>> {
        match prefix.map_or(Ok(()), |prefix| self.check(prefix)) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&StorePath>,
        offset: &StorePath,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match prefix.map_or(Ok(()), |prefix| self.check(prefix)) {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> Result<ListResult> {
        prefix.map_or(Ok(()), |prefix| self.check(prefix))?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> Result<()> {
        self.check(from).and_then(|()| self.check(to))?;
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &StorePath, to: &StorePath, options: RenameOptions) -> Result<()> {
        self.check(from).and_then(|()| self.check(to))?;
        self.inner.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_contained_when_all_links_lead_into_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("table");
        std::fs::create_dir_all(folder.join("day")).unwrap();
        std::fs::write(folder.join("day/file"), b"rows").unwrap();
        std::fs::write(dir.path().join("secret"), b"secret").unwrap();
        symlink(folder.join("day/file"), folder.join("inside")).unwrap();
        symlink(dir.path().join("secret"), folder.join("outside")).unwrap();
        symlink(dir.path(), folder.join("up")).unwrap();
        symlink(dir.path().join("made later"), folder.join("dangling")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("pipe.parquet"), rustix::fs::Mode::RUSR).unwrap();
        for inside in ["day/file", "inside", "day", "day/new", "new/deeper/file"] {
            contain(&folder, &folder.join(inside)).unwrap();
        }
        for outside in ["outside", "up/secret", "up/new", "dangling", "../secret", "pipe.parquet"] {
            let error = contain(&folder, &folder.join(outside)).unwrap_err();
            let is_refused = error.kind() == io::ErrorKind::PermissionDenied;
            assert!(is_refused || (outside == "dangling" && error.kind() == io::ErrorKind::NotFound), "{outside}");
        }
        contain(&folder, Path::new("/etc/passwd")).unwrap_err();
        // The folder itself may be reached by a link: an archive on another disk.
        symlink(&folder, dir.path().join("link")).unwrap();
        contain(&dir.path().join("link"), &dir.path().join("link/day/file")).unwrap();
    }

    #[test]
    fn only_names_of_a_writer_are_plain() {
        for plain in ["receive_day=2026-11-29/part-00000-0a.c000.zstd.parquet", "partition=3/part-1.parquet", "x"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a//b",
            "a/",
            "file:///etc/passwd",
            "file:x",
            "http://host/x",
            "%2e%2e/x",
            "..%2fx",
            "a/%2e%2e/x",
            "a b",
            "a\\b",
            "a?b",
            "a#b",
            "./a",
            "a\0b",
            "ä",
            "_delta_log/../x",
            ".hidden",
        ] {
            assert!(!is_plain(other), "{other}");
        }
    }
}
