//! A snapshot as columns, for people: the data of `ps auxww`, `lsof` and `ss` at one moment.

use std::collections::BTreeMap;
use std::io::{self, Write};

use edr_wire::snapshot::{Attacker, FileKind, Process, Psad, ScannedPort, SnapshotView, Socket, TopSignature};
use edr_wire::visible;

/// Prints the whole snapshot.
pub(super) fn snapshot(view: &SnapshotView, out: &mut impl Write) -> anyhow::Result<()> {
    let (host, time) = (view.host()?, view.time()?);
    let hostname = visible(host.hostname.as_bytes());
    writeln!(out, "{hostname}  {}  host id {}", self::time(time.wall_ns), host.host_id)?;
    writeln!(
        out,
        "{}, {}, {}; {} processors, {} MiB memory, {} MiB available; load {}",
        visible(host.os.as_bytes()),
        visible(host.kernel.as_bytes()),
        visible(host.arch.as_bytes()),
        host.cpus,
        host.memory_bytes >> 20,
        host.memory_available_bytes >> 20,
        host.load_hundredths.map(|load| format!("{}.{:02}", load / 100, load % 100)).join(" "),
    )?;
    for degraded in view.agent()?.degraded {
        writeln!(out, "{degraded}")?;
    }
    // Processes are decoded in turn, so that a snapshot of 24 MiB needs no memory beyond its bytes.
    let mut owners: BTreeMap<u64, (u32, String)> = BTreeMap::new();
    writeln!(out, "\nprocesses: {}", view.process_count())?;
    writeln!(
        out,
        "{:>8} {:>8} {:<12} {:<1} {:>5} {:>9} {:>7} {:<16} COMMAND",
        "PID", "PPID", "USER", "S", "THR", "RSS KiB", "FILES", "STARTED"
    )?;
    for process in view.processes() {
        let process = process?;
        for file in process.files.iter().filter(|file| file.kind == FileKind::Socket) {
            owners.entry(file.inode).or_insert_with(|| (process.pid, visible(process.comm.as_ref())));
        }
        print_process(&process, host.page_bytes, out)?;
    }
    writeln!(out, "\nopen files")?;
    writeln!(out, "{:>8} {:<15} {:>5} {:<4} {:<10} {:>12} NAME", "PID", "COMM", "FD", "ACC", "KIND", "SIZE/OFF")?;
    for process in view.processes() {
        print_files(&process?, out)?;
    }
    writeln!(out, "\nsockets: {}", view.socket_count())?;
    writeln!(
        out,
        "{:<8} {:<9} {:<12} {:<46} {:<46} {:>8} OWNER",
        "FAMILY", "PROTOCOL", "STATE", "LOCAL", "REMOTE", "UID"
    )?;
    for socket in view.sockets() {
        let socket = socket?;
        print_socket(&socket, owners.get(&socket.inode), out)?;
    }
    print_psad(&view.psad()?, view.packets()?.len(), out)?;
    let gaps = view.gaps()?;
    writeln!(out, "\nnot seen: {}", gaps.len())?;
    for gap in gaps {
        let (field, detail) = (visible(gap.field.as_ref()), visible(gap.detail.as_bytes()));
        writeln!(out, "{:<10} {:<24} {:<12} {:>6} {detail}", gap.source, field, word(&gap.reason), gap.count)?;
    }
    Ok(())
}

/// `2026-11-24 08:21:07.123 UTC`.
pub(super) fn time(ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(ns.into()) {
        Ok(time) => format!("{}", time.strftime("%Y-%m-%d %H:%M:%S.%3f UTC")),
        Err(_) => format!("{ns} ns"),
    }
}

fn print_process(process: &Process, page_bytes: u64, out: &mut impl Write) -> io::Result<()> {
    let user = process.user.clone().unwrap_or_else(|| process.uids[1].to_string());
    let argv: Vec<String> = process.argv.iter().map(|argument| visible(argument.as_ref())).collect();
    let comm = visible(process.comm.as_ref());
    let command = if argv.is_empty() { format!("[{comm}]") } else { argv.join(" ") };
    let files = process.files_total.map_or_else(|| "?".to_owned(), |files| files.to_string());
    let started = time(process.start_time_ns);
    writeln!(
        out,
        "{:>8} {:>8} {:<12} {} {:>5} {:>9} {files:>7} {:<16} {command}",
        process.pid,
        process.ppid,
        visible(user.as_bytes()),
        visible(process.state.encode_utf8(&mut [0; 4]).as_bytes()),
        process.threads,
        process.rss_pages.saturating_mul(page_bytes) >> 10,
        started.get(..16).unwrap_or(&started),
    )
}

