//! TLS, mutual TLS, PLAIN and SCRAM against a broker with support for all four, and each way of a broker to refuse a
//! client. A refusal is logged with a remedy. After the remedy, without a restart, every frame arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use edr_tests::binaries::binaries;
use edr_tests::certificates::{Authority, Signed};
use edr_tests::daemons::{AgentDaemon, AgentPlan, CollectorDaemon, CollectorPlan};
use edr_tests::kafka::{Broker, More};
use edr_tests::running::Program;
use edr_tests::scene::Scene;
use edr_tests::topic::records;
use edr_tests::wait;
use edr_wire::Epoch;
use edr_wire::frame::Record;
use nix::sys::signal::Signal;

use crate::shared::TestBed;
use crate::{PASSED, TestResult};

const LIMIT: Duration = Duration::from_secs(90);
const TOPIC: &str = "edr.snapshots";
const PASSWORD: &str = "correct horse";

/// A broker with a listener for each method, and the files needed by a client.
struct BrokerWorld {
    broker: Broker,
    authority: Authority,
    other: Authority,
    client: Signed,
    dir: PathBuf,
}

impl BrokerWorld {
    fn new(dir: &Path) -> Result<Self> {
        let authority = Authority::new(dir, "authority")?;
        let other = Authority::new(dir, "other-authority")?;
        let here = authority.sign("broker", "localhost", (-1, 90))?;
        let expired = authority.sign("expired", "localhost", (-30, -1))?;
        let elsewhere = authority.sign("elsewhere", "elsewhere.example", (-1, 30))?;
        let client = authority.sign("agent", "agent.example", (-1, 30))?;
        let mut properties = format!(
            "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             listener.name.mutual.ssl.client.auth=required\n\
             listener.name.login.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS;User:agent;User:CN=agent\n",
            here.both.display(),
            authority.file.display()
        );
        for (name, signed) in [("expired", &expired), ("elsewhere", &elsewhere)] {
            let place = signed.both.display();
            properties += &format!(
                "listener.name.{name}.ssl.keystore.type=PEM\nlistener.name.{name}.ssl.keystore.location={place}\n"
            );
        }
        let login = "org.apache.kafka.common.security";
        properties += &format!(
            "listener.name.login.plain.sasl.jaas.config={login}.plain.PlainLoginModule required \
             user_agent=\"{PASSWORD}\" user_stranger=\"{PASSWORD}\";\n"
        );
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            properties +=
                &format!("listener.name.login.{mechanism}.sasl.jaas.config={login}.scram.ScramLoginModule required;\n");
        }
        let scram = |mechanism: &str| format!("{mechanism}=[name=agent,password={PASSWORD}]");
        let more = More {
            listeners: vec![
                ("TLS", "SSL"),
                ("MUTUAL", "SSL"),
                ("LOGIN", "SASL_SSL"),
                ("EXPIRED", "SSL"),
                ("ELSEWHERE", "SSL"),
            ],
            properties,
            scram: vec![scram("SCRAM-SHA-256"), scram("SCRAM-SHA-512")],
        };
        let mut broker = Broker::prepare_with(&dir.join("kafka"), &more)?;
        broker.resume()?;
        Ok(Self { broker, authority, other, client, dir: dir.to_owned() })
    }

    fn agent(&self, name: &str, listener: &str, keys: &str) -> Result<AgentPlan> {
        let mut plan = AgentPlan::new(&self.folder(name)?, &self.address(listener)?, TOPIC);
        plan.kafka = format!("message-timeout = \"6s\"\n{keys}");
        Ok(plan)
    }

    fn collector(&self, name: &str, listener: &str, keys: &str) -> Result<CollectorPlan> {
        let mut plan =
            CollectorPlan::new(&self.folder(&format!("collector-{name}"))?, &self.address(listener)?, TOPIC)?;
        plan.group = format!("edr-collectd-{name}");
        keys.clone_into(&mut plan.kafka);
        Ok(plan)
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn address(&self, listener: &str) -> Result<String> {
        if listener == "PLAINTEXT" { Ok(self.broker.address()) } else { self.broker.listener(listener) }
    }

    fn password(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(format!("{name}.password"));
        replace(&path, format!("{text}\n").as_bytes())?;
        Ok(path)
    }
}

