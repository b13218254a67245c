//! Parser of `/proc/PID/cgroup` (cgroups(7)): systemd unit and slice, and the container, all derived from the path.
//!
//! The path alone decides; no daemon is asked. A cgroup's name is chosen by its creator: by root and its runtimes, but
//! below `user-UID.slice`, below a service and inside a container by whoever owns that part of the tree. A container
//! named there is marked as claimed.

use edr_wire::Bytes;
use edr_wire::snapshot::Container;

/// Where a process is in the cgroup tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cgroup {
    pub(super) path: Bytes,
    pub(super) unit: Option<String>,
    pub(super) user_unit: Option<String>,
    pub(super) slice: Option<String>,
    pub(super) container: Option<Container>,
}

/// Appended by the kernel to the path of a removed cgroup, which zombies may still belong to (cgroups(7)).
const DELETED: &[u8] = b" (deleted)";

/// Parses `cgroup`: lines of `hierarchy-id:controllers:path`.
pub(super) fn parse_cgroup(cgroup: &[u8]) -> Cgroup {
    let mut unified = &b""[..];
    let mut systemd = &b""[..];
    let mut container = None;
    for line in cgroup.split(|&b| b == b'\n') {
        let mut parts = line.splitn(3, |&b| b == b':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let path = path.strip_suffix(DELETED).unwrap_or(path);
        match (id, controllers) {
            (b"0", b"") => unified = path,
            (_, b"name=systemd") => systemd = path,
            _ => {}
        }
        // On a v1 host a runtime without systemd may name its container only in other hierarchies.
        if container.is_none() {
            container = container_of(path);
        }
    }
    // Hybrid hosts mount an empty unified tree beside the v1 hierarchies.
    let path = if unified.len() > 1 || systemd.is_empty() { unified } else { systemd };
    let (slice, unit, user_unit) = systemd_units(path);
    Cgroup { path: Bytes::from(path), unit, user_unit, slice, container }
}

/// Slice, unit, and below a `user@UID.service` the unit of the user's own service manager, like sd_pid_get_slice(3),
/// sd_pid_get_unit(3) and sd_pid_get_user_unit(3).
fn systemd_units(path: &[u8]) -> (Option<String>, Option<String>, Option<String>) {
    let mut components = components(path).peekable();
    let mut slice = None;
    while let Some(component) = components.next_if(|component| component.ends_with(b".slice")) {
        slice = Some(text(component));
    }
    let unit = components.next().filter(|component| is_unit(component));
    let mut user_unit = None;
    if unit.is_some_and(|unit| unit.starts_with(b"user@")) {
        user_unit = components.find(|component| !component.ends_with(b".slice")).filter(|component| is_unit(component));
    }
    (slice, unit.map(text), user_unit.map(text))
}

/// The innermost container on the path.
fn container_of(path: &[u8]) -> Option<Container> {
    let mut found: Option<Container> = None;
    let mut pod = None;
    let mut in_ecs = false;
    let mut parent = &b""[..];
    let (mut in_users, mut in_service) = (false, false);
    for component in components(path) {
        if let Some(id) = pod_uid(component) {
            pod = Some(id);
        }
        if let Some((runtime, id)) = container_name(component, parent, in_ecs) {
            let runtime = if runtime.is_empty() && pod.is_some() { "kubernetes" } else { runtime };
            if !runtime.is_empty() {
                // podman run by a service puts the container below the service (`--cgroups=split`).
                let claimed = in_users || found.is_some() || (in_service && runtime != "podman");
                found = Some(Container { runtime: runtime.to_owned(), id, pod: None, claimed });
            }
        }
        in_ecs |= component == b"ecs";
        in_users |= is_users(component, parent);
        in_service |= is_plain_service(component);
        parent = component;
    }
    if let Some(container) = &mut found {
        container.pod = pod;
    }
    found
}

/// True for a user's slice or service manager: below, names are chosen by the user.
fn is_users(component: &[u8], parent: &[u8]) -> bool {
    component.starts_with(b"user@") || (parent == b"user.slice" && component.starts_with(b"user-"))
}

/// True for a service that is no runtime of containers: below, names are chosen by the service.
fn is_plain_service(component: &[u8]) -> bool {
    const RUNTIMES: [&[u8]; 7] = [b"containerd", b"docker", b"dockerd", b"crio", b"kubelet", b"k3s", b"rke2"];
    let is_runtime = |name: &[u8]| RUNTIMES.iter().any(|runtime| memchr::memmem::find(name, runtime).is_some());
    component.strip_suffix(b".service").is_some_and(|name| !is_runtime(name))
}

/// Runtime and id when a component names a container; the runtime is empty for a bare id, whose place decides.
fn container_name(component: &[u8], parent: &[u8], in_ecs: bool) -> Option<(&'static str, String)> {
    const SCOPES: [(&[u8], &str); 9] = [
        (b"docker-", "docker"),
        (b"cri-containerd-", "containerd"),
        (b"nerdctl-", "containerd"),
        (b"crio-", "cri-o"),
        (b"libpod-", "podman"),
        (b"buildah-", "podman"),
        (b"libpod-payload-", "podman"),
        (b"kata_", "kata"),
        (b"kata-", "kata"),
    ];
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    for (prefix, runtime) in SCOPES {
        if let Some(id) = name.strip_prefix(prefix).filter(|id| is_container_id(id)) {
            return Some((runtime, text(id)));
        }
    }
    // A runtime without systemd was given systemd's notation `SLICE:PREFIX:ID`.
    let mut parts = component.rsplit(|&b| b == b':');
    if let (Some(id), Some(prefix), Some(_)) = (parts.next(), parts.next(), parts.next()) {
        return match prefix {
            b"docker" if is_buildkit_id(id) => Some(("buildkit", text(id))),
            _ if !is_container_id(id) => None,
            b"docker" => Some(("docker", text(id))),
            b"libpod" | b"buildah" => Some(("podman", text(id))),
            b"nerdctl" | b"cri-containerd" => Some(("containerd", text(id))),
            b"crio" => Some(("cri-o", text(id))),
            _ => Some(("", text(id))),
        };
    }
    if parent == b"buildkit" && (is_buildkit_id(component) || is_container_id(component)) {
        return Some(("buildkit", text(component)));
    }
    if is_container_id(component) {
        return Some(match parent {
            b"docker" => ("docker", text(component)),
            b"libpod_parent" => ("podman", text(component)),
            b"kata_overhead" => ("kata", text(component)),
            // containerd without CRI: `/NAMESPACE/ID`, with the usual namespaces.
            b"k8s.io" | b"default" | b"moby" => ("containerd", text(component)),
            parent if parent.starts_with(b"pod") => ("", text(component)),
            _ if in_ecs => ("docker", text(component)), // Amazon ECS on EC2: `/ecs/TASK/ID`
            _ => return None,
        });
    }
    if in_ecs && is_task_container_id(component) {
        return Some(("containerd", text(component)));
    }
    if let Some(name) = component.strip_prefix(b"lxc.payload.").filter(|name| !name.is_empty()) {
        return Some(("lxc", text(name)));
    }
    if parent == b"lxc" || parent == b"lxc.payload" {
        return Some(("lxc", text(component)));
    }
    if let Some(name) = component.strip_prefix(b"systemd-nspawn@").and_then(|name| name.strip_suffix(b".service")) {
        return Some(("systemd-nspawn", unescape(name)));
    }
    if parent == b"machine.slice" {
        let name = component.strip_prefix(b"machine-").and_then(|name| name.strip_suffix(b".scope"))?;
        // libvirt names its domains `machine-qemu\x2d1\x2dNAME.scope`; a virtual machine is no container.
        return match unescape(name) {
            machine if machine.starts_with("qemu-") => None,
            machine if machine.starts_with("lxc-") => Some(("lxc", machine)),
            machine => Some(("systemd-nspawn", machine)),
        };
    }
    None
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|component| !component.is_empty() && component != b"..")
}

