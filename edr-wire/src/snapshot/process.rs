//! Processes and their open files.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Bytes, ProcessKey};

/// A process. `pid` is the first field and `files` the last, so that a reader of raw bytes can find both.
///
/// The facts come from `/proc/PID` (proc(5)); ECS: `process.*`, `edr.process.*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// `starttime` (stat field 22), clock ticks since boot.
    pub start_ticks: u64,
    /// Parent (stat field 4); 0 for none.
    pub ppid: u32,
    /// Process group (stat field 5).
    pub pgid: u32,
    /// Session (stat field 6).
    pub sid: u32,
    /// Controlling terminal (stat field 7) as a device number; 0 for none.
    pub tty: u32,
    /// Foreground process group of the controlling terminal (stat field 8); -1 for none.
    pub tpgid: i32,
    /// `comm`: at most 15 bytes for a user process, longer for kernel workers; any byte but NUL.
    pub comm: Bytes,
    /// Command line, one entry per argument, exact except for redaction; empty for kernel threads and for processes
    /// that cleared their own command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<Bytes>,
    /// Bytes of the whole command line, when `argv` is shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv_bytes: Option<u64>,
    /// First 16 bytes of BLAKE3 over the arguments of the whole `argv`, each followed by NUL, when `argv` is shortened
    /// because its owner uses too much of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv_hash: Option<Bytes>,
    /// The executable; `None` for kernel threads and when unreadable (then `incomplete` names the field).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<Exe>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<Bytes>,
    /// Root directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Bytes>,
    /// Real, effective, saved and file-system uid (`Uid:` of status).
    pub uids: [u32; 4],
    /// Real, effective, saved and file-system gid (`Gid:` of status).
    pub gids: [u32; 4],
    /// Supplementary groups (`Groups:`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// Name of the effective uid in the host's `/etc/passwd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the effective gid in the host's `/etc/group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Login uid (`/proc/PID/loginuid`); `None` without a login (4294967295) or when unreadable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loginuid: Option<u32>,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// `Seccomp:` of status: 0 off, 1 strict, 2 filter.
    pub seccomp: u8,
    /// `NoNewPrivs:` of status.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_new_privs: bool,
    /// Inodes of the namespaces (`/proc/PID/ns/*`).
    pub namespaces: Namespaces,
    /// Path in the unified hierarchy, or in `name=systemd` on a v1 host (`/proc/PID/cgroup`).
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub cgroup: Bytes,
    /// systemd unit (`*.service`, `*.scope`, …) read from the cgroup path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Unit of the user's own service manager, below `user@UID.service`, read from the cgroup path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_unit: Option<String>,
    /// systemd slice read from the cgroup path: the innermost slice above the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// Container read from the cgroup path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// State letter (stat field 3): `R S D Z T t X I`.
    pub state: char,
    /// Threads (stat field 20).
    pub threads: u32,
    /// Nice value (stat field 19).
    pub nice: i32,
    /// Kernel priority (stat field 18).
    pub priority: i32,
    /// Kernel flags (stat field 9), `PF_*` of `include/linux/sched.h`.
    pub flags: u32,
    /// User time, clock ticks (stat field 14).
    pub utime_ticks: u64,
    /// System time, clock ticks (stat field 15).
    pub stime_ticks: u64,
    /// Virtual size, bytes (stat field 23).
    pub vsize_bytes: u64,
    /// Resident set, pages. From `VmRSS` of status, which is exact; stat field 24 is an estimate.
    pub rss_pages: u64,
    /// True when the process has locked pages (`VmLck:` of status is not 0): the `L` of ps.
    #[serde(default, skip_serializing_if = "is_false")]
    pub locked: bool,
    /// Bytes read and written (`/proc/PID/io`); `None` when unreadable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Io>,
    /// True for a kernel thread: `PF_KTHREAD` is set in `flags`. An empty command line alone proves nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub kernel_thread: bool,
    /// Wall-clock start time, ns since the epoch, from the boot time and `start_ticks`. For display only.
    pub start_time_ns: i64,
    /// Names of existing fields that could not be read, or that were shortened because the owner's share of the
    /// snapshot was used up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
    /// Distinct mapped files, by (dev, inode): the `mem` and `DEL` rows of lsof.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mapped: Vec<MappedFile>,
    /// Exact number of all open descriptors, listed or not; `None` when the folder could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_total: Option<u64>,
    /// True when a limit shortened `files`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub truncated: bool,
    /// Open files by descriptor; `cwd`, `root` and `exe` first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<OpenFile>,
}

