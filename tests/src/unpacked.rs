//! Programs of Debian packages that `script/bootstrap` unpacks without installing: psad, systemd-journal-remote,
//! chronyd.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;

/// Returns the folder of the unpacked packages when the folder contains `file`. Otherwise prints why the calling test
/// is skipped.
#[expect(clippy::print_stdout, reason = "a test says why it was skipped")]
pub fn unpacked(file: &str) -> Option<PathBuf> {
    let root = cache::dir().join("unpacked");
    if root.join(file).exists() {
        return Some(root);
    }
    println!("skipped: {} is not there; script/bootstrap unpacks it", root.join(file).display());
    None
}

/// Returns a command that runs `program` with the libraries and Perl modules of the unpacked packages.
pub fn command(root: &Path, program: impl AsRef<OsStr>) -> Command {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let libraries = [root.join("usr/lib").join(&triplet), root.join("lib").join(&triplet)];
    // libsystemd-shared is in the folder of systemd, where systemd's programs find it by path.
    let private =
        [root.join("usr/lib").join(&triplet).join("systemd"), root.join("lib/systemd"), root.join("usr/lib/systemd")];
    let perl = std::fs::read_dir(libraries[0].join("perl5")).ok().and_then(|mut entries| entries.next()?.ok());
    let modules = std::iter::once(root.join("usr/share/perl5")).chain(perl.map(|perl| perl.path()));
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", joined(libraries.into_iter().chain(private))).env("PERL5LIB", joined(modules));
    command
}

fn joined(paths: impl Iterator<Item = PathBuf>) -> OsString {
    paths.map(PathBuf::into_os_string).collect::<Vec<_>>().join(OsStr::new(":"))
}