fn is_unit(component: &[u8]) -> bool {
    [b".service".as_slice(), b".scope", b".socket", b".mount", b".swap"].iter().any(|kind| component.ends_with(kind))
}

fn is_container_id(id: &[u8]) -> bool {
    id.len() == 64 && id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// An id of BuildKit: 25 digits of base 36.
fn is_buildkit_id(id: &[u8]) -> bool {
    id.len() == 25 && id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z'))
}

/// `TASK-NUMBER` of Amazon ECS on Fargate and on managed instances: 32 hexadecimal digits, then up to ten digits.
fn is_task_container_id(id: &[u8]) -> bool {
    let Some((task, [b'-', number @ ..])) = id.split_at_checked(32) else { return false };
    let is_number = (1..=10).contains(&number.len()) && number.iter().all(u8::is_ascii_digit);
    is_number && task.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The uid in `podUID` and `kubepods-burstable-podUID.slice`; systemd requires `_` in the place of `-`. With kubelet's
/// `--cgroup-root` each slice starts with the name of the root: `kubelet-kubepods-podUID.slice`.
fn pod_uid(component: &[u8]) -> Option<String> {
    let name = component.strip_suffix(b".slice").unwrap_or(component);
    let is_uid = |uid: &[u8]| uid.len() >= 32 && uid.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b'-' | b'_'));
    let uid = match name.strip_prefix(b"pod").filter(|uid| is_uid(uid)) {
        Some(uid) => uid,
        None => {
            // `kubepods-besteffort-podUID.slice:cri-containerd:ID`, too.
            let name = name.split(|&b| b == b':').next()?;
            let name = name.strip_suffix(b".slice").unwrap_or(name);
            let name = &name[memchr::memmem::find(name, b"kubepods")?..];
            &name[memchr::memmem::find(name, b"-pod")? + 4..]
        }
    };
    is_uid(uid).then(|| text(uid).replace('_', "-"))
}

