//! Faults of a host, each after the other. The agent continues to sample, the status names the fault, and at the end
//! the archive has every accepted frame. The test counts the frames independently.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edr_tests::daemons::spooled;
use edr_tests::kafka::Broker;
use edr_tests::load::Load;
use edr_tests::scene::Scene;
use edr_tests::systemd::{BootEnd, Machine};
use edr_tests::wait;
use edr_wire::frame::{FrameHeader, Record};

use crate::archive;
use crate::installed::{
    LIMIT, comes_back, configure, drop_in, journal, main_pid, place, run, show, start, status, systemctl,
};
use crate::{BOOT_MAX, RunResult, scenario};

const AGENT: &str = "edr-agentd";
const STATE: &str = "/var/lib/edr-agentd";
const KAFKA: &str = "/var/lib/edr-test-kafka";
const ARCHIVE: &str = "/var/lib/edr-collectd/archive";
/// Boot id of the second boot.
const BOOT_ID: &str = "3f0c86ee-2f66-4d6a-9a53-5a1e0f7a0002";

/// A file left by the first boot for the second: epoch and seq of a frame in the spool.
const BEFORE: &str = "/var/lib/edr-test-before";

/// Time limits: from a kill to a running agent, from a SIGSTOP to a running agent, and from the end of a fault to a
/// snapshot in the archive.
const KILLED_MAX: Duration = Duration::from_secs(3);
const HUNG_MAX: Duration = Duration::from_secs(35);
const FRESH_MAX: Duration = Duration::from_secs(30);
/// Time limit of `systemctl stop`, even with unsent frames.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Faults, then a reboot with frames in the spool: the archive must have every accepted frame.
pub(crate) fn lose_nothing() -> RunResult {
    Scene::run("faults", |scene| {
        let mut machine = Machine::new(scene.path())?;
        place(&machine)?;
        let mut first = scenario("faults")?;
        first.end = BootEnd::Shutdown;
        println!("{}", machine.boot(&first, BOOT_MAX)?);
        // ProtectKernelTunables= gives the unit a /proc/sys without the mounts below.
        machine.write("/usr/share/edr-test/boot-id", &format!("{BOOT_ID}\n"))?;
        machine.write(
            "/etc/systemd/system/edr-agentd.service.d/boot-id.conf",
            "[Service]\nBindReadOnlyPaths=/usr/share/edr-test/boot-id:/proc/sys/kernel/random/boot_id\n",
        )?;
        let mut second = scenario("after-reboot")?;
        (second.boot_id, second.end) = (Some(BOOT_ID.to_owned()), BootEnd::Shutdown);
        println!("{}", machine.boot(&second, BOOT_MAX)?);
        Ok(())
    })
}

/// Inside: everything before the reboot.
pub(crate) fn faults() -> RunResult {
    let mut broker = Broker::prepare(Path::new(KAFKA))?;
    broker.resume()?;
    // A separate file system, to be filled by the test.
    fs::create_dir_all(STATE)?;
    run("mount", &["-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", STATE])?;
    run("chown", &["edr-agentd:edr-agentd", STATE])?;
    // The default limit of free space would keep all frames from a disk of this size.
    let small = "interval = \"1s\"\nkey-interval = \"10s\"\n[spool]\nfree-bytes-min = \"1MiB\"\n";
    start(&broker.address(), small)?;
    // Random arguments cannot be compressed: a key has 400 KB, and a slow drain takes a while.
    let _load = Load::random_argv(100, 4_000)?;
    let accepted = Accepted::watch();
    fresh("start")?;

    killed()?;
    hung()?;
    second_start()?;
    broken_configuration()?;
    memory_ceiling()?;
    full_disk()?;
    broker_away(&mut broker)?;

    let accepted = accepted.end()?;
    nothing_is_lost(&accepted)?;
    // For the reboot: a spool on a lasting disk, with unsent frames.
    systemctl(&["stop", AGENT])?;
    run("umount", &[STATE])?;
    systemctl(&["start", AGENT])?;
    fresh("another disk")?;
    broker.stop();
    let waiting = wait::until("5 frames to wait", LIMIT, || {
        let waiting = spooled(Path::new(STATE))?;
        Ok((waiting.len() >= 5).then_some(waiting))
    })?;
    let (epoch, seq) = waiting.last().and_then(|path| id(path)).context("the newest frame")?;
    fs::write(BEFORE, format!("{epoch} {seq}"))?;
    Ok(())
}

