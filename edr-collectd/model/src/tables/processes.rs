//! *process data*: the columns of `ps auxww`, and further values from `/proc`.

use edr_wire::snapshot::{Container, Host, Process};

use super::user;
use crate::as_of::AsOf;
use crate::catalogue::{About, Declaration, Field};
use crate::cell::Cell;
use crate::column::Mark;
use crate::snapshot::HostSnapshot;

/// The processes of a snapshot.
pub(super) struct Processes;

/// A process, with values of the snapshot.
pub(super) struct ProcessRow<'a> {
    host: &'a Host,
    process: &'a Process,
    as_of: &'a AsOf,
}

type ProcessField = Field<Processes>;

/// The state of the executable changes the meaning of its path and of the command line.
const EXE_STATE: Mark = Mark::Text { field: "exe_state" };

impl Declaration for Processes {
    type Input = HostSnapshot;
    type Row<'a> = ProcessRow<'a>;

    const ABOUT: About = About {
        name: "processes",
        slug: "processes",
        title: "Process data",
        noun: "processes",
        summary: "Processes of a host",
        hint: "Sampled: processes that live only between two snapshots are missing.",
        aged: Some("Rows"),
        ..About::NONE
    };

    const FIELDS: &'static [ProcessField] = &[
        ProcessField::number("pid", "PID", |row| Cell::number(row.process.pid))
            .also(&["process_id"])
            .ecs("process.pid")
            .key()
            .usual()
            .link("files", "pid"),
        ProcessField::number("parent", "PPID", |row| Cell::number(row.process.ppid))
            .also(&["parent_pid"])
            .ecs("process.parent.pid")
            .usual()
            .link("processes", "pid")
            .meaning("Process id of the parent; 0 for none."),
        ProcessField::text("user", "User", |row| user(row.process))
            .also(&["username", "owner"])
            .ecs("process.user.name")
            .usual()
            .meaning("Name of the effective uid, or the uid without a name."),
        ProcessField::percent("cpu_percent", "CPU %", |row| cpu_percent(row.host, row.process))
            .also(&["pcpu"])
            .usual()
            .changing()
            .meaning("CPU time divided by life time, as in ps(1)."),
        ProcessField::percent("memory_percent", "Mem %", |row| {
            Cell::percent(resident_bytes(row), row.host.memory_bytes)
        })
        .also(&["pmem"])
        .on_terminal()
        .changing()
        .meaning("Resident memory divided by the memory of the host."),
        ProcessField::size("total_size", "VSZ", |row| Cell::Size(row.process.vsize_bytes))
            .also(&["vsize", "virtual"])
            .meaning("Virtual memory."),
        ProcessField::size("resident_size", "RSS", |row| Cell::Size(resident_bytes(row)))
            .also(&["memory", "resident"])
            .ecs("edr.process.memory.rss")
            .usual()
            .changing()
            .meaning("Resident memory."),
        ProcessField::text("tty", "TTY", |row| tty(row.process.tty))
            .also(&["terminal"])
            .ecs("process.tty.char_device")
            .on_terminal(),
        ProcessField::text("state", "State", |row| Cell::bytes(state(row.process)))
            .also(&["stat", "status"])
            .letters("DIKPRSTWXZtx<NLsl+")
            .ecs("edr.process.state")
            .usual()
            .changing()
            .meaning("Column STAT of ps(1)."),
        ProcessField::time("start_time", "Started", |row| Cell::nonzero_time(row.process.start_time_ns))
            .also(&["start", "since"])
            .ecs("process.start")
            .usual(),
        ProcessField::duration("cpu_time", "CPU time", |row| cpu_time(row.host, row.process))
            .also(&["time"])
            .ecs("edr.process.cpu")
            .on_terminal()
            .on_page()
            .changing()
            .meaning("User and system time."),
        ProcessField::number("files_total", "Open files", |row| Cell::optional(row.process.files_total))
            .also(&["fds", "files"])
            .ecs("edr.process.files_total")
            .unit("files")
            .on_page()
            .meaning("Open descriptors, listed or not."),
        ProcessField::bytes("name", "Name", |row| Cell::bytes(&row.process.comm))
            .also(&["comm", "command", "process"])
            .ecs("process.name")
            .usual()
            .meaning("`comm` of proc(5)."),
        ProcessField::list("cmdline", "Command line", |row| Cell::list(row.process.argv.clone()))
            .also(&["argv", "args", "arguments", "cmd", "command"])
            .ecs("process.args")
            .usual()
            .code()
            .mark(EXE_STATE)
            .meaning("One element for each argument; secrets are redacted."),
        ProcessField::bytes("path", "Executable", |row| {
            row.process.exe.as_ref().map_or(Cell::Empty, |exe| Cell::bytes(&exe.path))
        })
        .also(&["exe", "binary"])
        .ecs("process.executable")
        .code()
        .mark(EXE_STATE),
        ProcessField::text("exe_state", "Executable is", |row| Cell::bytes(exe_state(row.process)))
            .words(&["deleted", "in memory", "kernel thread"])
            .ecs("edr.process.exe.deleted")
            .meaning("`deleted`, `in memory` or `kernel thread`; empty for a file with a name."),
        ProcessField::text("sha256", "SHA-256", |row| sha256(row.process))
            .also(&["hash"])
            .letters("0123456789abcdef")
            .ecs("process.hash.sha256")
            .meaning("Hash of the executable."),
        ProcessField::bytes("cwd", "Directory", |row| row.process.cwd.as_ref().map_or(Cell::Empty, Cell::bytes))
            .also(&["working_directory"])
            .ecs("process.working_directory")
            .code(),
        ProcessField::text("unit", "Unit", |row| row.process.unit.as_ref().map_or(Cell::Empty, Cell::bytes))
            .also(&["service"])
            .ecs("edr.systemd.unit"),
        ProcessField::text("container", "Container", |row| container(row.process)).ecs("container.id").meaning(
            "`runtime:id`; `claimed runtime:id` where a user, a service or another container chose the name, and \
                 perhaps no container exists.",
        ),
        ProcessField::number("euid", "UID", |row| Cell::number(row.process.uids[1]))
            .ecs("process.user.id")
            .meaning("Effective uid."),
        ProcessField::number("loginuid", "Login UID", |row| Cell::optional(row.process.loginuid))
            .also(&["auid"])
            .ecs("edr.process.loginuid"),
        ProcessField::text("capabilities", "Capabilities", |row| capabilities(row.process))
            .also(&["caps"])
            .letters("0123456789abcdef")
            .ecs("process.thread.capabilities.effective")
            .meaning("Effective set, hexadecimal."),
        ProcessField::number("threads", "Threads", |row| Cell::number(row.process.threads))
            .also(&["nlwp"])
            .ecs("edr.process.threads")
            .unit("threads"),
        ProcessField::size("disk_bytes_read", "Read", |row| {
            row.process.io.map_or(Cell::Empty, |io| Cell::Size(io.read_bytes))
        })
        .ecs("edr.process.io.read_bytes")
        .changing()
        .meaning("Fetched from storage."),
        ProcessField::size("disk_bytes_written", "Written", |row| {
            row.process.io.map_or(Cell::Empty, |io| Cell::Size(io.write_bytes))
        })
        .ecs("edr.process.io.write_bytes")
        .changing()
        .meaning("Sent to storage."),
        ProcessField::number("start_ticks", "Start ticks", |row| Cell::number(row.process.start_ticks))
            .ecs("process.entity_id")
            .key()
            .meaning("Start in clock ticks since the boot: with `pid` the identity of the process in the boot."),
        ProcessField::text("incomplete", "Not readable", |row| Cell::bytes(row.process.incomplete.join(" ")))
            .ecs("edr.process.incomplete")
            .meaning(
                "Names of the fields that could not be read, or that were shortened because the owner's share of the \
                 snapshot was used up.",
            ),
        ProcessField::time("as_of", "As of", |row| row.as_of.cell(row.process))
            .ecs("edr.process.as_of")
            .changing()
            .meaning("The row was read at this time or later."),
    ];

    fn rows(snapshot: &HostSnapshot, take: &mut dyn FnMut(&ProcessRow<'_>)) -> usize {
        let host = snapshot.view.host().unwrap_or_default();
        let as_of = AsOf::new(snapshot);
        let mut undecodable = 0;
        for process in snapshot.view.processes() {
            match process {
                Ok(process) => take(&ProcessRow { host: &host, process: &process, as_of: &as_of }),
                Err(_) => undecodable += 1,
            }
        }
        undecodable
    }
}

