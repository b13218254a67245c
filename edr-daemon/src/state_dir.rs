//! The owner of a state folder: only one user may write there.
//!
//! The units run the daemons as separate users. If root started a daemon by hand, the daemon would leave files in
//! the folder that the unit's user cannot open, and every later start of the unit would fail. So such a start is
//! refused. Where such files already exist, the error names their owner and the command that gives them to the unit's
//! user.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, bail};
use nix::unistd::{Uid, User, geteuid};

/// Refuses a start by root in the state folder of another user.
///
/// `daemon` is the name of the program, of its unit and of its user. `packaged` is the unit's state folder: root does
/// not create this folder either when it is missing and the user exists.
///
/// # Errors
/// When root runs this process and `dir` belongs to another user. The error names the owner and the command that starts
/// the daemon.
pub fn refuse_foreign(daemon: &str, dir: &Path, packaged: &Path) -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let owner = match dir.metadata() {
        Ok(metadata) => Uid::from_raw(metadata.uid()),
        Err(_) if dir == packaged => match user(daemon) {
            Some(user) => user.uid,
            None => return Ok(()),
        },
        // Further faults of the folder are reported at the first use.
        Err(_) => return Ok(()),
    };
    if owner.is_root() {
        return Ok(());
    }
    let owner = named(owner);
    bail!(
        "state-dir {dir} belongs to {owner}, and this process runs as root: {owner} could not open what it would \
        write; \
         run: systemctl start {daemon} (or, to give the folder to root: chown -R root: {dir})",
        dir = dir.display(),
    )
}

/// Explains a refused permission below a state folder: returns the owner of `path` and a command that repairs the
/// ownership. `None` for other errors, and when ownership is not the cause.
pub fn explain(error: &io::Error, dir: &Path, path: &Path) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    // `path` may be hidden by a folder without search permission; then the owner of the folder counts.
    let owner = path.symlink_metadata().or_else(|_| dir.symlink_metadata()).ok()?.uid();
    let (owner, own) = (Uid::from_raw(owner), geteuid());
    let this = user_name(own);
    (owner != own).then(|| {
        format!(
            "{} belongs to {}, and this process runs as {}; run: chown -R {this}: {}",
            path.display(),
            named(owner),
            named(own),
            dir.display()
        )
    })
}

fn user(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

/// `NAME (uid N)`, or `uid N` for a user without a name.
fn named(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("{} (uid {uid})", user.name),
        _ => format!("uid {uid}"),
    }
}

/// The user's name, or the uid as a number: a form accepted by chown(1).
fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const NOBODY: u32 = 65534;

    fn is_root() -> bool {
        let is_root = geteuid().is_root();
        if !is_root {
            println!("skipped: only root can give a folder away");
        }
        is_root
    }

    #[test]
    fn root_does_not_start_in_the_folder_of_another_user() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        refuse_foreign("edr-test", dir.path(), Path::new("/nonexistent")).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), None).unwrap();
        let refused = refuse_foreign("edr-test", dir.path(), Path::new("/nonexistent")).unwrap_err().to_string();
        let wanted = format!("state-dir {} belongs to nobody (uid {NOBODY})", dir.path().display());
        assert!(refused.starts_with(&wanted) && refused.contains("run: systemctl start edr-test"), "{refused}");
    }

    #[test]
    fn root_does_not_make_the_folder_of_a_packaged_daemon() {
        if !is_root() {
            return;
        }
        let missing = PathBuf::from("/nonexistent/state");
        // `nobody` stands for the user created by a package.
        assert!(refuse_foreign("nobody", &missing, &missing).is_err());
        refuse_foreign("nobody", &missing, Path::new("/elsewhere")).unwrap();
        refuse_foreign("edr-no-such-user", &missing, &missing).unwrap();
    }

    #[test]
    fn a_refused_permission_is_explained_by_the_owner() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock");
        std::fs::write(&lock, "").unwrap();
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(explain(&denied, dir.path(), &lock), None, "it is ours");
        std::os::unix::fs::chown(&lock, Some(NOBODY), None).unwrap();
        let why = explain(&denied, dir.path(), &lock).unwrap();
        let wanted =
            format!("belongs to nobody (uid {NOBODY}), and this process runs as root (uid 0); run: chown -R root: ");
        assert!(why.contains(&wanted), "{why}");
        assert_eq!(explain(&io::Error::from(io::ErrorKind::NotFound), dir.path(), &lock), None);
    }
}
