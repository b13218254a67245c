//! Without rights the source continues and reports the invisible fields. Each test runs itself again with fewer rights.

use std::path::Path;
use std::process::Command;

use edr_sources::{Source as _, Tick};
use edr_wire::snapshot::GapReason;

use super::common::{look, reader};

/// Sources that this process cannot read.
fn degraded() -> Vec<String> {
    let mut tick = Tick::default();
    reader().read(&mut tick);
    edr_sources::process::degraded(Path::new("/proc"), &tick.access)
}

/// Set in the process with fewer rights.
const INSIDE: &str = "EDR_TEST_WITHOUT_RIGHTS";

/// Runs the test `name` again below `wrapper`; true inside the second run.
pub(crate) fn again(name: &str, wrapper: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can give rights away");
        return false;
    }
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
    let output = match command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: run {}: {error}", wrapper[0]);
            return false;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare failed") || said.contains("Permission denied (os error") {
        println!("skipped: {said}");
        return false;
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| println!("{line}"));
    false
}

#[test]
fn root_with_all_capabilities_has_no_missing_capability() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    assert!(!degraded().iter().any(|reason| reason.contains("missing")));
}

#[test]
fn missing_descriptors_of_another_user_are_reported() {
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
    if !again("rights::missing_descriptors_of_another_user_are_reported", &nobody) {
        return;
    }
    let reasons = degraded();
    assert_eq!(
        reasons[0],
        "degraded: no descriptors of other users' processes (CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH missing); run as \
        root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
    );
    let seen = look();
    let init = seen.process(1);
    assert!(init.start_ticks < u64::MAX && !init.comm.is_empty() && init.uids[1] == 0);
    assert!(init.incomplete.contains(&"files".to_owned()) && init.incomplete.contains(&"exe".to_owned()), "{init:?}");
    assert_eq!(init.files_total, None);
    assert!(seen.gaps.iter().any(|gap| gap.source == "files" && gap.reason == GapReason::Denied && gap.count > 1));
    // The test's own fields are complete.
    let own = seen.process(std::process::id());
    assert!(own.incomplete.is_empty() && own.files_total.is_some_and(|files| files > 3), "{own:?}");
}

#[test]
fn each_missing_capability_is_named() {
    let half = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", "--"];
    if !again("rights::each_missing_capability_is_named", &half) {
        return;
    }
    let reasons = degraded();
    assert!(reasons[0].starts_with("degraded: no descriptors of other users' processes (CAP_SYS_PTRACE missing);"));
}

#[test]
fn a_user_namespace_takes_the_worth_of_capabilities() {
    let unshared = ["unshare", "--user", "--map-root-user", "--"];
    if !again("rights::a_user_namespace_takes_the_worth_of_capabilities", &unshared) {
        return;
    }
    let reasons = degraded();
    assert!(
        reasons[0].starts_with("degraded: no descriptors of processes outside of this user namespace"),
        "{reasons:?}"
    );
}

#[test]
fn a_pid_namespace_and_hidden_processes_are_reported() {
    let script = "mount -t proc -o hidepid=2 proc /proc && (sleep 60 &) && exec setpriv --reuid=65534 --regid=65534 \
    --clear-groups \
        --bounding-set=-all --inh-caps=-all \"$@\"";
    let unshared = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh"];
    if !again("rights::a_pid_namespace_and_hidden_processes_are_reported", &unshared) {
        return;
    }
    let reasons = degraded();
    assert!(reasons.iter().any(|reason| reason.contains("are hidden (/proc is mounted with hidepid=")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("outside of this pid namespace")), "{reasons:?}");
    let seen = look();
    assert!(!seen.processes.is_empty() && seen.processes.iter().all(|process| process.uids[0] == 65534));
}
