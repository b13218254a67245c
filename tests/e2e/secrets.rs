//! Secrets in command lines: no secret may leave the process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use edr_tests::daemons::{AgentPlan, CollectorPlan, spooled};
use edr_tests::load::Load;
use edr_tests::scene::Scene;
use edr_tests::topic::records;
use edr_wire::frame::{Frame, FrameKind, Record, split_records};

use crate::archive;
use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(60);
const FORMS: &str = include_str!("../fixtures/secrets/forms.tsv");
const KNOWN: &str = include_str!("../fixtures/secrets/known.txt");
/// Start of a planted secret and of the marker beside it; three digits follow.
const CANARY: &str = "C4n4ry-5ecret.";
const MARKER: &str = "harmless-beside-it-";
const DIGITS: usize = 3;

/// A process with a secret and a harmless marker in the command line.
struct CanaryProcess {
    process: Load,
    /// The secret, which must not be found anywhere.
    canary: String,
    /// The marker, which must be found in every place searched for the secret.
    marker: String,
}

/// Plants each form of a secret in a separate process. Searches spool, topic, archive (both the raw files and the
/// decoded records), output of commands, page and logs: each decoded place must contain the markers, and no place may
/// contain a secret.
pub(crate) fn leave_the_host_nowhere(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    let topic = shared.topic()?;
    Scene::run("secrets", |scene| {
        let planted = plant()?;
        let broker = shared.broker()?;
        let plan = AgentPlan::new(&scene.folder("agent")?, &broker.address(), &topic);
        the_search_finds_what_is_there(&plan, &planted)?;

        let mut collector = CollectorPlan::new(&scene.folder("collector")?, &broker.address(), &topic)?.start()?;
        let mut agent = plan.start()?;
        let host = collector.host_path(LIMIT)?;
        for CanaryProcess { process, marker, .. } in &planted {
            let path = format!("{host}/processes?columns=all&filter=pid:{}", process.pid());
            let page = collector.page(&path, marker, LIMIT, |body| body.contains(marker))?;
            no_secret(&page, &planted, "the page")?;
            ensure!(page.contains("redacted:"), "the page of {marker} shows no token");
        }
        agent.process.terminate(LIMIT)?;

        let mut search = RecordSearch { planted: &planted, keys: BTreeMap::new() };
        for file in spooled(&plan.state_dir())? {
            let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            for record in split_records(&bytes) {
                search.record(record?, "the spool")?;
            }
        }
        let sent = records(broker, &topic)?;
        for record in &sent {
            search.record(&record.value, "the topic")?;
        }
        let archived = archive::holds(&collector.plan.archive_dir(), sent.len(), LIMIT)?;
        for record in &archived {
            search.record(&record.record, "the archive")?;
        }
        let hosts = collector.plan.archived_hosts(LIMIT)?;
        let name = hosts[0]["hostname"].as_str().context("hosts has no hostname")?;
        for format in ["table", "json", "csv"] {
            let printed = collector.plan.command(&["processes", "--host", name, "--format", format])?;
            search.is_clean(&printed, "the commands' output")?;
        }
        collector.process.terminate(LIMIT)?;

        // The raw files are searched too: uncompressed secrets would be visible. Logs hold no command lines, and so no
        // marker.
        for (folder, what) in [(&plan.dir, "the agent's files and log"), (&collector.plan.dir, "the collector's")] {
            let bytes = all_bytes(folder)?;
            ensure!(bytes.len() > 10_000, "{what} are too few to be all of them");
            no_secret(&String::from_utf8_lossy(&bytes), &planted, what)?;
        }
        ensure!(
            agent.process.log().contains(&topic) || agent.process.log().contains("epoch"),
            "the agent's log is empty"
        );
        PASSED
    })
}

