//! The programs under test, built now from the sources as they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::cache::checkout;

/// Where the programs lie.
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

/// All programs of the workspace, with the profile of the caller.
///
/// Cargo gives a package's tests the path of that package's programs only, so it is asked: it builds what is not
/// up to date and says where everything lies. A path put together by hand could name a program of yesterday.
/// `script/test` has asked already: the file `EDR_BUILT` names is what cargo said then.
///
/// # Errors
/// When they do not build.
pub fn binaries() -> Result<&'static Binaries> {
    static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
    let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    let built = BUILT.get_or_init(|| {
        let build = || {
            let paths = match std::env::var_os("EDR_BUILT") {
                Some(said) => programs(&std::fs::read(&said).with_context(|| format!("read {}", said.display()))?)?,
                // The workspace as a whole, always: a package alone would be built with other features of what it uses.
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

/// A file with what cargo said when it built the workspace: what `script/package --built` takes. In `folder`, unless
/// there is one.
///
/// # Errors
/// When it does not build, or the file cannot be written.
pub fn built(folder: &Path) -> Result<PathBuf> {
    if let Some(said) = std::env::var_os("EDR_BUILT") {
        return Ok(PathBuf::from(said));
    }
    let path = folder.join("built.json");
    std::fs::write(&path, ask(&["--workspace"])?).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The folder with both release packages and psad's, an apt repository. `script/test` has built it: `EDR_PACKAGES` names
/// it. Otherwise `script/package` builds it below `folder`.
///
/// # Errors
/// When they do not build.
pub fn packages(folder: &Path) -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("EDR_PACKAGES") {
        return Ok(PathBuf::from(built));
    }
    let out = folder.join("released");
    let mut command = Command::new(checkout().join("script/package"));
    command.args(["--psad", "--out"]).arg(&out);
    without_own_package(&mut command);
    let output = command.stderr(Stdio::inherit()).output().context("run script/package")?;
    ensure!(output.status.success(), "script/package ended with {}", output.status);
    Ok(out)
}

/// `edr-agentd` as it is shipped, for measuring.
///
/// # Errors
/// When it does not build.
pub fn release_agent() -> Result<PathBuf> {
    release(&[], "edr-agentd")
}

/// The agent's example `psad_bench`, with its code as it is shipped.
///
/// # Errors
/// When it does not build.
pub fn release_psad_bench() -> Result<PathBuf> {
    release(&["--example", "psad_bench"], "psad_bench")
}

fn release(args: &[&str], name: &str) -> Result<PathBuf> {
    let paths = build(&[&["--release", "--package", "edr-agentd"], args].concat())?;
    let found = paths.into_iter().find(|(known, _)| known == name);
    found.map(|(_, path)| path).with_context(|| format!("cargo built no {name}"))
}

fn build(args: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    programs(&ask(args)?)
}

/// Builds, and returns what cargo says.
fn ask(args: &[&str]) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics"]).args(args);
    without_own_package(&mut command);
    let output = command.current_dir(checkout()).stderr(Stdio::inherit()).output().context("run cargo build")?;
    ensure!(output.status.success(), "cargo build ended with {}", output.status);
    Ok(output.stdout)
}

/// What cargo tells a test about its own package would reach the build scripts of `command`, and rebuild them.
fn without_own_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let own =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if own || name == "LD_LIBRARY_PATH" {
            command.env_remove(name);
        }
    }
}

/// Name and path of every program (no test of one) in the messages of cargo, one JSON object a line.
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
