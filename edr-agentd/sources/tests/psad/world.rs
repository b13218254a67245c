//! A separate `/var/log` for each test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use edr_sources::psad::{PsadReader, PsadSettings};
use edr_sources::{Source as _, Tick};
use edr_wire::snapshot::{Gap, Packet, Position, Psad};

/// The real psad trees of the repository.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/psad")
}

/// `/var/log` in a temporary folder.
pub(crate) struct PsadWorld {
    folder: tempfile::TempDir,
}

impl PsadWorld {
    pub(crate) fn empty() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.log_dir()).unwrap();
        world
    }

    /// In memory, where possible: on a disk fifty thousand folders take most of a minute.
    pub(crate) fn empty_in_memory() -> Self {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return Self::empty() };
        let world = Self { folder };
        fs::create_dir_all(world.log_dir()).unwrap();
        world
    }

    /// A copy of a fixture's `var/log`, with old modification times.
    pub(crate) fn of(case: &str) -> Self {
        let world = Self::empty();
        copy(&fixtures().join(case).join("var/log"), &world.log_dir());
        world
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.folder.path().join("var/log")
    }

    pub(crate) fn psad(&self, name: &str) -> PathBuf {
        self.log_dir().join("psad").join(name)
    }

    pub(crate) fn settings(&self) -> PsadSettings {
        PsadSettings {
            psad_dir: Some(self.log_dir().join("psad")),
            etc_dir: self.folder.path().join("etc"),
            ..PsadSettings::default()
        }
    }

    pub(crate) fn reader(&self, positions: &[Position]) -> PsadReader {
        PsadReader::open(self.settings(), positions)
    }

    /// The result of a new reader.
    pub(crate) fn read_once(&self) -> (PsadReading, Vec<Gap>) {
        read(&mut self.reader(&[]))
    }

    /// Writes a file with an old modification time.
    pub(crate) fn write(&self, path: &Path, text: impl AsRef<[u8]>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        age(path);
    }
}

/// The result of one tick, with decoded packets.
pub(crate) struct PsadReading {
    pub(crate) psad: Psad,
    pub(crate) packets: Vec<Packet>,
    pub(crate) positions: Vec<Position>,
}

pub(crate) fn read(reader: &mut PsadReader) -> (PsadReading, Vec<Gap>) {
    let mut tick = Tick::default();
    reader.read(&mut tick);
    let rows = &tick.rows.packets;
    let mut bytes = rows.bytes();
    let packets = (0..rows.len()).map(|_| rmp_serde::from_read(&mut bytes).unwrap()).collect();
    assert!(bytes.is_empty());
    (PsadReading { psad: tick.psad, packets, positions: tick.positions }, tick.gaps.take())
}

/// Sets the modification time to the first moment of 2024.
pub(crate) fn age(path: &Path) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200);
    File::open(path).unwrap().set_modified(then).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
        age(&target);
    }
}
