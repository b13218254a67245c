//! A load for the agent: many idle processes with open descriptors or long command lines.
//!
//! `edr-load idle PROCESSES FILES` · `edr-load argv PROCESSES BYTES` · with `EDR_LOAD_WAIT` set: any name and
//! arguments, all ignored
//!
//! Prints `ready` when all processes have reached the final state, and ends with the standard input. The children end
//! with the parent.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write as _, pipe, stdin, stdout};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() -> Result<()> {
    if std::env::var_os("EDR_LOAD_WAIT").is_some() {
        return wait();
    }
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let number = |at: usize| -> Result<usize> {
        let text = args.get(at).and_then(|arg| arg.to_str()).unwrap_or_default();
        text.parse().with_context(|| format!("argument {} is no number: {text:?}", at + 1))
    };
    match args.first().and_then(|arg| arg.to_str()) {
        Some("idle") => {
            parent(number(1)?, |seed| Ok(vec!["child".into(), seed.to_string().into(), number(2)?.to_string().into()]))
        }
        Some("argv") => {
            let mut random = File::open("/dev/urandom").context("open /dev/urandom")?;
            let bytes = number(2)?;
            parent(number(1)?, |seed| {
                Ok(vec!["child".into(), seed.to_string().into(), "0".into(), random_arg(&mut random, bytes)?])
            })
        }
        Some("child") => child(number(1)?, number(2)?),
        _ => bail!("usage: edr-load idle PROCESSES FILES | edr-load argv PROCESSES BYTES"),
    }
}

/// Prints `ready` and waits.
fn wait() -> Result<()> {
    writeln!(stdout(), "ready").context("say so")?;
    let _ = stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// Starts the children and keeps them until the standard input ends.
fn parent(processes: usize, mut args: impl FnMut(usize) -> Result<Vec<OsString>>) -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let mut children = Children(Vec::with_capacity(processes));
    let mut ready = Vec::with_capacity(processes);
    for seed in 0..processes {
        let mut child = Command::new(&program)
            .args(args(seed)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a child")?;
        ready.extend(child.stdout.take());
        children.0.push(child);
    }
    for mut pipe in ready {
        let mut said = [0; 1];
        pipe.read_exact(&mut said).context("a child ended before it was ready")?;
    }
    writeln!(stdout(), "ready").context("say so")?;
    let _ = stdin().read_to_end(&mut Vec::new());
    Ok(())
}

/// The children. A child ends with its standard input, closed by the kernel when this process ends, also after SIGKILL.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

/// Opens `files` items of all kinds, starts four more threads, and waits.
fn child(seed: usize, files: usize) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of descriptors")?;
    let mut held = OpenItems::default();
    let paths = if files > 0 { some_files(Path::new("/usr/lib"), files * 2)? } else { Vec::new() };
    for n in 0..files {
        match n % 8 {
            0 => held.sockets.push(UnixStream::pair().context("make a socket pair")?),
            1 => held.pipes.push(pipe().context("make a pipe")?),
            2 => held.listeners.push(TcpListener::bind("127.0.0.1:0").context("listen")?),
            _ => {
                let path = &paths[(seed * 31 + n) % paths.len()];
                held.files.push(File::open(path).with_context(|| format!("open {}", path.display()))?);
            }
        }
    }
    if files > 0 {
        for _ in 0..4 {
            std::thread::spawn(std::thread::park);
        }
    }
    stdout().write_all(b"r").context("say so")?;
    stdout().flush().context("say so")?;
    let _ = stdin().read_to_end(&mut Vec::new());
    drop(held);
    Ok(())
}

/// The open items of a child.
#[derive(Default)]
struct OpenItems {
    sockets: Vec<(UnixStream, UnixStream)>,
    pipes: Vec<(std::io::PipeReader, std::io::PipeWriter)>,
    listeners: Vec<TcpListener>,
    files: Vec<File>,
}

/// Returns the first `count` regular files below a folder that can be opened.
fn some_files(root: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let mut folders = vec![root.to_owned()];
    let mut found = Vec::with_capacity(count);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() && File::open(entry.path()).is_ok() => found.push(entry.path()),
                _ => {}
            }
            if found.len() == count {
                return Ok(found);
            }
        }
    }
    ensure!(!found.is_empty(), "no file to open below {}", root.display());
    Ok(found)
}

/// Returns random bytes without NUL, as an argument.
fn random_arg(random: &mut File, bytes: usize) -> Result<OsString> {
    let mut arg = Vec::with_capacity(bytes);
    while arg.len() < bytes {
        let mut chunk = vec![0; bytes - arg.len()];
        random.read_exact(&mut chunk).context("read random bytes")?;
        // Only bytes from 0x80 on: no NUL, and no text like `password=…`, which would be redacted.
        arg.extend(chunk.into_iter().map(|byte| byte | 0x80));
    }
    Ok(OsString::from_vec(arg))
}