fn plant() -> Result<Vec<CanaryProcess>> {
    let mut command_lines = Vec::new();
    for (number, form) in FORMS.lines().enumerate() {
        let canary = format!("{CANARY}{number:03}");
        let argv: Vec<String> = form.split('\t').map(|argument| argument.replace("CANARY", &canary)).collect();
        command_lines.push((argv, canary));
    }
    for secret in KNOWN.lines() {
        let secret = secret.replace("\\n", "\n");
        // A key of several lines is searched by the middle line, because a page writes line breaks in another form.
        let canary = secret.lines().nth(1).unwrap_or(&secret).to_owned();
        command_lines.push((vec!["app".to_owned(), secret], canary));
    }
    ensure!(command_lines.len() >= 50, "{} forms", command_lines.len());
    let planted = command_lines.into_iter().enumerate().map(|(number, (mut argv, canary))| {
        let marker = format!("{MARKER}{number:03}");
        match argv.iter_mut().find(|argument| *argument == "MARKER") {
            Some(place) => place.clone_from(&marker),
            None => argv.push(marker.clone()),
        }
        Ok(CanaryProcess { process: Load::named(&argv)?, canary, marker })
    });
    planted.collect()
}

/// Without redaction every secret must be in a snapshot. So the search below can find every secret.
fn the_search_finds_what_is_there(plan: &AgentPlan, planted: &[CanaryProcess]) -> Result<()> {
    let mut open = plan.clone();
    open.dir = plan.dir.with_file_name("agent-without-redaction");
    open.kafka = "\n[redact]\nsecrets = false\n".to_owned();
    let snapshot = open.snapshot()?.to_string();
    for CanaryProcess { canary, marker, .. } in planted {
        ensure!(snapshot.contains(canary), "{canary} is not even in a snapshot without redaction");
        ensure!(snapshot.contains(marker), "{marker} is not in a snapshot without redaction");
    }
    std::fs::remove_dir_all(&open.dir).context("remove the configuration without redaction")
}

/// Searches records, including deltas.
struct RecordSearch<'p> {
    planted: &'p [CanaryProcess],
    /// Raw key snapshots by (epoch, seq).
    keys: BTreeMap<(String, u64), Vec<u8>>,
}

impl RecordSearch<'_> {
    /// Searches a record, which must be a whole frame.
    fn record(&mut self, bytes: &[u8], place: &str) -> Result<()> {
        let record = Record::decode(bytes).with_context(|| format!("a record of {place}"))?;
        let frame = Frame::assemble(vec![record])?;
        let of = |seq| (frame.header.epoch.to_string(), seq);
        let raw = frame.open(self.keys.get(&of(frame.header.base_seq)).map(Vec::as_slice))?;
        self.is_clean(&raw, place)?;
        if frame.header.kind == FrameKind::Key {
            self.keys.insert(of(frame.header.seq), raw);
        }
        Ok(())
    }

    /// Checks for every marker and for no secret.
    fn is_clean(&self, bytes: &[u8], place: &str) -> Result<()> {
        let text = String::from_utf8_lossy(bytes);
        no_secret(&text, self.planted, place)?;
        let found: BTreeSet<&str> =
            text.match_indices(MARKER).filter_map(|(at, _)| text.get(at..at + MARKER.len() + DIGITS)).collect();
        let missing = self.planted.iter().find(|planted| !found.contains(planted.marker.as_str()));
        ensure!(missing.is_none(), "{} is not in {place}", missing.map_or("", |planted| &planted.marker));
        Ok(())
    }
}

fn no_secret(text: &str, planted: &[CanaryProcess], place: &str) -> Result<()> {
    // Secrets with a common prefix are searched at once.
    if let Some((at, _)) = text.match_indices(CANARY).next() {
        bail!("{:?} is in {place}", text.get(at..at + CANARY.len() + DIGITS));
    }
    let found = planted
        .iter()
        .filter(|planted| !planted.canary.starts_with(CANARY))
        .find(|planted| text.contains(&planted.canary));
    ensure!(found.is_none(), "the secret beside {} is in {place}", found.map_or("", |planted| &planted.marker));
    Ok(())
}

/// The content of every file below a folder, joined.
fn all_bytes(folder: &Path) -> Result<Vec<u8>> {
    let (mut bytes, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                bytes.extend(std::fs::read(&path).with_context(|| format!("read {}", path.display()))?);
            }
        }
    }
    Ok(bytes)
}
