//! The programs under test, built from the present sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::cache::checkout;
use crate::signing::SigningKey;

/// Paths of the programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `edr-agentd`.
    pub agent: PathBuf,
    /// `edr-collectd`.
    pub collector: PathBuf,
    /// `edr-load`, the load generator of this crate.
    pub load: PathBuf,
    /// `edr-hostile`, the hostile process of this crate.
    pub hostile: PathBuf,
}

/// Builds all programs of the workspace with the profile of the caller, and returns the paths.
///
/// Cargo gives a package's tests only the paths of the package's programs. So this function runs cargo, which builds
/// stale programs and reports all paths; a path composed by hand could name a stale program. `script/test` has already
/// run cargo: the file named by `EDR_BUILT` holds the output of that run.
///
/// # Errors
/// When the build fails.
pub fn binaries() -> Result<&'static Binaries> {
    static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
    let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    let built = BUILT.get_or_init(|| {
        let build = || {
            let paths = match std::env::var_os("EDR_BUILT") {
                Some(said) => programs(&std::fs::read(&said).with_context(|| format!("read {}", said.display()))?)?,
                // Always the whole workspace: for a single package cargo would select other features of the
                // dependencies.
                None => build(&[&["--workspace"], profile].concat())?,
            };
            let path = |name: &str| {
                let found = paths.iter().find(|(known, _)| known == name);
                found.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no {name}"))
            };
            Ok(Binaries {
                agent: path("edr-agentd")?,
                collector: path("edr-collectd")?,
                load: path("edr-load")?,
                hostile: path("edr-hostile")?,
            })
        };
        build().map_err(|error: anyhow::Error| format!("{error:#}"))
    });
    built.as_ref().map_err(|error| anyhow!(error.clone()))
}

/// Returns a file with cargo's output from the build of the workspace, the input of `script/package --built`. The file
/// is made in `folder`, unless `EDR_BUILT` names an existing file.
///
/// # Errors
/// When the build fails, or when the file cannot be written.
pub fn built(folder: &Path) -> Result<PathBuf> {
    if let Some(said) = std::env::var_os("EDR_BUILT") {
        return Ok(PathBuf::from(said));
    }
    let path = folder.join("built.json");
    std::fs::write(&path, ask(&["--workspace"])?).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Returns the folder with both release packages and those of psad, a signed apt repository. `EDR_PACKAGES` names the
/// folder when `script/test` has built it; otherwise `script/package` builds it below `folder`.
///
/// # Errors
/// When the build fails.
pub fn packages(folder: &Path) -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("EDR_PACKAGES") {
        return Ok(PathBuf::from(built));
    }
    let out = folder.join("released");
    let mut command = Command::new(checkout().join("script/package"));
    let key = SigningKey::new()?;
    key.lend(command.args(["--psad", "--sign", SigningKey::ADDRESS, "--out"]).arg(&out));
    without_own_package(&mut command);
    let output = command.stderr(Stdio::inherit()).output().context("run script/package")?;
    ensure!(output.status.success(), "script/package ended with {}", output.status);
    Ok(out)
}

/// Builds `edr-agentd` as shipped, for measurements.
///
/// # Errors
/// When the build fails.
pub fn release_agent() -> Result<PathBuf> {
    release("edr-agentd", &[], "edr-agentd")
}

/// Builds the example `psad_bench` of edr-sources with the code as shipped.
///
/// # Errors
/// When the build fails.
pub fn release_psad_bench() -> Result<PathBuf> {
    release("edr-sources", &["--example", "psad_bench"], "psad_bench")
}

fn release(package: &str, args: &[&str], name: &str) -> Result<PathBuf> {
    let paths = build(&[&["--release", "--package", package], args].concat())?;
    let found = paths.into_iter().find(|(known, _)| known == name);
    found.map(|(_, path)| path).with_context(|| format!("cargo built no {name}"))
}

fn build(args: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    programs(&ask(args)?)
}

/// Builds, and returns cargo's output.
fn ask(args: &[&str]) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics"]).args(args);
    without_own_package(&mut command);
    let output = command.current_dir(checkout()).stderr(Stdio::inherit()).output().context("run cargo build")?;
    ensure!(output.status.success(), "cargo build ended with {}", output.status);
    Ok(output.stdout)
}

/// Removes cargo's variables for a test's own package: the variables would reach the build scripts of `command` and
/// cause a rebuild.
fn without_own_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let own =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if own || name == "LD_LIBRARY_PATH" {
            command.env_remove(name);
        }
    }
}

/// Returns name and path of every program in cargo's messages (one JSON object per line), without the test programs.
fn programs(messages: &[u8]) -> Result<Vec<(String, PathBuf)>> {
    let mut paths = Vec::new();
    for line in messages.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let message: Value = serde_json::from_slice(line).context("read what cargo says")?;
        if message["profile"]["test"] == true {
            continue;
        }
        if let (Some(path), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
            paths.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(paths)
}
