//! A file system with a hanging server: programs that touch the file system wait for ever, a tick must not.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edr_sources::common::Inhabitants;
use edr_sources::process::{ProcessReader, ProcessSettings};
use edr_sources::socket::SocketReader;
use edr_sources::{Source as _, Tick};
use edr_wire::snapshot::{Agent, FileKind, GapReason, SnapshotView};

use super::common::{ChildProgram, file, look, tick};

/// A FUSE server in a separate mount namespace: serves one file until a child holds the file open, then answers no
/// further request. On command the child executes another program; execve(2) closes the file first and so waits for the
/// server. The child has another user: hung reads count against their owner, and tests beside this test run as root.
/// The protocol is defined in `include/uapi/linux/fuse.h`, version 7.31.
const DYING_SERVER: &str = "
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1].encode()
if libc.unshare(0x20000) or libc.mount(b'none', b'/', None, 0x44000, None):
    sys.exit('unshare')
fuse = os.open('/dev/fuse', os.O_RDWR)
if libc.mount(b'fuse', folder, b'fuse', 0, b'fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other' % fuse):
    sys.exit('mount')
told, tell = os.pipe()
waits, starts = os.pipe()
holder = os.fork()
if holder == 0:
    os.close(fuse)
    if libc.unshare(0x40000000): os._exit(1)
    os.setgid(65534)
    os.setuid(65534)
    libc.prctl(1, 9)
    listener = socket.socket()
    listener.listen()
    os.dup2(listener.fileno(), 61)
    os.dup2(os.open(folder + b'/file', os.O_RDONLY), 60, False)
    os.write(tell, b'x')
    os.read(waits, 1)
    os.execv('/bin/sleep', ['sleep', '1000'])
