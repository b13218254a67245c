//! The files that `script/bootstrap` puts outside the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    // This crate is in `tests/` of its checkout.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Returns the path of a file or folder of the cache.
///
/// # Errors
/// When the path does not exist: `script/bootstrap` makes it.
pub fn cached(name: &str) -> Result<PathBuf> {
    let path = dir().join(name);
    if !path.exists() {
        bail!("{} is not there; run script/bootstrap", path.display());
    }
    Ok(path)
}

/// The cache folder, by the same rule as in `script/bootstrap`.
pub fn dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("EDR_CACHE_DIR").unwrap_or_else(|| {
        set("XDG_CACHE_HOME")
            .unwrap_or_else(|| set("HOME").unwrap_or_else(|| "/tmp".into()).join(".cache"))
            .join("edr-agentd")
    })
}
