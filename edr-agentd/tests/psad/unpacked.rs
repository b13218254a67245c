//! Debian packages that `script/bootstrap` unpacked, not installed: psad, its perl modules, systemd-journal-remote.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The folder, when `file` in it is there. Otherwise the test says why it is skipped.
pub(crate) fn unpacked(file: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("EDR_CACHE_DIR").unwrap_or_else(|| {
        let home = || set("HOME").unwrap_or_else(|| "/tmp".into()).join(".cache");
        set("XDG_CACHE_HOME").unwrap_or_else(home).join("edr-agentd")
    });
    let root = cache.join("psad");
    if root.join(file).exists() {
        return Some(root);
    }
    println!("skipped: {} is not there; script/bootstrap unpacks it", root.join(file).display());
    None
}

/// A program of the unpacked packages, with their libraries and perl modules.
pub(crate) fn command(root: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let lib = root.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let perl = std::fs::read_dir(lib.join("perl5")).ok().and_then(|mut entries| entries.next()?.ok());
    let mut modules = root.join("usr/share/perl5").into_os_string();
    if let Some(perl) = perl {
        modules.push(":");
        modules.push(perl.path());
    }
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", lib).env("PERL5LIB", modules);
    command
}

/// A program that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Asks it to end and waits until it has.
    pub(crate) fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().ok();
    }
}