fn print_files(process: &Process, out: &mut impl Write) -> io::Result<()> {
    let comm = visible(process.comm.as_ref());
    for file in &process.files {
        let deleted = if file.deleted { " (deleted)" } else { "" };
        let name = match file.kind {
            FileKind::Socket | FileKind::Pipe if file.path.is_empty() => {
                format!("{}:[{}]", word(&file.kind), file.inode)
            }
            _ => visible(file.path.as_ref()),
        };
        let place = if file.kind == FileKind::Regular { file.size } else { file.offset };
        writeln!(
            out,
            "{:>8} {comm:<15} {:>5} {:<4} {:<10} {place:>12} {name}{deleted}",
            process.pid,
            file.fd.to_string(),
            word(&file.access),
            word(&file.kind),
        )?;
    }
    Ok(())
}

fn print_socket(socket: &Socket, owner: Option<&(u32, String)>, out: &mut impl Write) -> io::Result<()> {
    let endpoint = |address: &str, port: u32| match address {
        "" if port == 0 => "*".to_owned(),
        "" => format!("*:{port}"),
        address if address.contains(':') => format!("[{address}]:{port}"),
        address => format!("{address}:{port}"),
    };
    let local =
        if socket.path.is_empty() { endpoint(&socket.local, socket.local_port) } else { visible(socket.path.as_ref()) };
    let owner = owner.map_or_else(|| "-".to_owned(), |(pid, comm)| format!("{pid} {comm}"));
    writeln!(
        out,
        "{:<8} {:<9} {:<12} {:<46} {:<46} {:>8} {owner}",
        word(&socket.family),
        socket.protocol,
        socket.state,
        local,
        endpoint(&socket.remote, socket.remote_port),
        socket.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string()),
    )
}

fn print_psad(psad: &Psad, packets: usize, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "\npsad: mode {}, {}; {packets} packets logged since the last reading",
        word(&psad.mode),
        word(&psad.state)
    )?;
    if !psad.top_signatures.is_empty() {
        writeln!(
            out,
            "\nTop 50 signature matches\n{:>8} {:>10} {:>8} {:<6} MESSAGE",
            "SID", "MATCHES", "SOURCES", "PROTO"
        )?;
    }
    for TopSignature { sid, msg, matches, sources, protocol } in psad.top_signatures.iter().take(50) {
        writeln!(out, "{sid:>8} {matches:>10} {sources:>8} {protocol:<6} {}", visible(msg.as_ref()))?;
    }
    if !psad.top_attackers.is_empty() {
        writeln!(
            out,
            "\nTop 25 attackers\n{:<40} {:>2} {:>10} {:>10} {:>10}",
            "ADDRESS", "DL", "PACKETS", "SIGNATURES", "MATCHES"
        )?;
    }
    for attacker in psad.top_attackers.iter().take(25) {
        let Attacker { ip, danger_level, packets, unique_signatures, signature_matches, .. } = attacker;
        let ip = visible(ip.as_bytes());
        writeln!(out, "{ip:<40} {danger_level:>2} {packets:>10} {unique_signatures:>10} {signature_matches:>10}")?;
    }
    if !psad.top_ports.is_empty() {
        writeln!(out, "\nTop 20 scanned ports\n{:<6} {:>5} {:>10}", "PROTO", "PORT", "PACKETS")?;
    }
    for ScannedPort { protocol, port, packets } in psad.top_ports.iter().take(20) {
        writeln!(out, "{:<6} {port:>5} {packets:>10}", visible(protocol.as_bytes()))?;
    }
    if !psad.prefix_counters.is_empty() {
        writeln!(out, "\niptables log prefix counters")?;
    }
    for counter in &psad.prefix_counters {
        writeln!(out, "{:>10} {}", counter.packets, visible(counter.prefix.as_ref()))?;
    }
    Ok(())
}

/// The name of a value on the wire.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}
