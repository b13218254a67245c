//! Owners of resources: users, by the service, slice or container of their processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Homes with a remembered name; further homes are named by their number.
const NAMES_MAX: usize = 1_024;
/// Kept bytes of a name.
const NAME_BYTES_MAX: usize = 120;

/// The owner of a process, and of everything that the process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    /// Hash of the home: the part of the cgroup path that names a slice, a service, a container ([`home_of`]); `None`
    /// at the root. A user with many ids (subuid(5)) has a single home, and the home of root in a container differs
    /// from the home of root on the host.
    pub(crate) home: Option<u64>,
    /// The real user id.
    pub(crate) uid: u32,
}

impl Owner {
    /// Stands for all owners beyond a limit on their number.
    pub(crate) const OTHERS: Self = Self { home: Some(u64::MAX), uid: u32::MAX - 1 };

    /// The owner of a process with this real user id and cgroup path.
    pub(crate) fn new(uid: u32, cgroup_path: &[u8]) -> Self {
        let home = home_of(cgroup_path);
        let hash = || {
            let mut hasher = DefaultHasher::new();
            home.hash(&mut hasher);
            hasher.finish()
        };
        Self { uid, home: (!home.is_empty()).then(hash) }
    }

    /// Returns whether reads of two processes hang for the same owner. The user root alone is not enough: too much runs
    /// as root.
    pub(crate) fn is_related(self, other: Self) -> bool {
        (self.uid != 0 && self.uid == other.uid)
            || (self.home.is_some() && self.home == other.home)
            || (self.home, self.uid) == (other.home, other.uid)
    }
}

/// The part of a cgroup path that names the home of a process. Nobody but root can choose this part: below
/// `user-UID.slice` and below a container the path belongs to the user or to the container.
///
/// - `/user.slice/user-1000.slice/…` → `user.slice/user-1000.slice`
/// - `/system.slice/docker-ID.scope/…` → `system.slice/docker-ID.scope`
/// - `/lxc.payload.web/…` → `lxc.payload.web`
/// - `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/…` → up to the pod
/// - otherwise the first two folders
pub(crate) fn home_of(cgroup_path: &[u8]) -> &[u8] {
    let path = cgroup_path.strip_prefix(b"/").unwrap_or(cgroup_path);
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let mut end_of = ends.chain([path.len()]);
    let folders = match path {
        path if path.starts_with(b"lxc.payload.") => 1,
        // `kubepods/burstable/podUID`, `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice`; the
        // pods of the class `guaranteed` have one folder less, and two of their folders are a pod and a container.
        path if path.starts_with(b"kubepods") => 3,
        _ => 2,
    };
    let end = end_of.nth(folders - 1).unwrap_or(path.len());
    path[..end].strip_suffix(b"/").unwrap_or(&path[..end])
}

/// Names of homes, for gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HomeNames(BTreeMap<u64, Box<[u8]>>);

impl HomeNames {
    /// Remembers the name of an owner's home.
    pub(crate) fn learn(&mut self, owner: Owner, cgroup_path: &[u8]) {
        if let Some(home) = owner.home
            && (self.0.len() < NAMES_MAX)
        {
            let name = home_of(cgroup_path);
            self.0.entry(home).or_insert_with(|| name[..name.len().min(NAME_BYTES_MAX)].into());
        }
    }

    /// Forgets the homes that no owner has any more.
    pub(crate) fn retain(&mut self, is_used: impl Fn(u64) -> bool) {
        self.0.retain(|home, _| is_used(*home));
    }

    /// The owner in words: `uid 1000 in user.slice/user-1000.slice`.
    pub(crate) fn name(&self, owner: Owner) -> String {
        if owner == Owner::OTHERS {
            return "all other owners".to_owned();
        }
        let mut words = match owner.uid {
            u32::MAX => "an unknown user".to_owned(),
            uid => format!("uid {uid}"),
        };
        if let Some(home) = owner.home {
            // Writing to a String has no error.
            let _ = match self.0.get(&home) {
                Some(name) => write!(words, " in {}", String::from_utf8_lossy(name)),
                None => write!(words, " in home {home:x}"),
            };
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_home_is_what_only_root_can_choose() {
        let text = |path: &str| String::from_utf8(home_of(path.as_bytes()).to_vec()).unwrap();
        for (path, home) in [
            ("/", ""),
            ("", ""),
            ("/init.scope", "init.scope"),
            ("/system.slice/cron.service", "system.slice/cron.service"),
            ("/system.slice/docker-12.scope/a/b", "system.slice/docker-12.scope"),
            ("/docker/12/x", "docker/12"),
            ("/user.slice/user-7.slice/user@7.service/app.slice/a", "user.slice/user-7.slice"),
            ("/user.slice/user-7.slice/session-1.scope", "user.slice/user-7.slice"),
            ("/lxc.payload.web/docker/34", "lxc.payload.web"),
            ("/kubepods.slice/kubepods-burstable.slice/pod1/c", "kubepods.slice/kubepods-burstable.slice/pod1"),
            ("/kubepods/burstable/pod1/c", "kubepods/burstable/pod1"),
        ] {
            assert_eq!(text(path), home, "{path}");
        }
    }

    #[test]
    fn owners_have_names_and_their_number_is_bounded() {
        let mut names = HomeNames::default();
        let path = b"/system.slice/web.service/x";
        let web = Owner::new(33, path);
        names.learn(web, path);
        assert_eq!(names.name(web), "uid 33 in system.slice/web.service");
        assert_eq!(names.name(Owner::new(0, b"/")), "uid 0");
        assert_eq!(names.name(Owner::new(u32::MAX, b"/")), "an unknown user");
        for service in 0..2 * NAMES_MAX {
            let path = format!("/system.slice/{service:0300}.service");
            names.learn(Owner::new(1, path.as_bytes()), path.as_bytes());
        }
        assert_eq!(names.0.len(), NAMES_MAX);
        assert!(names.0.values().all(|name| name.len() <= NAME_BYTES_MAX));
        names.retain(|home| Some(home) == web.home);
        assert_eq!(names.0.len(), 1);
    }

    proptest! {
        #[test]
        fn a_home_is_a_part_of_any_path(path in proptest::collection::vec(any::<u8>(), 0..60)) {
            let home = home_of(&path);
            prop_assert!(home.len() <= path.len() && Owner::new(1, &path).home.is_none() == home.is_empty());
        }
    }
}