fn tls(ca: &Path) -> String {
    format!("tls.enabled = true\ntls.ca-file = {ca:?}\n")
}

fn login(mechanism: &str, user: &str, password: &Path) -> String {
    format!("sasl.mechanism = {mechanism:?}\nsasl.username = {user:?}\nsasl.password-file = {password:?}\n")
}

pub(crate) fn every_way_in_and_every_refusal(shared: &TestBed) -> TestResult {
    let _beside = shared.beside_others();
    Scene::run("secure", |scene| {
        let world = BrokerWorld::new(scene.path())?;
        let ca = tls(&world.authority.file);
        world.collector("topic", "TLS", &ca)?.create_topic().context("make the topic over TLS")?;
        every_way_in(&world, &ca)?;
        checks_before_a_start(&world, &ca)?;
        every_refusal(&world, &ca)
    })?;
    PASSED
}

/// Agent and collector must connect with each method.
fn every_way_in(world: &BrokerWorld, ca: &str) -> Result<()> {
    let right = world.password("right", PASSWORD)?;
    let own =
        format!("{ca}tls.certificate-file = {:?}\ntls.key-file = {:?}\n", world.client.certificate, world.client.key);
    let ways = [
        ("tls", "TLS", ca.to_owned()),
        ("mutual", "MUTUAL", own),
        ("plain", "LOGIN", format!("{ca}{}", login("PLAIN", "agent", &right))),
        ("scram-256", "LOGIN", format!("{ca}{}", login("SCRAM-SHA-256", "agent", &right))),
        ("scram-512", "LOGIN", format!("{ca}{}", login("SCRAM-SHA-512", "agent", &right))),
    ];
    // A folder in the form of systemd's folder of credentials.
    let credentials = world.folder("credentials")?;
    std::fs::copy(&right, credentials.join("kafka.password"))?;
    let mut running = Vec::new();
    for (name, listener, keys) in &ways {
        let (mut agent, mut collector) = (world.agent(name, listener, keys)?, world.collector(name, listener, keys)?);
        if *name == "scram-256" {
            let by_name = |keys: &str| {
                keys.replace(&format!("password-file = {right:?}"), "password-credential = \"kafka.password\"")
            };
            (agent.kafka, collector.kafka) = (by_name(&agent.kafka), by_name(&collector.kafka));
            let with = [OsString::from("env"), format!("CREDENTIALS_DIRECTORY={}", credentials.display()).into()];
            (agent.behind, collector.behind) = (with.to_vec(), with.to_vec());
        }
        running.push((agent.start()?, collector.start()?));
    }
    for (agent, collector) in &mut running {
        let name = agent.plan.dir.display().to_string();
        delivered(agent).with_context(|| format!("agent of {name}"))?;
        let hosts = collector.plan.archived_hosts(LIMIT);
        hosts.with_context(|| format!("collector of {name}; its log:\n{}", collector.process.log_tail()))?;
        for log in [agent.process.log(), collector.process.log()] {
            ensure!(!log.contains(PASSWORD), "a password is in the log of {name}");
        }
    }
    for (mut agent, mut collector) in running {
        agent.process.terminate(LIMIT)?;
        collector.process.terminate(LIMIT)?;
    }
    Ok(())
}

/// `check --online` must find the same faults before a start as a run would report, with the matching exit code.
fn checks_before_a_start(world: &BrokerWorld, ca: &str) -> Result<()> {
    let wrong = world.password("wrong-check", "incorrect")?;
    let right = world.password("right", PASSWORD)?;
    for (listener, keys, code, wanted) in [
        ("TLS", ca.to_owned(), 0, ["ok   tls", "ok   topic size", "localhost until 20"]),
        ("EXPIRED", ca.to_owned(), 1, ["fail tls", "expired at 20", "mend: renew it on the broker"]),
        ("ELSEWHERE", ca.to_owned(), 1, ["fail tls", "for elsewhere.example", "fail broker"]),
        (
            "LOGIN",
            format!("{ca}{}", login("SCRAM-SHA-256", "agent", &wrong)),
            1,
            ["ok   tls", "fail broker", "refuses user agent with SCRAM-SHA-256"],
        ),
        (
            "LOGIN",
            format!("{ca}{}", login("PLAIN", "stranger", &right)),
            1,
            ["ok   broker", "fail ", "--allow-principal User:stranger"],
        ),
    ] {
        let agent = world.agent("check", listener, &keys)?.write_config()?;
        let collector = world.collector("check", listener, &keys)?.write_config()?;
        for (program, config) in [(&binaries()?.agent, agent), (&binaries()?.collector, collector)] {
            let program =
                Program::new("check", &world.dir, program).args(["check", "--online", "--config"]).arg(config);
            let output = program.output()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let said = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.code() == Some(code), "{listener}: {}\n{said}", output.status);
            for words in wanted {
                ensure!(said.contains(words), "{listener}: {words:?} is not in\n{said}");
            }
            ensure!(!said.contains(PASSWORD) && !said.contains("incorrect"), "a password is in\n{said}");
        }
    }
    Ok(())
}

