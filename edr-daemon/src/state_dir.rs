//! The owner of a state folder: one user alone may write there.
//!
//! The units run the daemons as users of their own. A daemon that root starts by hand would leave files in the same folder
//! that the unit's user cannot open, and every later start of the unit would fail. So such a start is refused, and where
//! such files exist already, the error names their owner and the command that gives them to the unit's user.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, bail};
use nix::unistd::{Uid, User, geteuid};

/// Refuses a start by root in the state folder of another user.
///
/// `daemon` is the name of the program, of its unit and of its user. `packaged` is the state folder of the unit: where that
/// folder is missing and the user exists, root does not make it either.
///
/// # Errors
/// When root runs this process and `dir` belongs to somebody else. The error names the owner and how to start the daemon.
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
        // Whatever is wrong with the folder, its first use says.
        Err(_) => return Ok(()),
    };
    if owner.is_root() {
        return Ok(());
    }
    let owner = named(owner);
    bail!(
        "state-dir {dir} belongs to {owner}, and this process runs as root: {owner} could not open what it would write; \
         run: systemctl start {daemon} (or, to give the folder to root: chown -R root: {dir})",
        dir = dir.display(),
    )
}

/// Explains a refused permission below a state folder: whose `path` is, and the command that mends it. `None` for other
/// errors, and where ownership is not the cause.
pub fn explain(error: &io::Error, dir: &Path, path: &Path) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    // A folder that may not be searched hides what is in it.
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

/// What chown(1) takes for the user.
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
        // `nobody` stands for the user that a package made.
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