/// Waits until the archive has a frame taken after the start of this call.
pub(crate) fn fresh(after: &str) -> Result<()> {
    let begin = Instant::now();
    let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    wait::until_ok(&format!("a snapshot in the archive after {after}"), FRESH_MAX, || {
        let newest = archived()?.into_iter().map(|header| header.captured_ns).max().unwrap_or(0);
        ensure!(u128::try_from(newest)? > now_ns, "the newest is of {newest}");
        Ok(())
    })
    .with_context(|| show(AGENT, "StatusText").unwrap_or_default())?;
    println!("{after}: a fresh snapshot is archived after {} ms", begin.elapsed().as_millis());
    Ok(())
}

/// The header of every frame in the archive, by partition and offset.
fn archived() -> Result<Vec<FrameHeader>> {
    let rows = archive::holds(Path::new(ARCHIVE), 1, Duration::ZERO)?;
    rows.iter().map(|row| Ok(Record::decode(&row.record)?.header)).collect()
}

fn killed() -> Result<()> {
    // Other tests may occupy the processors for a moment, so the fastest of three attempts counts.
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        quickest = quickest.min(ready_after_a_kill()?);
        if quickest <= KILLED_MAX {
            break;
        }
    }
    wait::within("READY after a kill", KILLED_MAX, quickest)?;
    fresh("a kill")
}

fn ready_after_a_kill() -> Result<Duration> {
    let (pid, begin) = (main_pid(AGENT)?, monotonic()?);
    systemctl(&["kill", "--signal=KILL", "--kill-who=main", AGENT])?;
    comes_back(AGENT, pid)?;
    // systemd's own timestamps: the start, and READY after the first snapshot in the spool.
    let since = |property: &str| -> Result<Duration> {
        let at: u64 = show(AGENT, property)?.parse().context("a time of the monotonic clock")?;
        Ok(Duration::from_micros(at).saturating_sub(begin))
    };
    let (started, ready) = (since("ExecMainStartTimestampMonotonic")?, since("ActiveEnterTimestampMonotonic")?);
    println!("killed: started after {} ms, ready after {} ms", started.as_millis(), ready.as_millis());
    ensure!(!started.is_zero() && started < ready, "these are times of before the kill");
    Ok(ready)
}

/// The monotonic clock, used by systemd for the timestamps of a unit.
fn monotonic() -> Result<Duration> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::new(u64::try_from(now.tv_sec())?, u32::try_from(now.tv_nsec())?))
}

fn hung() -> Result<()> {
    let (pid, begin) = (main_pid(AGENT)?, Instant::now());
    systemctl(&["kill", "--signal=STOP", "--kill-who=main", AGENT])?;
    comes_back(AGENT, pid)?;
    let took = begin.elapsed();
    println!("stopped in its tracks: running after {} ms", took.as_millis());
    wait::within("the way back from a hang", HUNG_MAX, took)?;
    fresh("a hang")
}

fn second_start() -> Result<()> {
    // Root itself is refused before: the state folder belongs to the service's user.
    let words = ["-u", AGENT, "--", "/usr/sbin/edr-agentd", "run"];
    let output = Command::new("runuser").args(words).output().context("start a second agent")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(75), "a second agent ends with {}: {said}", output.status);
    let wanted = format!("another edr-agentd (pid {}) holds {STATE}/lock", main_pid(AGENT)?);
    ensure!(said.contains(&wanted), "{wanted} is not in {said}");
    Ok(())
}

