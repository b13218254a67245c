//! The signed repository, read by apt with the lines that README shows. apt has folders of its own here: settings,
//! lists and packages of this machine stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use edr_tests::cache::checkout;
use edr_tests::signing::SigningKey;
use tempfile::TempDir;

use crate::built::{repository, run, said};

/// The package in the hand-made repository.
const NAME: &str = "edr-hand-made";

/// A repository with one hand-made package.
struct Repository {
    folder: TempDir,
}

impl Repository {
    fn new() -> Self {
        let folder = TempDir::with_prefix("edr-repository-").unwrap();
        let source = TempDir::with_prefix("edr-hand-made-").unwrap();
        fs::create_dir(source.path().join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {NAME}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@edr-agentd.example>\n\
             Description: nothing\n"
        );
        fs::write(source.path().join("DEBIAN/control"), control).unwrap();
        let mut build = Command::new("dpkg-deb");
        said(build.args(["--root-owner-group", "--build"]).args([source.path(), folder.path()]));
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Replaces a text in a file of the repository.
    fn alter(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.file(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from:?}");
        fs::write(self.file(name), text.replace(from, to)).unwrap();
    }
}

/// apt with folders of its own.
struct Apt {
    folder: TempDir,
}

impl Apt {
    /// Sets up apt for a repository by README's first two lines of the installation.
    fn new(repository: &Path) -> Self {
        let folder = TempDir::with_prefix("edr-apt-").unwrap();
        for path in ["etc/apt/sources.list.d", "etc/apt/apt.conf.d", "var/lib/apt/lists/partial", "out"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        fs::create_dir_all(folder.path().join("var/cache/apt/archives/partial")).unwrap();
        fs::write(folder.path().join("status"), "").unwrap();
        // `Dir` moves all folders of apt; the list of installed packages and the settings have absolute paths.
        let path = folder.path().display();
        let settings = format!(
            "Dir \"{path}\";\nDir::State::status \"{path}/status\";\nDir::Etc::parts \"apt.conf.d\";\n\
             APT::Sandbox::User \"\";\n"
        );
        fs::write(folder.path().join("settings"), settings).unwrap();
        let apt = Self { folder };
        for line in readme_lines() {
            let line = line
                .replace("/srv/edr", &repository.display().to_string())
                .replace(" /etc/apt", &format!(" {path}/etc/apt", path = apt.path().display()))
                .replace("signed-by=/etc/apt", &format!("signed-by={path}/etc/apt", path = apt.path().display()));
            said(Command::new("sh").args(["-e", "-c", &line]));
        }
        apt
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs apt-get in folder `out`.
    fn get(&self, args: &[&str]) -> Output {
        let mut command = Command::new("apt-get");
        command.args(args).current_dir(self.path().join("out"));
        run(command.env("APT_CONFIG", self.path().join("settings")).env("LC_ALL", "C.UTF-8"))
    }

    /// Asserts that apt refuses the repository for a reason that contains `reason`, and knows no package of the
    /// repository.
    fn refuses(&self, reason: &str) {
        let update = self.get(&["update"]);
        let errors = String::from_utf8_lossy(&update.stderr);
        assert!(!update.status.success() && errors.contains(reason), "{reason:?} is no reason in:\n{errors}");
        assert!(!self.get(&["download", NAME]).status.success(), "apt has a package of a refused repository");
        assert_eq!(fs::read_dir(self.path().join("out")).unwrap().count(), 0);
    }
}

/// README's lines that install the key and name the repository.
fn readme_lines() -> Vec<String> {
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let block = readme.split("```sh\n").find(|block| block.contains("signed-by=")).unwrap();
    let lines: Vec<String> = block.lines().take_while(|line| *line != "apt-get update").map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    lines
}

#[test]
fn apt_takes_a_package_of_the_signed_repository() {
    let (key, repository) = (SigningKey::new().unwrap(), Repository::new());
    key.sign(repository.path()).unwrap();
    let apt = Apt::new(repository.path());
    assert!(apt.get(&["update"]).status.success());
    assert!(apt.get(&["download", NAME]).status.success());
    let same = run(Command::new("cmp")
        .arg(apt.path().join(format!("out/{NAME}_1_all.deb")))
        .arg(repository.file(&format!("{NAME}_1_all.deb"))));
    assert!(same.status.success(), "apt has another package");
}

/// The files of the repository are altered one after the other: the index, the signed list of the index's checksums,
/// and the package.
#[test]
fn apt_refuses_every_altered_file() {
    let (key, repository) = (SigningKey::new().unwrap(), Repository::new());
    key.sign(repository.path()).unwrap();
    repository.alter("Packages", "Version: 1", "Version: 2");
    said(Command::new("gzip").args(["-9nkf"]).arg(repository.file("Packages")));
    Apt::new(repository.path()).refuses("Hash Sum mismatch");

    key.sign(repository.path()).unwrap();
    repository.alter("InRelease", "Label: edr-agentd", "Label: edr-agentx");
    Apt::new(repository.path()).refuses("BADSIG");

    key.sign(repository.path()).unwrap();
    let apt = Apt::new(repository.path());
    assert!(apt.get(&["update"]).status.success());
    let package = repository.file(&format!("{NAME}_1_all.deb"));
    let mut bytes = fs::read(&package).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&package, bytes).unwrap();
    assert!(!apt.get(&["download", NAME]).status.success(), "apt takes an altered package");
}

#[test]
fn apt_refuses_another_key_and_no_signature() {
    let (key, other, repository) = (SigningKey::new().unwrap(), SigningKey::new().unwrap(), Repository::new());
    key.sign(repository.path()).unwrap();
    let apt = Apt::new(repository.path());
    other.sign(repository.path()).unwrap();
    apt.refuses("NO_PUBKEY");

    said(Command::new(checkout().join("script/repository")).arg(repository.path()));
    for name in ["InRelease", "Release.gpg", "edr-archive-keyring.asc"] {
        assert!(!repository.file(name).exists(), "{name} is from an older run");
    }
    apt.refuses("is not signed");
}

/// While a key is replaced, a host has both keys, as docs/operate.md describes.
#[test]
fn apt_accepts_either_of_two_keys() {
    let (old, new, repository) = (SigningKey::new().unwrap(), SigningKey::new().unwrap(), Repository::new());
    old.sign(repository.path()).unwrap();
    let apt = Apt::new(repository.path());
    let new_key = new.sign(repository.path()).unwrap();
    apt.refuses("NO_PUBKEY");
    let keys = apt.path().join("etc/apt/keyrings");
    fs::copy(new_key, keys.join("edr-new.asc")).unwrap();
    let list = apt.path().join("etc/apt/sources.list.d/edr.list");
    let (one, both) = ("edr.asc]".to_owned(), format!("edr.asc,{}]", keys.join("edr-new.asc").display()));
    fs::write(&list, fs::read_to_string(&list).unwrap().replace(&one, &both)).unwrap();
    for key in [&new, &old] {
        key.sign(repository.path()).unwrap();
        assert!(apt.get(&["update"]).status.success());
    }
}

/// A mistyped key is an error that leaves the repository, with its signature, as it was.
#[test]
fn a_key_that_gpg_does_not_have_changes_nothing() {
    let (key, repository) = (SigningKey::new().unwrap(), Repository::new());
    key.sign(repository.path()).unwrap();
    let before = fs::read(repository.file("InRelease")).unwrap();
    for script in ["script/repository", "script/package"] {
        let mut command = Command::new(checkout().join(script));
        if script == "script/repository" {
            command.arg(repository.path());
        } else {
            command.arg("--out").arg(repository.path());
        }
        let output = run(key.lend(command.args(["--sign", "nobody@edr-agentd.example"])));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("gpg has no secret key nobody@"), "{script}: {errors}");
    }
    assert_eq!(fs::read(repository.file("InRelease")).unwrap(), before);
}

/// The repository of both packages, as `script/package --psad --sign KEY` makes it.
#[test]
fn the_repository_of_the_packages_is_signed() {
    let apt = Apt::new(repository());
    let update = apt.get(&["update"]);
    assert!(update.status.success(), "{}", String::from_utf8_lossy(&update.stderr));
    for name in ["edr-agentd", "edr-collectd"] {
        let output = apt.get(&["download", name]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