/// Waits until the spool holds only the newest frame and the key.
fn delivered(agent: &mut AgentDaemon) -> Result<()> {
    agent.has_spooled(1, LIMIT)?;
    let log = |agent: &AgentDaemon| format!("its log:\n{}", agent.process.log_tail());
    let empty = wait::until("the spool to be sent", LIMIT, || {
        ensure!(agent.process.is_running()?, "the agent ended");
        let spooled = agent.spooled()?;
        let last: Option<u64> = spooled.last().and_then(|path| path.file_stem()?.to_str()?.parse().ok());
        Ok((last >= Some(3) && spooled.len() <= 2).then_some(()))
    });
    empty.with_context(|| log(agent))
}

/// A broker's refusal of a client, with the remedy.
struct BrokerRefusal {
    name: &'static str,
    listener: &'static str,
    keys: String,
    /// Words of the expected log line.
    words: Vec<String>,
    mend: Mend,
}

enum Mend {
    /// A file gets new content; the daemon is not signalled.
    Replace(PathBuf, Vec<u8>),
    /// The configuration is changed and reloaded with SIGHUP.
    Reload(&'static str, String),
}

fn every_refusal(world: &BrokerWorld, ca: &str) -> Result<()> {
    let right = world.password("right", PASSWORD)?;
    let refusals = |who: &str| -> Result<Vec<BrokerRefusal>> {
        let wrong = world.password(&format!("wrong-{who}"), "incorrect")?;
        let wrong_ca = world.dir.join(format!("wrong-ca-{who}.pem"));
        std::fs::copy(&world.other.file, &wrong_ca)?;
        let broker = |listener: &str| Ok::<_, anyhow::Error>(format!("broker {}", world.address(listener)?));
        let to_tls = || Mend::Reload("TLS", ca.to_owned());
        Ok(vec![
            BrokerRefusal {
                name: "password",
                listener: "LOGIN",
                keys: format!("{ca}{}", login("SCRAM-SHA-512", "agent", &wrong)),
                words: vec![broker("LOGIN")?, "refuses user agent with SCRAM-SHA-512".to_owned()],
                mend: Mend::Replace(wrong, format!("{PASSWORD}\n").into_bytes()),
            },
            BrokerRefusal {
                name: "ca",
                listener: "TLS",
                keys: tls(&wrong_ca),
                words: vec![
                    broker("TLS")?,
                    "a certificate that authority signed, none of those in".to_owned(),
                    "kafka.tls.ca-file".to_owned(),
                ],
                mend: Mend::Replace(wrong_ca, std::fs::read(&world.authority.file)?),
            },
            BrokerRefusal {
                name: "expired",
                listener: "EXPIRED",
                keys: ca.to_owned(),
                words: vec![broker("EXPIRED")?, "shows expired at 20".to_owned(), "renew it on the broker".to_owned()],
                mend: to_tls(),
            },
            BrokerRefusal {
                name: "elsewhere",
                listener: "ELSEWHERE",
                keys: ca.to_owned(),
                words: vec![
                    broker("ELSEWHERE")?,
                    "a certificate for elsewhere.example and not for this name".to_owned(),
                ],
                mend: to_tls(),
            },
            BrokerRefusal {
                name: "no-tls",
                listener: "PLAINTEXT",
                keys: ca.to_owned(),
                words: vec![broker("PLAINTEXT")?, "does not speak TLS on this port".to_owned()],
                mend: to_tls(),
            },
            BrokerRefusal {
                name: "stranger",
                listener: "LOGIN",
                keys: format!("{ca}{}", login("PLAIN", "stranger", &right)),
                words: vec!["--allow-principal User:stranger".to_owned()],
                mend: Mend::Reload("LOGIN", format!("{ca}{}", login("PLAIN", "agent", &right))),
            },
        ])
    };
    let mut agents = Vec::new();
    for refusal in refusals("agent")? {
        agents.push((world.agent(refusal.name, refusal.listener, &refusal.keys)?.start()?, refusal));
    }
    let mut collectors = Vec::new();
    // Only three refusals: the rest is code shared by both daemons, and already tested with the agents.
    for refusal in
        refusals("collector")?.into_iter().filter(|refusal| ["password", "expired", "stranger"].contains(&refusal.name))
    {
        collectors.push((world.collector(refusal.name, refusal.listener, &refusal.keys)?.start()?, refusal));
    }
    for (agent, refusal) in &mut agents {
        let line = agent.process.says(&refusal.words[0], LIMIT).with_context(|| refusal.name)?;
        told(&line, refusal)?;
        ensure!(agent.spooled()?.iter().any(|path| path.ends_with(format!("{:020}.frame", 1))), "frame 1 is gone");
        mend_agent(world, agent, &refusal.mend)?;
    }
    for (collector, refusal) in &mut collectors {
        let line = collector.process.says(&refusal.words[0], LIMIT).with_context(|| refusal.name)?;
        told(&line, refusal)?;
        mend_collector(world, collector, &refusal.mend)?;
    }
    let mut epochs = Vec::new();
    for (mut agent, refusal) in agents {
        delivered(&mut agent).with_context(|| format!("after {} was mended", refusal.name))?;
        epochs.push(epoch_of(&agent)?);
        agent.process.terminate(LIMIT)?;
    }
    for (mut collector, refusal) in collectors {
        let hosts = collector.plan.archived_hosts(LIMIT);
        hosts.with_context(|| format!("after {} was mended; {}", refusal.name, collector.process.log_tail()))?;
        collector.process.terminate(LIMIT)?;
    }
    let mut arrived: BTreeMap<Epoch, BTreeSet<u64>> = BTreeMap::new();
    for record in records(&world.broker, TOPIC)? {
        let header = Record::decode(&record.value)?.header;
        ensure!(header.lost.is_empty(), "declared lost: {:?}", header.lost);
        arrived.entry(header.epoch).or_default().insert(header.seq);
    }
    for epoch in epochs {
        let numbers = arrived.get(&epoch).context("nothing of an epoch arrived")?;
        let last = numbers.len() as u64;
        ensure!(last >= 3 && numbers.iter().copied().eq(1..=last), "not every frame arrived: {numbers:?}");
    }
    Ok(())
}

fn told(line: &str, refusal: &BrokerRefusal) -> Result<()> {
    for words in &refusal.words {
        ensure!(line.contains(words), "{}: {words:?} is not in {line:?}", refusal.name);
    }
    ensure!(!line.contains(PASSWORD) && !line.contains("incorrect"), "a password is in {line:?}");
    Ok(())
}

fn epoch_of(agent: &AgentDaemon) -> Result<Epoch> {
    let newest = agent.spooled()?.pop().context("the newest frame stays")?;
    let bytes = std::fs::read(newest)?;
    let first = edr_wire::frame::split_records(&bytes).next().context("a frame has a record")??;
    Ok(Record::decode(first)?.header.epoch)
}

fn mend_agent(world: &BrokerWorld, agent: &mut AgentDaemon, mend: &Mend) -> Result<()> {
    match mend {
        Mend::Replace(path, bytes) => replace(path, bytes),
        Mend::Reload(listener, keys) => {
            agent.plan.broker = world.address(listener)?;
            agent.plan.kafka.clone_from(keys);
            agent.plan.write_config()?;
            agent.process.signal(Signal::SIGHUP)
        }
    }
}

fn mend_collector(world: &BrokerWorld, collector: &mut CollectorDaemon, mend: &Mend) -> Result<()> {
    match mend {
        Mend::Replace(path, bytes) => replace(path, bytes),
        Mend::Reload(listener, keys) => {
            collector.plan.broker = world.address(listener)?;
            collector.plan.kafka.clone_from(keys);
            collector.plan.write_config()?;
            collector.process.signal(Signal::SIGHUP)
        }
    }
}

/// Replaces a file atomically, by a rename.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path).context("put a file in place")
}