fn broken_configuration() -> Result<()> {
    let pid = main_pid(AGENT)?;
    configure(AGENT, "60-broken", "interval = \"soon\"\n")?;
    systemctl(&["reload", AGENT])?;
    wait::until("the journal to refuse the configuration", LIMIT, || {
        Ok(journal(AGENT)?.contains("60-broken.toml:1: interval").then_some(()))
    })?;
    let line =
        status(AGENT, "what is wrong with the configuration", |text| text.contains("60-broken.toml:1: interval"))?;
    println!("broken configuration: {line}");
    fresh("a broken configuration, while it is broken")?;
    configure(AGENT, "60-broken", "[labels]\nrole = \"mended\"\n")?;
    systemctl(&["reload", AGENT])?;
    status(AGENT, "nothing of the configuration", |text| !text.contains("60-broken"))?;
    ensure!(main_pid(AGENT)? == pid, "it was started anew");
    fresh("a mended configuration")
}

/// A temporary memory limit that is too low for any agent.
fn memory_ceiling() -> Result<()> {
    drop_in(AGENT, "[Service]\nMemoryHigh=infinity\nMemoryMax=2M\n")?;
    systemctl(&["kill", "--signal=KILL", "--kill-who=main", AGENT])?;
    // Without version 2 of the control groups systemd does not learn the cause and sees only repeated kills.
    let restarts = || show(AGENT, "NRestarts")?.parse::<u32>().context("a number of restarts");
    let before = restarts()?;
    wait::until("the kernel to end it for its memory", LIMIT, || Ok((restarts()? >= before + 3).then_some(())))?;
    fs::remove_file(format!("/etc/systemd/system/{AGENT}.service.d/test.conf"))?;
    systemctl(&["daemon-reload"])?;
    fresh("a memory ceiling")
}

fn full_disk() -> Result<()> {
    let filler = format!("{STATE}/filler");
    let pid = main_pid(AGENT)?;
    // dd ends when the disk is full.
    let _ = Command::new("dd").args(["if=/dev/zero", &format!("of={filler}"), "bs=4k"]).output().context("run dd")?;
    let wanted = format!(
        "; no space left on {STATE}: free space there, or lower spool.bytes-max; sampling continues in memory ("
    );
    let line = status(AGENT, "that the disk is full", |text| text.contains(&wanted))?;
    println!("full disk: {line}");
    let asked = run("/usr/sbin/edr-agentd", &["status"])?;
    ensure!(asked.contains(wanted.trim_start_matches("; ")), "edr-agentd status: {asked}");
    fresh("a full disk, while it is full")?;
    fs::remove_file(&filler)?;
    status(AGENT, "nothing of the disk", |text| !text.contains("no space left"))?;
    fresh("a full disk")?;
    ensure!(main_pid(AGENT)? == pid, "it was started anew");
    Ok(())
}

fn broker_away(broker: &mut Broker) -> Result<()> {
    let address = broker.address();
    broker.stop();
    let line = status(AGENT, "that no broker answers", |text| text.contains(&address))?;
    println!("broker away: {line}");
    wait::until("30 frames to wait", LIMIT, || Ok((spooled(Path::new(STATE))?.len() >= 30).then_some(())))?;
    // Slow enough for the stop to come during the drain.
    configure(AGENT, "60-broken", "[kafka]\ndrain-bytes-max = \"64KiB\"\n")?;
    systemctl(&["reload", AGENT])?;
    let oldest = spooled(Path::new(STATE))?.into_iter().next().context("what waits")?;
    broker.resume()?;
    wait::until("the drain to begin", LIMIT, || Ok((!oldest.exists()).then_some(())))?;
    let begin = Instant::now();
    systemctl(&["stop", AGENT])?;
    let took = begin.elapsed();
    println!("stop while draining: {} ms, {} frames stay", took.as_millis(), spooled(Path::new(STATE))?.len());
    wait::within("a stop while draining", STOP_MAX, took)?;
    fs::remove_file(format!("/etc/{AGENT}/conf.d/60-broken.toml"))?;
    systemctl(&["start", AGENT])?;
    fresh("a broker that was away")
}