os.set_blocking(told, False)
def attributes(node):
    mode, size = (0o40755, 0) if node == 1 else (0o100644, 4321)
    return struct.pack('<6Q10I', node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
while True:
    request = os.read(fuse, 1 << 20)
    _, opcode, unique, node = struct.unpack_from('<IIQQ', request)
    error, reply = 0, b''
    if opcode == 26: reply = struct.pack('<IIIIHHIIHH8I', 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8)
    elif opcode == 1: reply = struct.pack('<QQQQII', 2, 0, 0, 0, 0, 0) + attributes(2)
    elif opcode == 3: reply = struct.pack('<QII', 0, 0, 0) + attributes(node)
    elif opcode == 14: reply = struct.pack('<QII', 1, 0, 0)
    elif opcode == 2: continue
    else: error = -38
    os.write(fuse, struct.pack('<IiQ', 16 + len(reply), error, unique) + reply)
    if opcode == 14: break
os.set_blocking(told, True)
os.read(told, 1)
print('ready', flush=True)
sys.stdin.readline()
os.write(starts, b'x')
while struct.unpack_from('<II', os.read(fuse, 1 << 20))[1] != 25: pass
print('held', flush=True)
while True: libc.pause()
";

/// Held while a server makes reads of this machine's `/proc` hang.
pub(crate) static ONE_SERVER: Mutex<()> = Mutex::new(());

/// Starts the server and returns its mount point; `None` on a machine without FUSE.
fn serve() -> Option<(ChildProgram, tempfile::TempDir, MutexGuard<'static, ()>)> {
    let one_server = ONE_SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
        println!("skipped: no /dev/fuse here, or not root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new("python3");
    server.args(["-c", DYING_SERVER]).arg(folder.path()).stderr(Stdio::piped());
    let server = ChildProgram::try_start(&mut server);
    if server.is_err() {
        println!("skipped: FUSE cannot be mounted here");
    }
    Some((server.ok()?, folder, one_server))
}

/// The inodes of the TCP sockets of a namespace.
fn sockets_of(netns: u64, tick: &Tick) -> Vec<u64> {
    let view = SnapshotView::parse(tick.encode(&Agent::default())).unwrap();
    let sockets = view.sockets().map(Result::unwrap);
    sockets.filter(|socket| socket.netns == netns && socket.protocol == "tcp").map(|socket| socket.inode).collect()
}

#[test]
pub(crate) fn a_process_held_inside_execve_stops_nothing_and_keeps_a_row() {
    let Some((mut server, _folder, _one_server)) = serve() else { return };
    let holder = server.child();
    let settings = ProcessSettings { hung_after: Duration::from_millis(300), ..ProcessSettings::default() };
    let mut reader = ProcessReader::open(Path::new("/proc"), settings).unwrap();
    let before = tick(&mut reader);
    let (netns, inhabitants) = (before.process(holder).namespaces.net, before.inhabitants.clone());
    assert_eq!(inhabitants.by_netns[&netns], [holder]);
    let mut sockets = SocketReader::open(Path::new("/proc")).unwrap();
    let mut look_at_sockets = |inhabitants: &Inhabitants| {
        let mut tick = Tick { inhabitants: inhabitants.clone(), ..Tick::default() };
        sockets.read(&mut tick);
        (sockets_of(netns, &tick), tick.gaps.take())
    };
    let (listening, gaps) = look_at_sockets(&inhabitants);
    let name = format!("netns {netns}");
    assert!(gaps.iter().all(|gap| gap.field.to_string() != name), "{gaps:?}");
    assert_eq!(listening.len(), 1);

    server.say("now");
    assert_eq!(server.line(), "held");
    for round in 0..3 {
        let seen = tick(&mut reader);
        let held = seen.process(holder);
        assert_eq!((held.ppid, held.uids), (server.pid(), [65_534; 4]), "round {round}");
        assert!(matches!(held.state, 'S' | 'D'), "{held:?}");
        assert!(held.incomplete.contains(&"stat".to_owned()) && held.incomplete.contains(&"files".to_owned()));
        assert_eq!((held.start_ticks, held.cgroup.clone()), (0, before.process(holder).cgroup.clone()));
        let gap = seen.gaps.iter().find(|gap| gap.reason == GapReason::Stuck).unwrap();
        assert_eq!((gap.pid, gap.field.to_string()), (Some(holder), "stat".to_owned()));
        let own = seen.process(std::process::id());
        assert!(own.exe.is_some() && !own.argv.is_empty() && own.incomplete.is_empty(), "{own:?}");
        assert!(seen.inhabitants.unknown.contains(&holder));
    }

    // A namespace not yet known to hang is read all the same, and its previous rows stay.
    let (still, gaps) = look_at_sockets(&inhabitants);
    assert!(gaps.iter().any(|gap| gap.reason == GapReason::Stuck && gap.field.to_string() == name), "{gaps:?}");
    assert_eq!(still, listening);

    drop(server);
    loop {
        let seen = tick(&mut reader);
        if seen.find(holder).is_none() && seen.gaps.iter().all(|gap| gap.reason != GapReason::Stuck) {
            break;
        }
    }
}

#[test]
fn a_descriptor_on_a_dead_file_system_is_listed_without_a_wait() {
    let Some((server, folder, _one_server)) = serve() else { return };
    let holder = server.child();
    let descriptor = format!("/proc/{holder}/fd/60");
    let mut waits = Command::new("stat").args(["--dereference", &descriptor]).stdout(Stdio::null()).spawn().unwrap();

    let seen = look();
    let held = file(seen.process(holder), 60);
    assert_eq!(
        (held.kind, held.path.clone()),
        (FileKind::Regular, format!("{}/file", folder.path().display()).as_bytes().into())
    );
    assert_eq!((held.inode, held.size, held.nlink, held.offset), (2, 4321, 1, 0));

    assert!(waits.try_wait().unwrap().is_none(), "an ordinary stat(2) does not come back");
    waits.kill().unwrap();
    drop(server);
    waits.wait().unwrap();
}
