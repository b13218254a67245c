//! Files whose names or links print like something else.

use edr_wire::Bytes;
use edr_wire::snapshot::FileKind;

use super::common::{ChildProgram, file, look};

/// A file in the root of the process may print like the memory of memfd_secret(2), and a name may print like a newline.
#[test]
fn secret_memory_is_memory_and_printed_names_are_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let running = ChildProgram::python(&format!(
        "import ctypes, mmap, os, sys
def at(fd, opened):
    os.dup2(opened, fd)
    os.close(opened)
os.chdir({:?})
secret = ctypes.CDLL(None).syscall(447, 0)
if secret >= 0:
    at(78, secret)
    os.ftruncate(78, 4096)
    memory = mmap.mmap(78, 4096)
maps = []
for n, name in enumerate(['a\\\\012b', 'c\\nd', 'e\\\\012f (deleted)', 'g']):
    at(80 + n, os.open(name, os.O_RDWR | os.O_CREAT))
    os.ftruncate(80 + n, 4096)
    maps.append(mmap.mmap(80 + n, 4096))
os.unlink('g')
print('ready', flush=True)
sys.stdin.read()",
        folder.path()
    ));
    let seen = look();
    let process = seen.process(running.pid());
    let root = folder.path().display();
    let mapped = |inode: u64| process.mapped.iter().find(|file| file.inode == inode).unwrap();
    for (fd, name, deleted) in
        [(80, "a\\012b", false), (81, "c\nd", false), (82, "e\\012f (deleted)", false), (83, "g", true)]
    {
        let found = mapped(file(process, fd).inode);
        assert_eq!((found.path.clone(), found.deleted), (Bytes::from(format!("{root}/{name}").as_bytes()), deleted));
    }
    if std::fs::metadata(format!("/proc/{}/fd/78", running.pid())).is_ok() {
        let secret = file(process, 78);
        assert_eq!((secret.kind, &secret.path), (FileKind::Memfd, &Bytes::from(b"secretmem")), "{secret:?}");
        assert_eq!(mapped(secret.inode).path, Bytes::from(b"/secretmem"));
    } else {
        println!("skipped: this kernel gives no secret memory");
    }
}
