//! Tests with strace that no daemon starts another program during a run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::daemons::{AgentPlan, CollectorPlan};
use edr_tests::psad::Replay;
use edr_tests::scene::Scene;
use libtest_mimic::Completion;

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(120);

/// Runs both daemons with psad's data, through a start, some pages and a stop.
pub(crate) fn no_daemon_executes_anything(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("exec", |scene| {
        let traces = [scene.path().join("agent.trace"), scene.path().join("collector.trace")];
        // The daemon keeps its pid (-D), so that signals reach the daemon and not strace. With the filter in the kernel
        // (--seccomp-bpf) only the traced calls are slowed down.
        let strace = |file: &Path| {
            let args = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", "trace=execve,execveat", "-o"];
            args.iter().map(Into::into).chain([file.into()]).collect::<Vec<_>>()
        };
        if !Command::new("strace")
            .args(["-qq", "-e", "trace=none", "true"])
            .status()
            .is_ok_and(|status| status.success())
        {
            return Ok(Completion::ignored_with("strace is missing or may not trace here"));
        }
        let broker = shared.broker()?.address();
        let mut replay = Replay::start(&scene.folder("psad")?)?;
        let mut plan = CollectorPlan::new(&scene.folder("collector")?, &broker, &topic)?;
        plan.behind = strace(&traces[1]);
        let mut collector = plan.start()?;
        let mut plan = AgentPlan::new(&scene.folder("agent")?, &broker, &topic);
        plan.behind = strace(&traces[0]);
        plan.psad_dir = replay.tree().dir.clone();
        plan.packet_log = Some(replay.tree().packet_log.clone());
        let mut agent = plan.start()?;

        let host = collector.host_path(LIMIT)?;
        for _ in 0..20 {
            replay.step()?;
        }
        for view in ["processes", "files", "sockets", "psad", "packets", "gaps"] {
            collector.page(&format!("{host}/{view}"), "a view", LIMIT, |_| true)?;
        }
        collector.plan.view(&["hosts"])?;
        agent.process.terminate(LIMIT)?;
        collector.process.terminate(LIMIT)?;
        for (trace, program) in traces.iter().zip(["edr-agentd", "edr-collectd"]) {
            only_itself(trace, program)?;
        }
        PASSED
    })
}

/// Checks that a trace has exactly one exec, successful and of the daemon. A failed exec would be an attempt.
fn only_itself(trace: &Path, program: &str) -> Result<()> {
    let text = std::fs::read_to_string(trace).with_context(|| format!("read {}", trace.display()))?;
    let calls: Vec<&str> = text.lines().filter(|line| line.contains("exec")).collect();
    ensure!(calls.len() == 1, "{program} executed:\n{}", calls.join("\n"));
    ensure!(calls[0].contains(program) && calls[0].ends_with("= 0"), "{program}: {}", calls[0]);
    Ok(())
}
