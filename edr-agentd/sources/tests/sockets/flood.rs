//! Floods of sockets of one user.

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use edr_sources::socket::SocketReader;
use edr_sources::{Budget, Source as _, Tick};
use edr_wire::snapshot::{Agent, Gap, SnapshotView, Socket};

use super::zoo::inode;
use super::{finish, until_ready};

/// 60,000 sockets of another user in processes of 1,000 sockets; `make` makes the socket number `k` of process `i`.
fn flood(make: &str) -> Option<Child> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can make sockets of another user");
        return None;
    }
    let program = format!(
        "import ctypes, os, signal, socket, sys
kids = []
for i in range(60):
    r, w = os.pipe()
    kid = os.fork()
    if kid == 0:
        ctypes.CDLL(None).prctl(1, 9)
        keep = []
        for k in range(1000):
            {make}
            keep.append(s)
        os.write(w, b'x')
        os.close(0)
        signal.pause()
    os.read(r, 1)
    os.close(r); os.close(w)
    kids.append(kid)
print('ready', flush=True)
sys.stdin.readline()
for kid in kids: os.kill(kid, 9)
for kid in kids: os.waitpid(kid, 0)"
    );
    let mut command = Command::new("prlimit");
    command.args(["--nofile=2000:2000", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    let child = command.args(["/usr/bin/python3", "-c", &program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    Some(until_ready(child.unwrap()))
}

/// Reads only the agent's own namespace.
fn read(reader: &mut SocketReader, budget: Budget) -> (Vec<Socket>, Vec<Gap>) {
    let mut tick = Tick::new(budget);
    reader.read(&mut tick);
    let view = SnapshotView::parse(tick.encode(&Agent::default())).unwrap();
    (view.sockets().collect::<Result<_, _>>().unwrap(), tick.gaps.take())
}

fn check(make: &str, budget: Budget) {
    let folder = tempfile::tempdir().unwrap();
    let before = UnixDatagram::unbound().unwrap();
    let Some(child) = flood(make) else { return };
    let listener = UnixListener::bind(folder.path().join("implant")).unwrap();
    let after = UnixDatagram::unbound().unwrap();
    let mut reader = SocketReader::open(Path::new("/proc")).unwrap();
    for _ in 0..2 {
        let (rows, gaps) = read(&mut reader, budget);
        for wanted in [inode(&before), inode(&listener), inode(&after)] {
            assert!(rows.iter().any(|row| row.inode == wanted), "{gaps:?}");
        }
        assert!(rows.iter().filter(|row| row.uid == Some(65_534)).count() > 5_000);
        let gap = gaps.iter().find(|gap| gap.field.to_string() == "rows: uid 65534");
        let gap = gap.unwrap_or_else(|| panic!("{gaps:?}"));
        assert!(gap.detail.starts_with("alarm: uid 65534: ") && gap.count > 5_000, "{gap:?}");
    }
    finish(child);
}

#[test]
fn unix_sockets_of_one_user_hide_no_socket_of_another() {
    check("s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)", Budget::default());
}

#[test]
fn listening_sockets_with_long_names_hide_no_socket_of_another() {
    // The room of a snapshot that is full of processes.
    let budget = Budget { rows_bytes: 6 << 20, ..Budget::default() };
    check(
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); s.bind('\\0%d-%d-%s' % (i, k, 'n' * 80)); s.listen()",
        budget,
    );
}
