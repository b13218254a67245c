//! *process data*: the columns of `ps auxww`, and further values from `/proc`.

use edr_wire::snapshot::{Host, Process};

use super::{AsOf, Cell, Column, Emit, HostSnapshot};

pub(super) const COLUMNS: &[Column] = &[
    Column::number("pid", "PID", "process.pid"),
    Column::number("ppid", "PPID", "process.parent.pid"),
    Column::text("user", "User", "process.user.name"),
    Column::number("cpu_percent", "CPU %", ""),
    Column::number("memory_percent", "Mem %", ""),
    Column::number("vsize_bytes", "VSZ", ""),
    Column::number("rss_bytes", "RSS", "edr.process.memory.rss"),
    Column::text("tty", "TTY", "process.tty.char_device"),
    Column::text("state", "State", "edr.process.state"),
    Column::number("start_time", "Started", "process.start"),
    Column::number("cpu_time", "CPU time", "edr.process.cpu"),
    Column::text("comm", "Name", "process.name"),
    Column::text("argv", "Command line", "process.args"),
    Column::text("exe", "Executable", "process.executable"),
    Column::text("exe_state", "Executable is", "edr.process.exe.deleted"),
    Column::text("sha256", "SHA-256", "process.hash.sha256"),
    Column::text("cwd", "Directory", "process.working_directory"),
    Column::text("unit", "Unit", "edr.systemd.unit"),
    Column::text("container", "Container", "container.id"),
    Column::number("uid", "UID", "process.user.id"),
    Column::number("loginuid", "Login UID", "edr.process.loginuid"),
    Column::text("capabilities", "Capabilities", "process.thread.capabilities.effective"),
    Column::number("threads", "Threads", ""),
    Column::number("files_total", "Open files", ""),
    Column::number("read_bytes", "Read", "edr.process.io.read_bytes"),
    Column::number("write_bytes", "Written", "edr.process.io.write_bytes"),
    Column::number("start_ticks", "Start ticks", "process.entity_id"),
    Column::text("incomplete", "Not readable", ""),
    Column::number("as_of", "As of", "edr.process.as_of"),
];

pub(super) fn rows(snapshot: &HostSnapshot, emit: &mut Emit<'_>) -> usize {
    let host = snapshot.view.host().unwrap_or_default();
    let as_of = AsOf::new(snapshot);
    let mut undecodable = 0;
    for process in snapshot.view.processes() {
        match process {
            Ok(process) => emit(&|| row(&host, &process, &as_of)),
            Err(_) => undecodable += 1,
        }
    }
    undecodable
}

fn row(host: &Host, p: &Process, as_of: &AsOf) -> Vec<Cell> {
    let rss_bytes = p.rss_pages.saturating_mul(host.page_bytes);
    let exe = p.exe.as_ref();
    vec![
        Cell::number(p.pid),
        Cell::number(p.ppid),
        user(p),
        cpu_percent(host, p),
        percent(rss_bytes, host.memory_bytes),
        Cell::Size(p.vsize_bytes),
        Cell::Size(rss_bytes),
        tty(p.tty),
        Cell::bytes(state(p)),
        if p.start_time_ns == 0 { Cell::Empty } else { Cell::Time(p.start_time_ns) },
        cpu_time(host, p),
        Cell::bytes(&p.comm),
        if p.argv.is_empty() { Cell::Empty } else { Cell::List(p.argv.clone()) },
        exe.map_or(Cell::Empty, |exe| Cell::bytes(&exe.path)),
        Cell::bytes(match exe {
            Some(exe) if exe.memfd => "in memory",
            Some(exe) if exe.deleted => "deleted",
            _ if p.kernel_thread => "kernel thread",
            _ => "",
        }),
        exe.and_then(|exe| exe.sha256.as_ref()).map_or(Cell::Empty, |hash| Cell::Text(hex(&hash.0))),
        p.cwd.as_ref().map_or(Cell::Empty, Cell::bytes),
        p.unit.as_ref().map_or(Cell::Empty, Cell::bytes),
        p.container.as_ref().map_or(Cell::Empty, |c| Cell::bytes(format!("{}:{}", c.runtime, c.id))),
        Cell::number(p.uids[1]),
        Cell::optional(p.loginuid),
        if p.capabilities.effective == 0 { Cell::Empty } else { Cell::Text(format!("{:x}", p.capabilities.effective)) },
        Cell::number(p.threads),
        Cell::optional(p.files_total),
        p.io.map_or(Cell::Empty, |io| Cell::Size(io.read_bytes)),
        p.io.map_or(Cell::Empty, |io| Cell::Size(io.write_bytes)),
        Cell::number(p.start_ticks),
        Cell::bytes(p.incomplete.join(" ")),
        as_of.cell(p),
    ]
}

/// Returns the user's name, or the uid when the host has no name for it.
pub(super) fn user(p: &Process) -> Cell {
    p.user.as_ref().map_or_else(|| Cell::Text(p.uids[1].to_string()), Cell::bytes)
}

/// Returns the column STAT of ps(1): the state letter and `<` (nice below 0), `N` (nice above 0), `L` (locked pages),
/// `s` (session leader), `l` (several threads), `+` (in the foreground).
fn state(p: &Process) -> String {
    let marks = [
        (p.nice < 0, '<'),
        (p.nice > 0, 'N'),
        (p.locked, 'L'),
        (p.sid == p.pid, 's'),
        (p.threads > 1, 'l'),
        (p.tpgid > 0 && u32::try_from(p.tpgid) == Ok(p.pgid), '+'),
    ];
    let marks = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark);
    std::iter::once(p.state).chain(marks).collect()
}

/// Returns CPU time divided by life time, like ps(1).
fn cpu_percent(host: &Host, p: &Process) -> Cell {
    let lived = host.uptime_ticks.saturating_sub(p.start_ticks);
    percent(p.utime_ticks.saturating_add(p.stime_ticks), lived)
}

fn cpu_time(host: &Host, p: &Process) -> Cell {
    let ticks = u128::from(p.utime_ticks) + u128::from(p.stime_ticks);
    match (ticks * 1_000_000_000).checked_div(host.ticks_per_second.into()) {
        Some(ns) => Cell::Duration(u64::try_from(ns).unwrap_or(u64::MAX)),
        None => Cell::Empty,
    }
}

fn percent(part: u64, whole: u64) -> Cell {
    match (u128::from(part) * 10_000).checked_div(whole.into()) {
        Some(hundredths) => Cell::Hundredths(i64::try_from(hundredths).unwrap_or(i64::MAX)),
        None => Cell::Empty,
    }
}

/// Returns the name of a terminal from its device number in `/proc/PID/stat` (proc(5): minor in bits 31–20 and 7–0,
/// major in 15–8).
fn tty(device: u32) -> Cell {
    let major = (device >> 8) & 0xff;
    let minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    Cell::bytes(match major {
        _ if device == 0 => String::new(),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        // A major number has 256 pseudo terminals (Documentation/admin-guide/devices.txt).
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
