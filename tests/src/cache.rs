//! What `script/bootstrap` put outside the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    // This crate lies in `tests/` of the checkout that it was built from.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A file or folder of the cache.
///
/// # Errors
/// When it is not there: `script/bootstrap` makes it.
pub fn cached(name: &str) -> Result<PathBuf> {
    let path = dir().join(name);
    if !path.exists() {
        bail!("{} is not there; run script/bootstrap", path.display());
    }
    Ok(path)
}

/// The cache folder, by the rule that `script/bootstrap` has.
pub fn dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("EDR_CACHE_DIR").unwrap_or_else(|| {
        set("XDG_CACHE_HOME")
            .unwrap_or_else(|| set("HOME").unwrap_or_else(|| "/tmp".into()).join(".cache"))
            .join("edr-agentd")
    })
}
