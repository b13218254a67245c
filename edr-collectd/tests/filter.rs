//! Filters of the command line: a wrong one ends the command before anything is read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

/// Runs a command with a configuration file that does not exist; returns the exit code and both outputs.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_edr-collectd");
    let output =
        Command::new(program).args(["--config", "/nonexistent/collector.toml"]).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A configuration that cannot be read (78) shows that the command line was accepted.
const ACCEPTED: Option<i32> = Some(78);

#[test]
fn a_wrong_filter_ends_with_2_and_a_mark_under_the_fault() {
    let (code, stdout, stderr) = run(&["files", "--filter", "pid:812 foo:bar"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let start = "edr-collectd: there is no column `foo`\n  pid:812 foo:bar\n          ^^^\ncolumns: comm, pid, user,";
    assert!(stderr.starts_with(start), "{stderr}");
    for (arguments, message) in [
        (["processes", "pid:abc"], "`abc` is no value of `pid`"),
        (["sockets", "remote:localhost"], "`localhost` is no value of `remote_address`"),
        (["hosts", "hots:web"], "did you mean `Host`?"),
        (["psad", "foo:1"], "section exposed; --section prints a single section: there is no column `foo`"),
    ] {
        let (code, stdout, stderr) = run(&[arguments[0], "--filter", "x", "--filter", arguments[1]]);
        assert!(code == Some(2) && stdout.is_empty() && stderr.contains(message), "{arguments:?}: {stderr}");
    }
}

#[test]
fn filters_can_be_repeated() {
    let (code, ..) = run(&["processes", "--filter", "user:root", "--filter", "rss>100M or not unit:*"]);
    assert_eq!(code, ACCEPTED);
    assert_eq!(run(&["psad", "--section", "ports", "--filter", "port:1..1024"]).0, ACCEPTED);
    assert_eq!(run(&["psad", "--filter", "203.0.113.9"]).0, ACCEPTED, "a text is a filter of every section");
}

#[test]
fn a_wrong_column_or_moment_is_an_error_before_anything_is_read() {
    for arguments in [
        &["processes", "--columns", "pid,nope"][..],
        &["processes", "--sort", "nope"],
        &["processes", "--at", "soon"],
        &["hosts", "--columns", "nope"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert!(code == Some(2) && stdout.is_empty(), "{arguments:?}: {stderr}");
    }
}
