use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::*;
use edr_wire::snapshot::{Gap, Reread, SnapshotParts, SnapshotView};

/// One reading as owned rows.
fn read(reader: &mut SocketReader) -> (Vec<Socket>, Vec<Gap>) {
    let (mut rows, mut gaps) = (Rows::default(), Gaps::default());
    reader.read(&mut rows, &mut gaps);
    (decode(&rows), gaps.take())
}

fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).unwrap().st_ino
}

#[test]
fn own_connection_is_listed_from_both_ends_with_its_inodes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut reader = SocketReader::open(Path::new("/proc")).unwrap();
    let (rows, _) = read(&mut reader);
    let port = u32::from(listener.local_addr().unwrap().port());
    let client_port = u32::from(client.local_addr().unwrap().port());
    let uid = Some(rustix::process::getuid().as_raw());
    let ends = |inode| {
        let row = rows.iter().find(|row| row.inode == inode).unwrap();
        assert_eq!((row.family, row.protocol.as_str(), row.uid), (Family::Inet, "tcp", uid));
        (row.state.as_str(), row.local.as_str(), row.local_port, row.remote.as_str(), row.remote_port)
    };
    assert_eq!(ends(inode(&listener)), ("listen", "127.0.0.1", port, "", 0));
    assert_eq!(ends(inode(&client)), ("established", "127.0.0.1", client_port, "127.0.0.1", port));
    assert_eq!(ends(inode(&server)), ("established", "127.0.0.1", port, "127.0.0.1", client_port));
}

fn decode(rows: &Rows) -> Vec<Socket> {
    let (host, agent, time, psad) = Default::default();
    let raw = SnapshotParts {
        host: &host,
        agent: &agent,
        time: &time,
        positions: &[],
        processes: &Rows::default(),
        sockets: rows,
        psad: &psad,
        packets: &[],
        reread: Reread::default(),
        gaps: &[],
    }
    .encode();
    SnapshotView::parse(raw).unwrap().sockets().collect::<Result<_, _>>().unwrap()
}
