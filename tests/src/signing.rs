//! A throw-away signing key, for apt repositories of tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::cache::checkout;

/// A secret key of gpg without a passphrase, in a folder of gpg that belongs to the key alone.
#[derive(Debug)]
pub struct SigningKey {
    home: TempDir,
}

impl SigningKey {
    /// The address in the key, by which gpg finds the key.
    pub const ADDRESS: &str = "tests@edr-agentd.example";

    /// Makes a new key.
    ///
    /// # Errors
    /// When gpg is missing or fails.
    pub fn new() -> Result<Self> {
        // `TempDir` gives the folder mode 700, which gpg asks for. The path is short, because the socket of gpg's agent
        // is in the folder.
        let key = Self { home: TempDir::with_prefix("edr-gpg-").context("make a folder for gpg")? };
        let mut gpg = Command::new("gpg");
        gpg.args(["--batch", "--quiet", "--passphrase", ""]);
        gpg.args(["--quick-generate-key", Self::ADDRESS, "ed25519", "sign", "1d"]);
        key.run(&mut gpg)?;
        Ok(key)
    }

    /// Makes the folder a repository signed by this key (`script/repository --sign`), and returns the path of the
    /// exported public key.
    ///
    /// # Errors
    /// When the script fails.
    pub fn sign(&self, repository: &Path) -> Result<PathBuf> {
        let mut script = Command::new(checkout().join("script/repository"));
        self.run(script.arg(repository).args(["--sign", Self::ADDRESS]))?;
        Ok(repository.join("edr-archive-keyring.asc"))
    }

    /// Lets the gpg of a command use this key.
    pub fn lend<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("GNUPGHOME", self.home.path())
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let output = self.lend(command).output().with_context(|| format!("run {command:?}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
        Ok(())
    }
}

impl Drop for SigningKey {
    /// Stops the agent that gpg started for the folder.
    fn drop(&mut self) {
        let _ = self.run(Command::new("gpgconf").args(["--kill", "all"]));
    }
}
