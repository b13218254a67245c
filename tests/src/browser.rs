//! A real Chromium, for tests that need a browser's interpretation of a page.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::scene::Scene;

/// Names of the program: Debian's, Ubuntu's, the vendor's.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// An installed browser.
#[derive(Debug)]
pub struct Browser {
    program: PathBuf,
}

impl Browser {
    /// Finds the installed browser, if any.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .flat_map(|dir| NAMES.map(|name| dir.join(name)))
            .find(|program| program.is_file())
            .map(|program| Self { program })
    }

    /// Returns the document as HTML, after the page's scripts have run.
    ///
    /// # Errors
    /// When the browser fails.
    pub fn document(&self, url: &str) -> Result<String> {
        // Real time is needed: virtual time stands still while the page's live-update connection is open.
        let output = self.run(&["--dump-dom", "--timeout=4000", url])?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    fn run(&self, args: &[&str]) -> Result<Vec<u8>> {
        let profile = Scene::new("browser")?;
        let output = Command::new("timeout")
            .args(["--kill-after=5", "90"])
            .arg(&self.program)
            // Root cannot use the sandbox. The further options keep the browser from contacting the vendor's hosts.
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-extensions",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(args)
            .output()
            .context("run the browser")?;
        ensure!(
            output.status.success(),
            "the browser ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output.stdout)
    }
}