impl Process {
    /// Identity inside a boot of a host.
    pub fn key(&self) -> ProcessKey {
        ProcessKey { pid: self.pid, start_ticks: self.start_ticks }
    }
}

/// An executable, read through the magic link `/proc/PID/exe`. The path alone identifies no file, because another mount
/// namespace may hold another file there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exe {
    /// Path as given by the kernel, without the suffix ` (deleted)` of a removed file.
    pub path: Bytes,
    /// True when the file has no name any more (link count 0).
    #[serde(default, skip_serializing_if = "is_false")]
    pub deleted: bool,
    /// True when the file exists in memory only (`memfd_create(2)`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub memfd: bool,
    /// Device of the file.
    pub dev: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Bytes of the file.
    pub size: u64,
    /// True when the permission bits include set-user-id or set-group-id.
    #[serde(default, skip_serializing_if = "is_false")]
    pub setid: bool,
    /// SHA-256 of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Bytes>,
    /// The reason for a missing `sha256`: `off`, `too_large`, `budget`, `denied`, `stuck`, `io`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_hashed: Option<String>,
}

/// Capability sets as in status (`CapInh`, `CapPrm`, `CapEff`, `CapBnd`, `CapAmb`), capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Inheritable.
    pub inheritable: u64,
    /// Permitted.
    pub permitted: u64,
    /// Effective.
    pub effective: u64,
    /// Bounding.
    pub bounding: u64,
    /// Ambient.
    pub ambient: u64,
}

/// Namespace inodes (namespaces(7)); 0 where the kernel lacks the namespace or the inode could not be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Mount.
    pub mnt: u64,
    /// Process ids.
    pub pid: u64,
    /// Network.
    pub net: u64,
    /// Users.
    pub user: u64,
    /// Host name.
    pub uts: u64,
    /// System V IPC.
    pub ipc: u64,
    /// Cgroup root.
    pub cgroup: u64,
    /// Clock offsets.
    pub time: u64,
}

/// A container as named in the cgroup path. The agent asks no container daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// `docker`, `podman`, `containerd`, `cri-o`, `lxc`, `systemd-nspawn`, `buildkit`, `kata`, `kubernetes` (a pod's
    /// container of an unnamed runtime).
    pub runtime: String,
    /// Id or name of the container.
    pub id: String,
    /// Uid of the Kubernetes pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// True when the name lies in a part of the cgroup tree that belongs to a user, a service or another container: the
    /// container is a claim of that owner, and may not exist.
    #[serde(default, skip_serializing_if = "is_false")]
    pub claimed: bool,
}

/// `/proc/PID/io`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    /// Bytes read by system calls.
    pub rchar: u64,
    /// Bytes written by system calls.
    pub wchar: u64,
    /// Bytes fetched from storage.
    pub read_bytes: u64,
    /// Bytes sent to storage.
    pub write_bytes: u64,
}