fn resident_bytes(row: &ProcessRow<'_>) -> u64 {
    row.process.rss_pages.saturating_mul(row.host.page_bytes)
}

fn exe_state(process: &Process) -> &'static str {
    match &process.exe {
        Some(exe) if exe.memfd => "in memory",
        Some(exe) if exe.deleted => "deleted",
        _ if process.kernel_thread => "kernel thread",
        _ => "",
    }
}

fn sha256(process: &Process) -> Cell {
    let hash = process.exe.as_ref().and_then(|exe| exe.sha256.as_ref());
    hash.map_or(Cell::Empty, |hash| Cell::Text(hash.0.iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn container(process: &Process) -> Cell {
    let text = |c: &Container| format!("{}{}:{}", if c.claimed { "claimed " } else { "" }, c.runtime, c.id);
    process.container.as_ref().map_or(Cell::Empty, |c| Cell::bytes(text(c)))
}

fn capabilities(process: &Process) -> Cell {
    match process.capabilities.effective {
        0 => Cell::Empty,
        effective => Cell::Text(format!("{effective:x}")),
    }
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
    Cell::percent(p.utime_ticks.saturating_add(p.stime_ticks), lived)
}

fn cpu_time(host: &Host, p: &Process) -> Cell {
    let ticks = u128::from(p.utime_ticks) + u128::from(p.stime_ticks);
    match (ticks * 1_000_000_000).checked_div(host.ticks_per_second.into()) {
        Some(ns) => Cell::Duration(u64::try_from(ns).unwrap_or(u64::MAX)),
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
