//! `edr-agentd cost`: the reported system calls equal the calls seen by `strace`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says why it was skipped")]

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_edr-agentd");
/// An empty configuration, since this machine may have a configuration in /etc.
const EMPTY: [&str; 2] = ["--config", "/dev/null"];
/// Calls for memory, threads, measurement and the assertions of a debug build. None of these calls reads anything.
const BESIDE: [&str; 8] = ["mmap(", "munmap(", "brk(", "mremap(", "madvise(", "futex(", "clock_gettime(", "fcntl("];

fn cost(arguments: &[&str]) -> Value {
    let output = Command::new(AGENT).args(["cost", "--format", "json"]).args(EMPTY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn phase<'v>(cost: &'v Value, name: &str) -> &'v Value {
    cost["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == name).unwrap()
}

fn source<'v>(costs: &'v Value, name: &str) -> &'v Value {
    costs.as_array().unwrap().iter().find(|cost| cost["source"] == name).unwrap_or_else(|| panic!("{name}: {costs}"))
}

/// Runs the agent below strace. Returns the agent's output, and the calls of each thread. With `alone` the agent sees,
/// where allowed, only its own processes and its own network namespace.
fn traced(arguments: &[&str], alone: bool) -> Option<(Value, Vec<Vec<String>>)> {
    const ALONE: [&str; 6] = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "strace"];
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let words = if alone && nix::unistd::geteuid().is_root() { &ALONE[..] } else { &["strace"] };
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(["-ff", "-qqq", "--signal=none", "-o"])
        .arg(&trace)
        .arg(AGENT)
        .args(arguments)
        .args(EMPTY)
        .stderr(Stdio::inherit())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let threads = std::fs::read_dir(folder.path()).unwrap().map(|file| calls(&file.unwrap().path())).collect();
            Some((serde_json::from_slice(&output.stdout).unwrap(), threads))
        }
        Ok(output) => {
            println!("skipped: the agent below strace ended with {}", output.status);
            None
        }
        Err(error) => {
            println!("skipped: run strace: {error}");
            None
        }
    }
}

fn calls(trace: &Path) -> Vec<String> {
    let trace = std::fs::read(trace).unwrap();
    let lines = trace.split(|&b| b == b'\n').map(|line| String::from_utf8_lossy(line).into_owned());
    lines.filter(|line| line.contains('(') && !BESIDE.iter().any(|call| line.starts_with(call))).collect()
}

#[test]
fn every_system_call_that_reads_processes_is_counted() {
    let Some((snapshot, threads)) = traced(&["snapshot", "--format", "json"], false) else { return };
    let told = source(&snapshot["agent"]["cost"], "processes")["syscalls"].as_u64().unwrap();
    let reads = |calls: &&String| {
        ["openat(", "close(", "read(", "readlinkat(", "statx(", "getdents64("]
            .iter()
            .any(|call| calls.starts_with(call))
    };
    // The helper thread sets its name by prctl(2); the thread that watches reads the same name, too. More than one
    // helper where a read of this machine hangs: the thread is abandoned and a new thread continues.
    let is_helper = |call: &String| call.starts_with("prctl(") && call.contains("edr-processes");
    let helpers: Vec<&String> = threads.iter().filter(|calls| calls.iter().any(is_helper)).flatten().collect();
    let by_helper = helpers.iter().copied().filter(reads).count() as u64;
    // The caller lists the processes and reads passwd, group, its own counters and the boot time. While the pass takes
    // longer than 250 ms, each check of the thread adds 8 calls.
    let wall_ns = source(&snapshot["agent"]["cost"], "processes")["wall_ns"].as_u64().unwrap();
    let by_caller = 40 + 8 * (wall_ns / 250_000_000 + 2);
    assert!(
        (by_helper..=by_helper + by_caller).contains(&told),
        "told {told}, seen {by_helper}, {by_caller} by the caller"
    );
    assert!(by_helper > 20 * snapshot["processes"].as_array().unwrap().len() as u64 / 2);
    // No further calls of a reading kind.
    let others: Vec<&&String> = helpers.iter().filter(|call| call.contains("stat") && !reads(call)).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn every_system_call_that_reads_sockets_is_counted() {
    let Some((cost, threads)) = traced(&["cost", "--format", "json", "--rounds", "1", "--every", "0"], true) else {
        return;
    };
    let told = source(&phase(&cost, "between")["cost"], "sockets");
    // A thread for each other namespace reads the sockets there. These threads run between processes and psad, around
    // which the agent reads its own counters.
    let main =
        threads.iter().find(|calls| calls.iter().any(|call| call.contains("thread-self/net/protocols"))).unwrap();
    let first = main.iter().rposition(|call| call.contains("thread-self/net/protocols")).unwrap();
    let after = main[first..].iter().position(|call| call.contains("/proc/thread-self/io")).unwrap();
    assert_eq!(told["syscalls"], after, "{:#?}", &main[first..first + after]);
}

#[test]
fn each_kind_of_reading_costs_less_than_the_previous() {
    // Measured again when the machine lost or got many processes between the phases: then the phases read different
    // hosts.
    let cost = (0..10)
        .map(|_| cost(&["--rounds", "3", "--every", "0.2"]))
        .find(|cost| {
            let [first, last] = ["full", "between"]
                .map(|name| source(&phase(cost, name)["cost"], "processes")["produced"].as_u64().unwrap());
            first.abs_diff(last) <= 5
        })
        .expect("a machine whose processes stay for a second");
    let calls = |phase_name: &str| source(&phase(&cost, phase_name)["cost"], "processes")["syscalls"].as_u64().unwrap();
    assert!(calls("full") >= calls("steady"), "{cost}");
    let rows = |phase_name: &str, figure: &str| {
        source(&phase(&cost, phase_name)["cost"], "processes")[figure].as_u64().unwrap_or(0)
    };
    assert_eq!(rows("full", "carried"), 0);
    if std::fs::read_to_string("/proc/self/schedstat").is_ok_and(|text| !text.starts_with("0 0 0")) {
        assert!(rows("steady", "carried") > 0 && rows("between", "carried") >= rows("steady", "carried"), "{cost}");
        assert!(rows("between", "carried") < rows("between", "produced"), "this test itself ran");
    }
    for name in ["host", "processes", "sockets"] {
        let cost = source(&phase(&cost, "full")["cost"], name);
        assert!(
            cost["read_bytes"].as_u64().is_some_and(|bytes| bytes > 500) && cost["cpu_ns"].as_u64() > Some(0),
            "{cost}"
        );
    }
    let host = source(&phase(&cost, "full")["cost"], "host");
    assert_eq!(host.get("syscalls"), None, "its libraries make calls that nobody counts");
    // On a quiet machine a frame contains only the difference to the previous frame.
    for (stage, bytes) in [("encode", 1_000), ("frame", 100)] {
        assert!(source(&phase(&cost, "full")["cost"], stage)["produced"].as_u64() > Some(bytes), "{cost}");
    }
    assert!(cost["processes"].as_u64() > Some(0) && cost["open_files"].as_u64() > Some(2) && cost["rounds"] == 3);
}

#[test]
fn cost_prints_columns_and_refuses_invalid_arguments() {
    let output = Command::new(AGENT).args(["cost", "--rounds", "1", "--every", "0"]).args(EMPTY).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "full: every row",
        "steady: processes that ran",
        "between: only processes that ran",
        "SOURCE",
        "CALLS",
        "processes ",
        "sockets ",
    ] {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    for wrong in [["--rounds", "0"], ["--every", "-1"], ["--every", "x"], ["--every", "nan"]] {
        let output = Command::new(AGENT).arg("cost").args(wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