/// An open file of a process. ECS: `file.*`, `edr.fd.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// Descriptor number, or the name of a file held without a descriptor.
    pub fd: Fd,
    /// Access mode of the descriptor.
    pub access: Access,
    /// Flags beyond the access mode: names of open(2) without `O_`, lower case (`append`, `cloexec`, `nonblock`, …).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Cow<'static, str>>,
    /// Kind of the file.
    pub kind: FileKind,
    /// Path as given by the kernel, without the suffix ` (deleted)`; empty for a socket or a pipe; the name for memfd
    /// (`secretmem` for memfd_secret(2)) and anon_inode.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub path: Bytes,
    /// True when the file has no name any more. Taken from the link count (0) behind the magic link, because the text
    /// ` (deleted)` can be part of a real name.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deleted: bool,
    /// Link count.
    pub nlink: u32,
    /// Device (`st_dev`).
    pub dev: u64,
    /// Device represented by the file (`st_rdev`), for char and block.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rdev: u64,
    /// Inode. For a socket: the inode of the socket's row in `sockets`.
    pub inode: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Offset of the descriptor (`pos:` of fdinfo).
    pub offset: u64,
    /// Other lines of fdinfo: details of eventfd, epoll, timerfd, inotify, pidfd and similar files, and file locks.
    /// Values that change on an idle system are left out. Cut after 2 KiB; the last line is then `…`.
    #[serde(default, skip_serializing_if = "Bytes::is_empty")]
    pub detail: Bytes,
}

/// A descriptor number, or the name of a file that a process holds without a descriptor. Sort order: `cwd`, `root`,
/// `exe`, 0, 1, 2, …
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fd {
    /// Working directory.
    #[default]
    Cwd,
    /// Root directory.
    Root,
    /// Executable.
    Exe,
    /// A descriptor.
    Number(u32),
}

impl std::fmt::Display for Fd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cwd => f.write_str("cwd"),
            Self::Root => f.write_str("root"),
            Self::Exe => f.write_str("exe"),
            Self::Number(n) => write!(f, "{n}"),
        }
    }
}

impl Serialize for Fd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(n) => serializer.serialize_u32(*n),
            named => serializer.collect_str(named),
        }
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FdVisitor;
        impl serde::de::Visitor<'_> for FdVisitor {
            type Value = Fd;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a descriptor number, cwd, root or exe")
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Fd, E> {
                u32::try_from(n).map(Fd::Number).map_err(|_| E::custom("a descriptor number above 2^32"))
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Fd, E> {
                match name {
                    "cwd" => Ok(Fd::Cwd),
                    "root" => Ok(Fd::Root),
                    "exe" => Ok(Fd::Exe),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(name), &self)),
                }
            }
        }
        deserializer.deserialize_any(FdVisitor)
    }
}

/// Access mode of a descriptor (open(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Access {
    /// `O_RDONLY`.
    #[serde(rename = "r")]
    Read,
    /// `O_WRONLY`.
    #[serde(rename = "w")]
    Write,
    /// `O_RDWR`.
    #[serde(rename = "rw")]
    ReadWrite,
    /// `O_PATH`: a place in the tree, without access to the content. Also the mode of `cwd` and `root`; `exe` is `r`.
    #[serde(rename = "path")]
    Path,
    /// Unknown access mode.
    #[default]
    #[serde(rename = "unknown", other)]
    Unknown,
}

/// Kind of an open file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A pipe or FIFO.
    Pipe,
    /// A socket; the details are in `sockets` under the same inode.
    Socket,
    /// An anonymous inode; `path` holds its name (`eventpoll`, `eventfd`, `inotify`, `pidfd`, …).
    AnonInode,
    /// A file that exists in memory only; `path` holds its name.
    Memfd,
    /// A symbolic link held with `O_PATH`.
    Symlink,
    /// Anything else.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A file mapped into memory (`/proc/PID/maps`), listed once per (dev, inode).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedFile {
    /// Path as given by the kernel, without the suffix ` (deleted)`.
    pub path: Bytes,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub inode: u64,
    /// True when the kernel appended ` (deleted)`; false when the suffix is part of the file's real name.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deleted: bool,
    /// True when at least one mapping of the file is executable.
    #[serde(default, skip_serializing_if = "is_false")]
    pub executable: bool,
}

pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

pub(crate) fn is_zero(value: &u64) -> bool {
    *value == 0
}
