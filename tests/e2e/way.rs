//! The whole way of the data: from a process on this host to the page and the commands.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::browser::Browser;
use edr_tests::daemons::{AgentPlan, CollectorDaemon, CollectorPlan};
use edr_tests::http::text_of;
use edr_tests::load::{COMM, Hostile, SCRIPT, TITLE};
use edr_tests::scene::Scene;
use edr_tests::wait;
use libtest_mimic::Completion;

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

/// Time limit from a tick to the page, on a busy machine with two cores.
const LIMIT: Duration = Duration::from_secs(60);

/// Markup in `comm`, in arguments and in paths must appear as text in every view, never as an element of the page.
pub(crate) fn a_hostile_process_is_text(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("hostile", |scene| {
        let (broker, hostile) = (shared.broker()?.address(), Hostile::start(scene.path())?);
        let mut collector = CollectorPlan::new(&scene.folder("collector")?, &broker, &topic)?.start()?;
        let _agent = AgentPlan::new(&scene.folder("agent")?, &broker, &topic).start()?;
        let host = collector.host_path(LIMIT)?;

        let pid = hostile.process.pid();
        let comm = edr_wire::visible(COMM);
        let (exe, deleted) = (hostile.exe.display().to_string(), hostile.deleted.display().to_string());
        let port = hostile.port.to_string();
        let all = "columns=all&";
        // The page quotes an argument like a shell, which changes the text from the first single quotation mark on.
        let title = TITLE.split('\'').next().unwrap_or(TITLE);
        let views = [
            (format!("{host}/processes?{all}filter=pid:{pid}"), vec![comm.as_str(), SCRIPT, title, &exe]),
            (format!("{host}/files?{all}filter=pid:{pid}"), vec![comm.as_str(), &exe, &deleted]),
            (format!("{host}/sockets?{all}filter=local_port:{port}"), vec![comm.as_str(), "127.0.0.1", &port]),
        ];
        for (path, texts) in &views {
            let html = collector.page(path, "the hostile process", LIMIT, |body| {
                let text = text_of(body);
                texts.iter().all(|wanted| text.contains(wanted))
            })?;
            no_element_of_theirs(&html).with_context(|| format!("in {path}"))?;
        }

        let answer = collector.get(&views[0].0)?;
        let policy = answer.header("content-security-policy").context("the page has no Content-Security-Policy")?;
        ensure!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "its policy is {policy:?}");
        ensure!(answer.header("x-content-type-options") == Some("nosniff"), "the type of a page may be guessed");

        let Some(browser) = Browser::find() else {
            return Ok(Completion::ignored_with("no browser here: HTML was checked, not what a browser makes of it"));
        };
        for (path, texts) in &views {
            // A test in parallel may delay a snapshot's reads; the next snapshot has the missing rows.
            let document = wait::until(&format!("the browser to show {texts:?} in {path}"), LIMIT, || {
                let document = browser.document(&collector.plan.url(path))?;
                let text = text_of(&document);
                Ok(texts.iter().all(|wanted| text.contains(wanted)).then_some(document))
            })?;
            no_element_of_theirs(&document).with_context(|| format!("in the browser's {path}"))?;
            ensure!(!document.contains("<title>owned"), "a script of the host ran in {path}");
        }
        PASSED
    })
}

/// Checks that no markup of the hostile process became an element, in the HTML as sent or in a browser's document.
fn no_element_of_theirs(html: &str) -> Result<()> {
    for element in ["<script>", "<b>)", "<img", "<svg onload"] {
        ensure!(!html.contains(element), "{element} is an element of the page");
    }
    Ok(())
}

/// The commands must print the same data as the page, byte for byte.
pub(crate) fn the_commands_agree(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("commands", |scene| {
        let (broker, hostile) = (shared.broker()?.address(), Hostile::start(scene.path())?);
        let mut collector = CollectorPlan::new(&scene.folder("collector")?, &broker, &topic)?.start()?;
        let _agent = AgentPlan::new(&scene.folder("agent")?, &broker, &topic).start()?;
        let host = collector.host_path(LIMIT)?;
        let pid = hostile.process.pid();
        collector.page(&format!("{host}/processes?filter=pid:{pid}"), "the process", LIMIT, |body| {
            text_of(body).contains(&edr_wire::visible(COMM))
        })?;
        collector.plan.archived_hosts(LIMIT)?;
        from_the_archive(&collector, &hostile)?;
        // The archive must be readable without the daemon, too.
        collector.process.terminate(Duration::from_secs(10))?;
        from_the_archive(&collector, &hostile)?;
        PASSED
    })
}

fn from_the_archive(collector: &CollectorDaemon, hostile: &Hostile) -> Result<()> {
    let hosts = collector.plan.view(&["hosts"])?;
    let name = hosts[0]["hostname"].as_str().context("hosts has no hostname")?.to_owned();
    let row = |view: &str, fits: &dyn Fn(&serde_json::Value) -> bool| {
        let rows = collector.plan.view(&[view, "--host", &name])?;
        let rows = rows.as_array().with_context(|| format!("{view} is no list"))?;
        rows.iter().find(|row| fits(row)).cloned().with_context(|| format!("{view} has no such row"))
    };
    let pid = hostile.process.pid();
    let process = row("processes", &|row| row["pid"] == pid)?;
    ensure!(process["name"] == edr_wire::escaped(COMM), "name is {}", process["name"]);
    ensure!(process.to_string().contains("<script>alert(1)</script>"), "no script among {process}");
    let deleted = hostile.deleted.display().to_string();
    let file =
        row("files", &|row| row["pid"] == pid && row["path"].as_str().is_some_and(|path| path.contains(&deleted)))?;
    ensure!(file["deleted"] == true, "the deleted file is {file}");
    row("sockets", &|row| row["local_address"] == "127.0.0.1" && row["local_port"] == hostile.port)?;
    Ok(())
}