/// Removes the `_` that systemd puts before a name that would clash with a file of the cgroup tree.
fn text(component: &[u8]) -> String {
    String::from_utf8_lossy(component.strip_prefix(b"_").unwrap_or(component)).into_owned()
}

/// `\x2d` of systemd-escape(1).
fn unescape(name: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'\\', b'x', high, low, ..] => super::number::hex(&[*high, *low]).and_then(|byte| u8::try_from(byte).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "c4a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f";
    const POD: &str = "1b9ad0a1-9f0e-4b51-a8f0-6e2f1b7b4f5c";

    /// Slice, unit, user unit, `runtime id`, pod; each empty when there is none.
    fn parse(cgroup: &str) -> [String; 5] {
        let parsed = parse_cgroup(
            cgroup.replace("ID", ID).replace("POD_", &POD.replace('-', "_")).replace("POD", POD).as_bytes(),
        );
        let container = parsed.container.unwrap_or_default();
        [
            parsed.slice.unwrap_or_default(),
            parsed.unit.unwrap_or_default(),
            parsed.user_unit.unwrap_or_default(),
            format!("{} {}", container.runtime, container.id).trim().replace(ID, "ID"),
            container.pod.unwrap_or_default().replace(POD, "POD"),
        ]
    }

    #[test]
    fn units_and_slices() {
        for (cgroup, expected) in [
            ("0::/", ["", "", "", "", ""]),
            ("0::/init.scope\n", ["", "init.scope", "", "", ""]),
            ("0::/system.slice/ssh.service\n", ["system.slice", "ssh.service", "", "", ""]),
            (
                "0::/system.slice/system-getty.slice/getty@tty1.service\n",
                ["system-getty.slice", "getty@tty1.service", "", "", ""],
            ),
            ("0::/user.slice/user-1000.slice/session-3.scope\n", ["user-1000.slice", "session-3.scope", "", "", ""]),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.slice/dbus.service\n",
                ["user-1000.slice", "user@1000.service", "dbus.service", "", ""],
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/init.scope",
                ["user-1000.slice", "user@1000.service", "init.scope", "", ""],
            ),
            ("0::/system.slice/_cgroup.service", ["system.slice", "cgroup.service", "", "", ""]),
            // v1 and hybrid.
            (
                "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/cron.service\n",
                ["system.slice", "cron.service", "", "", ""],
            ),
            (
                "12:cpu:/\n1:name=systemd:/system.slice/cron.service\n0::/\n",
                ["system.slice", "cron.service", "", "", ""],
            ),
            ("1:name=systemd:/x\n0::/system.slice/cron.service\n", ["system.slice", "cron.service", "", "", ""]),
            // A zombie of a removed cgroup.
            ("0::/system.slice/cron.service (deleted)\n", ["system.slice", "cron.service", "", "", ""]),
            // Another cgroup namespace.
            ("0::/../../system.slice/cron.service\n", ["system.slice", "cron.service", "", "", ""]),
        ] {
            assert_eq!(parse(cgroup), expected, "{cgroup}");
        }
    }

    #[test]
    fn containers_of_every_runtime() {
        for (cgroup, container, pod) in [
            // docker: v1 with cgroupfs, v1 beside an empty unified tree, v2 with systemd, inside docker.
            ("9:memory:/docker/ID\n1:name=systemd:/docker/ID\n", "docker ID", ""),
            ("9:memory:/docker/ID\n1:name=systemd:/\n0::/\n", "docker ID", ""),
            ("0::/system.slice/docker-ID.scope\n", "docker ID", ""),
            (
                "0::/docker/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef/docker/ID\n",
                "docker ID",
                "",
            ),
            ("0::/../docker-ID.scope", "docker ID", ""),
            // podman: rootful, rootless, cgroupfs; its monitor is a process of the host.
            ("0::/machine.slice/libpod-ID.scope\n", "podman ID", ""),
            ("0::/machine.slice/libpod-ID.scope/container\n", "podman ID", ""),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container\n",
                "podman ID",
                "",
            ),
            ("9:memory:/libpod_parent/libpod-ID\n", "podman ID", ""),
            ("0::/machine.slice/libpod-conmon-ID.scope\n", "", ""),
            // Kubernetes with containerd, CRI-O, docker; systemd and cgroupfs drivers.
            (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/\
                 cri-containerd-ID.scope\n",
                "containerd ID",
                "POD",
            ),
            ("0::/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope\n", "cri-o ID", "POD"),
            ("0::/kubepods.slice/kubepods-podPOD_.slice/crio-conmon-ID.scope\n", "", ""),
            (
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/docker-ID.scope\n",
                "docker ID",
                "POD",
            ),
            (
                "11:pids:/kubepods/besteffort/podPOD/ID\n1:name=systemd:/kubepods/besteffort/podPOD/ID\n",
                "kubernetes ID",
                "POD",
            ),
            (
                "11:pids:/system.slice/containerd.service/kubepods-burstable-podPOD_.slice:cri-containerd:ID\n",
                "containerd ID",
                "POD",
            ),
            // kubelet with --cgroup-root, also inside a container.
            (
                "0::/base.slice/base-kubepods.slice/base-kubepods-burstable.slice/\
                 base-kubepods-burstable-podPOD_.slice/crio-ID.scope\n",
                "cri-o ID",
                "POD",
            ),
            ("0::/pods.slice/pods-kubepods.slice/pods-kubepods-podPOD_.slice/crio-ID.scope\n", "cri-o ID", "POD"),
            ("9:memory:/docker/ID/base/kubepods/besteffort/podPOD/ID\n", "kubernetes ID", "POD"),
            // systemd's notation given to a runtime without systemd: the prefix names the runtime.
            ("0::/system.slice:docker:ID\n", "docker ID", ""),
            ("0::/system.slice:docker:a1b2c3d4e5f6g7h8i9j0k1l2m\n", "buildkit a1b2c3d4e5f6g7h8i9j0k1l2m", ""),
            ("0::/machine.slice:libpod:ID\n", "podman ID", ""),
            ("0::/system.slice:nerdctl:ID\n", "containerd ID", ""),
            ("0::/kubepods-podPOD_.slice:crio:ID\n", "cri-o ID", "POD"),
            ("0::/kubepods-podPOD_.slice:other:ID\n", "kubernetes ID", "POD"),
            ("0::/system.slice:other:ID\n", "", ""),
            ("0::/machine.slice:libpod-conmon:ID\n", "", ""),
            // BuildKit, containerd without CRI, Kata.
            ("0::/docker/buildkit/a1b2c3d4e5f6g7h8i9j0k1l2m\n", "buildkit a1b2c3d4e5f6g7h8i9j0k1l2m", ""),
            ("0::/buildkit/ID\n", "buildkit ID", ""),
            ("0::/moby/ID\n", "containerd ID", ""),
            ("0::/k8s.io/ID/init.scope\n", "containerd ID", ""),
            ("9:memory:/kubepods/burstable/podPOD/kata_ID\n", "kata ID", "POD"),
            ("0::/kata_overhead/ID\n", "kata ID", ""),
            // Amazon ECS on EC2, on Fargate and on managed instances.
            ("9:memory:/ecs/0123456789abcdef0123456789abcdef/ID\n", "docker ID", ""),
            (
                "0::/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-0265927825\n",
                "containerd 0123456789abcdef0123456789abcdef-0265927825",
                "",
            ),
            (
                "1:name=systemd:/ecs/0123456789abcdef0123456789abcdef-7\n",
                "containerd 0123456789abcdef0123456789abcdef-7",
                "",
            ),
            ("0::/ecs/0123456789abcdef0123456789abcdef\n", "", ""),
            ("0::/ecs/0123456789abcdef0123456789abcdef-12345678901\n", "", ""),
            ("0::/0123456789abcdef0123456789abcdef-7\n", "", ""),
            // The cgroup was removed.
            ("0::/system.slice/docker-ID.scope (deleted)\n", "docker ID", ""),
            ("9:memory:/lxc/web (deleted)\n1:name=systemd:/lxc/web (deleted)\n", "lxc web", ""),
            // lxc and its monitor; systemd inside the container.
            ("9:memory:/lxc/web/system.slice/ssh.service\n", "lxc web", ""),
            ("0::/lxc.payload.web/system.slice/ssh.service\n", "lxc web", ""),
            ("0::/lxc.monitor.web\n", "", ""),
            // systemd-nspawn, libvirt.
            (
                "0::/machine.slice/systemd-nspawn@deb\\x2d12.service/payload/system.slice/ssh.service\n",
                "systemd-nspawn deb-12",
                "",
            ),
            ("0::/machine.slice/machine-deb\\x2d12.scope/payload\n", "systemd-nspawn deb-12", ""),
            ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope\n", "", ""),
            // An id where none belongs is none.
            ("0::/system.slice/ID\n", "", ""),
            ("0::/system.slice/docker-abc.scope\n", "", ""),
        ] {
            let [_, _, _, found, found_pod] = parse(cgroup);
            assert_eq!((found.as_str(), found_pod.as_str()), (container, pod), "{cgroup}");
        }
    }

    #[test]
    fn a_container_below_what_a_user_a_service_or_a_container_owns_is_a_claim() {
        for (path, is_claimed) in [
            ("/system.slice/docker-ID.scope", false),
            ("/docker/ID", false),
            ("/machine.slice/libpod-ID.scope/container", false),
            ("/system.slice/containerd.service/kubepods-pod.slice:cri-containerd:ID", false),
            ("/kubepods.slice/kubepods-burstable.slice/cri-containerd-ID.scope", false),
            ("/machine.slice/systemd-nspawn@x.service/payload", false),
            ("/user.slice/user-1000.slice/user@1000.service/docker-ID.scope", true),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/docker/ID", true),
            ("/user.slice/user-1000.slice/session-1.scope/libpod-ID.scope", true),
            ("/user.slice/user-1000.slice/user@1000.service/lxc.payload.web", true),
            ("/system.slice/web.service/docker-ID.scope", true),
            ("/lxc.payload.web/docker/ID", true),
            ("/docker/ID/docker/ID", true),
            ("/system.slice/web.service/libpod-payload-ID", false),
            ("/system.slice/snap.docker.dockerd.service/docker/ID", false),
            ("/../user-1000.slice/user@1000.service/machine.slice/machine-x.scope", true),
        ] {
            let container = parse_cgroup(format!("0::{path}\n").replace("ID", ID).as_bytes()).container;
            assert_eq!(container.map(|container| container.claimed), Some(is_claimed), "{path}");
        }
    }

    #[test]
    fn a_container_of_docker_is_also_a_unit_and_the_path_is_kept() {
        let parsed = parse_cgroup(format!("0::/system.slice/docker-{ID}.scope\n").as_bytes());
        assert_eq!(parsed.path, Bytes::from(format!("/system.slice/docker-{ID}.scope").as_bytes()));
        assert_eq!(parsed.unit, Some(format!("docker-{ID}.scope")));
        assert_eq!(parse_cgroup(b"0::/a:b\n").path, Bytes::from(b"/a:b"));
        assert_eq!(parse_cgroup(b"0::/a b (deleted)\n").path, Bytes::from(b"/a b"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_cgroup(&bytes);
            let _ = parse_cgroup(&[b"0::/", bytes.as_slice()].concat());
        }
    }
}
