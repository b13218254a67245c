//! The folder of a run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// The folder of a run, removed when this value is dropped. After a failed run the folder is kept and named in the
/// error.
#[derive(Debug)]
pub struct Scene {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scene {
    /// Makes a new, empty folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(&format!("edr-{name}-")).tempdir().context("make a folder")?;
        let path = dir.path().canonicalize().context("find the folder just made")?;
        Ok(Self { dir: Some(dir), path })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder inside.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Keeps the folder for later inspection.
    pub fn keep(&mut self) -> &Path {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        &self.path
    }

    /// Runs `test` in a new scene. When the test fails, the scene is kept and the error names the path.
    ///
    /// # Errors
    /// The errors of `test`.
    pub fn run<T>(name: &str, test: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let mut scene = Self::new(name)?;
        let outcome = test(&scene);
        match outcome {
            Ok(value) => Ok(value),
            Err(error) => {
                let path = scene.keep().display().to_string();
                Err(error.context(format!("its files and logs are kept in {path}")))
            }
        }
    }
}
