//! The packages under test, each built once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use edr_tests::cache::checkout;
use tempfile::TempDir;

/// An unpacked package.
#[derive(Debug)]
pub(crate) struct Package {
    /// `edr-agentd`.
    pub(crate) name: &'static str,
    /// The configuration file.
    pub(crate) config: &'static str,
    /// The `.deb` file.
    pub(crate) deb: PathBuf,
    folder: PathBuf,
}

impl Package {
    fn unpack(name: &'static str, config: &'static str, deb: PathBuf) -> Self {
        let folder = kept().join(format!("{name}.root"));
        said(Command::new("dpkg-deb").arg("--raw-extract").arg(&deb).arg(&folder));
        Self { name, config, deb, folder }
    }

    /// The path of a file in the package; `path` is without the first slash.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// The text of a file in the package. A file whose name ends in `.gz` is decompressed.
    pub(crate) fn text(&self, path: &str) -> String {
        let file = self.path(path);
        if path.ends_with(".gz") { said(Command::new("zcat").arg(file)) } else { fs::read_to_string(file).unwrap() }
    }

    /// The installed program.
    pub(crate) fn program(&self) -> PathBuf {
        self.path(&format!("usr/sbin/{}", self.name))
    }
}

/// Both packages, as built by `script/package` for a release.
pub(crate) fn packages() -> &'static [Package; 2] {
    static PACKAGES: OnceLock<[Package; 2]> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let package = |name, config| Package::unpack(name, config, package_in(repository(), name));
        [package("edr-agentd", "agent.toml"), package("edr-collectd", "collector.toml")]
    })
}

/// The folder of both packages, a signed apt repository.
pub(crate) fn repository() -> &'static Path {
    static REPOSITORY: OnceLock<PathBuf> = OnceLock::new();
    REPOSITORY.get_or_init(|| edr_tests::binaries::packages(kept()).unwrap())
}

/// Builds the package `name` for release a second time: from scratch, in a folder unrelated to the checkout.
pub(crate) fn built_elsewhere(name: &str) -> PathBuf {
    let source = TempDir::with_prefix("edr-source.").unwrap();
    let folder = source.path().join("another/folder/of/a/longer-name");
    copy_sources(&folder);
    let out = kept().join("elsewhere");
    let mut command = Command::new(folder.join("script/package"));
    let option = if name == "edr-agentd" { "--agent" } else { "--collector" };
    command.arg(option).arg("--out").arg(&out).env("SOURCE_DATE_EPOCH", commit_time());
    // Removes cargo's variables for this test, among them the target folder.
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|name| name.starts_with("CARGO") && name != "CARGO_HOME") {
            command.env_remove(variable);
        }
    }
    said(&mut command);
    package_in(&out, name)
}

/// Copies all files known to git, in their present state, without the repository itself.
fn copy_sources(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let script = "git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t \"$0\"";
    said(Command::new("sh").args(["-c", script]).arg(folder).current_dir(checkout()));
}

fn commit_time() -> String {
    said(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(checkout())).trim().to_owned()
}

fn package_in(folder: &Path, name: &str) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_wanted = |path: &PathBuf| {
        let file = path.file_name().unwrap().to_string_lossy();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    };
    let mut found: Vec<PathBuf> = entries.filter(is_wanted).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// The folder of the packages: in cargo's target folder, emptied at the start of each run.
fn kept() -> &'static Path {
    static KEPT: OnceLock<PathBuf> = OnceLock::new();
    KEPT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    })
}

/// Runs a command to a successful end, and returns the output.
pub(crate) fn said(command: &mut Command) -> String {
    let output = run(command);
    let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{all}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to the end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Reads the `--help` of each command of a program. Returns for each command the name (`["spool", "list"]`), the
/// subcommands and the options.
pub(crate) fn help(program: &Path) -> Vec<(Vec<String>, Vec<String>, Vec<String>)> {
    let mut found = Vec::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let text = said(Command::new(program).args(&command).arg("--help"));
        let (mut options, mut commands, mut section) = (Vec::new(), Vec::new(), "");
        for line in text.lines() {
            let word = line.trim_start();
            let indent = line.len() - word.len();
            match line {
                "Commands:" | "Options:" | "Arguments:" => section = line,
                _ if section == "Commands:" && indent == 2 => commands.push(first_word(word)),
                _ if section == "Options:" && word.starts_with('-') && indent <= 6 => {
                    options.extend(word.split([',', ' ']).find(|part| part.starts_with("--")).map(str::to_owned));
                }
                _ => {}
            }
        }
        assert!(!options.is_empty(), "no options in\n{text}");
        for sub in commands.iter().filter(|sub| *sub != "help") {
            open.push([command.clone(), vec![sub.clone()]].concat());
        }
        found.push((command, commands, options));
    }
    assert!(found.len() > 3, "{} has few commands: {found:?}", program.display());
    found
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}
