//! The folder of one run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// A folder that goes with this value, unless the run failed: then it stays and its path is printed.
#[derive(Debug)]
pub struct Scene {
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scene {
    /// A new, empty folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(&format!("edr-{name}-")).tempdir().context("make a folder")?;
        let path = dir.path().canonicalize().context("find the folder just made")?;
        Ok(Self { dir: Some(dir), path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it, made now.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Leaves the folder where it is for someone to look at.
    pub fn keep(&mut self) -> &Path {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        &self.path
    }

    /// Runs `test` in a new scene; when it fails, the scene is kept and the error says where it is.
    ///
    /// # Errors
    /// Those of `test`.
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
