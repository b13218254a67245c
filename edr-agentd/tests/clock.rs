//! The state of the clock's synchronisation where adjtimex(2) is refused, as in the sandbox of the unit.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

use std::process::Command;

use edr_wire::snapshot::Snapshot;

#[test]
fn a_refused_call_is_never_a_no_and_unknown_has_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    std::fs::write(&config, "[kafka]\nbrokers = [\"127.0.0.1:1\"]\n").unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(dir.path().join("trace")).args(["-e", "trace=adjtimex,clock_adjtime"]);
    strace.args(["-e", "inject=adjtimex,clock_adjtime:error=EPERM", env!("CARGO_BIN_EXE_edr-agentd")]);
    let Ok(made) = strace.args(["snapshot", "--format", "json", "--config"]).arg(config).output() else {
        println!("skipped: strace is not installed");
        return;
    };
    let trace = std::fs::read_to_string(dir.path().join("trace")).unwrap_or_default();
    if !trace.contains("EPERM") {
        println!("skipped: strace may not trace here: {}", String::from_utf8_lossy(&made.stderr));
        return;
    }
    let snapshot: Snapshot = serde_json::from_slice(&made.stdout).unwrap();
    let gap = snapshot.gaps.iter().find(|gap| gap.field.as_ref() == b"time.synchronised");
    // A time daemon of this machine may confirm the synchronisation.
    match (snapshot.time.synchronised, gap) {
        (Some(true), None) => {}
        (None, Some(gap)) => {
            assert_eq!((gap.source.as_str(), gap.count), ("host", 1));
            assert!(gap.detail.starts_with("adjtimex(2) is refused; systemd-timesyncd: "), "{gap:?}");
        }
        other => panic!("{other:?}"),
    }
}
