//! A descriptor on a file system whose server is dead: a stat(2) of it waits for ever, a tick must not.

use std::process::{Command, Stdio};

use edr_wire::snapshot::FileKind;

use super::common::{Running, file, look};

/// A FUSE server in a mount namespace of its own: it serves one file until a child holds it open, and never again.
/// The protocol is that of `include/uapi/linux/fuse.h`, version 7.31.
const DYING_SERVER: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1].encode()
if libc.unshare(0x20000) or libc.mount(b'none', b'/', None, 0x44000, None):
    sys.exit('unshare')
fuse = os.open('/dev/fuse', os.O_RDWR)
if libc.mount(b'fuse', folder, b'fuse', 0, b'fd=%d,rootmode=40000,user_id=0,group_id=0' % fuse):
    sys.exit('mount')
told, tell = os.pipe()
holder = os.fork()
if holder == 0:
    libc.prctl(1, 9)
    os.close(fuse)
    os.dup2(os.open(folder + b'/file', os.O_RDONLY), 60)
    os.write(tell, b'x')
    while True: libc.pause()
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
while True: libc.pause()
";

#[test]
fn a_descriptor_on_a_dead_file_system_is_listed_without_waiting_for_it() {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new("/dev/fuse").exists() {
        println!("skipped: no /dev/fuse here, or not root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new("python3");
    server.args(["-c", DYING_SERVER]).arg(folder.path()).stderr(Stdio::piped());
    let Ok(server) = Running::try_start(&mut server) else {
        println!("skipped: FUSE cannot be mounted here");
        return;
    };
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
