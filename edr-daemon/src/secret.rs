//! Secrets: read only from a file that is closed to other users, or from a credential of the service manager. A secret
//! never appears in the text of a configuration, in a log or in a `Debug` output.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Largest secret, bytes: a private key of 16,384 bits has 13 KiB.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Largest public file, bytes: a bundle of all public authorities has 220 KiB.
const PUBLIC_BYTES_MAX: u64 = 4 << 20;

/// Secret bytes, hidden from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The reason why a file is refused, with a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The fault.
    pub rule: String,
    /// The remedy, as a command where possible.
    pub remedy: String,
}

/// The place of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A credential that the unit `unit` gets with `LoadCredential=name:…` (systemd.exec(5)).
    Credential {
        /// The service's name, without `.service`.
        unit: &'static str,
        /// The credential's name.
        name: String,
    },
}

impl Source {
    /// The file to read. A credential is a file in `$CREDENTIALS_DIRECTORY`. Commands outside of the unit use the
    /// credential of the running unit, which only root can read.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Credential { unit, name } => std::env::var_os("CREDENTIALS_DIRECTORY")
                .map_or_else(|| Path::new("/run/credentials").join(format!("{unit}.service")), PathBuf::from)
                .join(name),
        }
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// When the file is missing, open to all users, too large or empty.
    pub fn read(&self) -> Result<Secret, Fault> {
        let path = self.path();
        read(&path).map_err(|fault| match self {
            Self::Credential { unit, name } if !path.exists() => Fault {
                rule: format!("is no credential of this service: there is no {}", path.display()),
                remedy: format!(
                    "give it to the unit: systemctl edit {unit}, then under [Service] \
                     LoadCredential={name}:/etc/{unit}/{name}, and systemctl restart {unit}"
                ),
            },
            _ => fault,
        })
    }
}

/// Reads a file that must be closed to other users.
///
/// # Errors
/// As [`Source::read`].
pub fn read(path: &Path) -> Result<Secret, Fault> {
    let shown = path.display();
    let file = open(path)?;
    let mode = file.metadata().map_err(|error| unreadable(path, &error))?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(Fault {
            rule: format!("{shown} is open to everybody, mode {mode:03o}"),
            remedy: format!("run: chmod o= {shown}, and change the secret if another user may have read it"),
        });
    }
    let bytes = read_all(path, file, SECRET_BYTES_MAX)?;
    if bytes.trim_ascii().is_empty() {
        return Err(Fault { rule: format!("{shown} is empty"), remedy: "write the secret into it".to_owned() });
    }
    Ok(Secret(bytes))
}

/// Reads a public file.
///
/// # Errors
/// When the file is missing or too large.
pub fn read_public(path: &Path) -> Result<Vec<u8>, Fault> {
    read_all(path, open(path)?, PUBLIC_BYTES_MAX)
}

/// Opens a regular file. Other kinds are refused, because opening a pipe can block.
fn open(path: &Path) -> Result<File, Fault> {
    let is_regular = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?.is_file();
    if !is_regular {
        let rule = format!("{} is not a regular file", path.display());
        return Err(Fault { rule, remedy: "name a file".to_owned() });
    }
    File::open(path).map_err(|error| unreadable(path, &error))
}

fn read_all(path: &Path, file: File, bytes_max: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Fault {
            rule: format!("{} has more than {bytes_max} bytes", path.display()),
            remedy: "name the right file".to_owned(),
        });
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    let shown = path.display();
    let remedy = match error.kind() {
        std::io::ErrorKind::NotFound => format!("make {shown}, or name another file"),
        std::io::ErrorKind::PermissionDenied => {
            format!("run: chgrp GROUP {shown} && chmod 640 {shown}, with the group of the service's user")
        }
        _ => "mend the file".to_owned(),
    };
    Fault { rule: format!("{shown} cannot be read: {error}"), remedy }
}

/// The state of files, for comparison: a replaced or changed file changes the stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<Option<FileFacts>>);

/// Device, inode, size in bytes, and the times of the last change of content and inode, ns.
type FileFacts = (u64, u64, u64, i64, i64);

impl Stamp {
    /// The stamp of files, in this order. The content is not read.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let stamp = |path: &PathBuf| {
            let facts = std::fs::metadata(path).ok()?;
            let changed = facts.ctime().saturating_mul(1_000_000_000).saturating_add(facts.ctime_nsec());
            let modified = facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec());
            Some((facts.dev(), facts.ino(), facts.len(), modified, changed))
        };
        Self(paths.into_iter().map(stamp).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_secret_readable_for_others_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "hunter2\n").unwrap();
        let set = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        for mode in [0o644, 0o604, 0o602] {
            set(mode);
            let fault = read(&path).unwrap_err();
            assert_eq!(fault.rule, format!("{} is open to everybody, mode {mode:o}", path.display()));
            assert!(fault.remedy.starts_with(&format!("run: chmod o= {}", path.display())), "{}", fault.remedy);
        }
        set(0o640);
        let secret = read(&path).unwrap();
        assert_eq!(secret.expose(), b"hunter2\n");
        assert_eq!(format!("{secret:?}"), "[secret]");
    }

    #[test]
    fn a_file_that_is_no_secret_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&dir.path().join("none")).unwrap_err().rule.contains("cannot be read: No such file"));
        assert!(read(dir.path()).unwrap_err().rule.contains("is not a regular file"));
        let path = dir.path().join("f");
        let write = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            read(&path).unwrap_err().rule
        };
        assert!(write(b" \n").contains("is empty"));
        assert!(write(&vec![b'x'; 70 << 10]).contains("has more than 65536 bytes"));
        let source = Source::Credential { unit: "edr-none", name: "kafka.password".to_owned() };
        let fault = source.read().unwrap_err();
        assert!(fault.remedy.contains("LoadCredential=kafka.password:/etc/edr-none/kafka.password"), "{fault:?}");
    }

    #[test]
    fn another_content_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let stamps: Vec<Stamp> = ["", "a", "bb"]
            .iter()
            .map(|text| {
                if !text.is_empty() {
                    fs::write(&path, text).unwrap();
                }
                assert_eq!(Stamp::of([&path]), Stamp::of([&path]));
                Stamp::of([&path])
            })
            .collect();
        assert!(stamps[0] != stamps[1] && stamps[1] != stamps[2]);
    }
}