/// Epoch and seq of every frame seen in the spool.
struct Accepted {
    seen: Arc<Mutex<BTreeSet<(String, u64)>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Accepted {
    /// Reads the spool ten times per frame: the newest frame stays until the next frame is written.
    fn watch() -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        let (into, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // A folder that vanishes during the read is read again in the next round.
                let found = spooled(Path::new(STATE)).unwrap_or_default();
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(found.iter().filter_map(|path| id(path)));
                drop(seen);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { seen, stop, thread }
    }

    fn end(self) -> Result<BTreeSet<(String, u64)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread that watches the spool panicked"))?;
        Ok(std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn id(path: &Path) -> Option<(String, u64)> {
    let epoch = path.parent()?.file_name()?.to_str()?.to_owned();
    Some((epoch, path.file_stem()?.to_str()?.parse().ok()?))
}

/// Checks that every frame seen in the spool is in the archive, that no epoch has a hole, and that the archive also has
/// the frames made in memory, in separate epochs.
fn nothing_is_lost(accepted: &BTreeSet<(String, u64)>) -> Result<()> {
    let missing = |archived: &[FrameHeader]| -> Vec<(String, u64)> {
        let have: BTreeSet<_> = archived.iter().map(|header| (header.epoch.to_string(), header.seq)).collect();
        accepted.difference(&have).cloned().collect()
    };
    // Waits for frames that are still in transit.
    let headers = wait::until_ok("every accepted frame to be archived", LIMIT, || {
        let headers = archived()?;
        let missing = missing(&headers);
        ensure!(missing.is_empty(), "missing: {missing:?}");
        Ok(headers)
    })?;
    let mut epochs: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for header in &headers {
        ensure!(header.lost.is_empty(), "declared lost: {:?}", header.lost);
        epochs.entry(header.epoch.to_string()).or_default().insert(header.seq);
    }
    for (epoch, numbers) in &epochs {
        let last = numbers.last().copied().unwrap_or(0);
        ensure!(numbers.iter().copied().eq(1..=last), "epoch {epoch} has holes: {numbers:?}");
    }
    let disk: BTreeSet<_> = accepted.iter().map(|(epoch, _)| epoch.clone()).collect();
    let memory = epochs.keys().filter(|epoch| !disk.contains(*epoch)).count();
    ensure!(memory >= 1, "no epoch in memory");
    println!(
        "{} frames accepted, {} archived, {} epochs ({memory} in memory)",
        accepted.len(),
        headers.len(),
        epochs.len()
    );
    Ok(())
}

/// Inside, after the reboot: the enabled units start automatically. The first frame names the last frame of the
/// previous boot, and the archive has every frame of the previous boot.
pub(crate) fn after_reboot() -> RunResult {
    let before = fs::read_to_string(BEFORE)?;
    let (epoch, at_least) = before.split_once(' ').context("what the first boot wrote")?;
    let at_least: u64 = at_least.parse()?;
    comes_back(AGENT, 0)?;
    let mut broker = Broker::open(Path::new(KAFKA))?;
    broker.resume()?;
    fresh("a reboot")?;
    let headers = archived()?;
    let old: BTreeSet<u64> =
        headers.iter().filter(|header| header.epoch.to_string() == epoch).map(|header| header.seq).collect();
    let last = old.last().copied().unwrap_or(0);
    ensure!(last >= at_least && old.iter().copied().eq(1..=last), "of {epoch} up to {at_least} there is {old:?}");
    let first = headers.iter().find(|header| header.boot_id == BOOT_ID).context("no frame of this boot")?;
    let named = first.previous_epoch.as_ref().map(|previous| (previous.id.to_string(), previous.last_seq));
    ensure!(
        first.seq == 1 && named == Some((epoch.to_owned(), last)),
        "the first frame names {named:?}, not {epoch}/{last}"
    );
    let said_goodbye =
        headers.iter().any(|header| header.epoch.to_string() == epoch && header.seq == last && header.bye);
    ensure!(said_goodbye, "the shutdown was no clean end");
    println!("epoch {} follows {epoch}/{last}", first.epoch);
    Ok(())
}
