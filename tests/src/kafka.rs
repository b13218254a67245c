//! A real Kafka broker: a node (KRaft) on free loopback ports. All settings relevant for a test keep the defaults of
//! the Kafka version.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::cache::{cached, checkout};
use crate::running::{Program, Running};
use crate::wait;

/// Time limit for the start of the JVM on a busy machine with two cores. An idle machine needs 3 s.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Returns a port of 127.0.0.1 that is free at the moment.
///
/// # Errors
/// When the kernel has no free port.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("read the free port")?.port())
}

/// Additions to the default settings of a broker.
#[derive(Debug, Clone, Default)]
pub struct More {
    /// Listeners on `localhost`, each with a protocol: `("TLS", "SSL")`.
    pub listeners: Vec<(&'static str, &'static str)>,
    /// Lines for `server.properties`.
    pub properties: String,
    /// Users, in the form of `--add-scram` of Kafka's StorageTool.
    pub scram: Vec<String>,
}

/// A broker. The data stays in the broker's folder after a stop, and the next start continues with the data.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    port: u16,
    listeners: BTreeMap<String, u16>,
    process: Option<Running>,
}

impl Broker {
    /// Formats `dir` and starts a broker there.
    ///
    /// # Errors
    /// When Java or the jars are missing, or the broker does not answer.
    pub fn start(dir: &Path) -> Result<Self> {
        let mut broker = Self::prepare(dir)?;
        broker.resume()?;
        Ok(broker)
    }

    /// Formats `dir` for a broker and chooses the ports, without a start: the address is known, but does not answer.
    ///
    /// # Errors
    /// When Java or the jars are missing.
    pub fn prepare(dir: &Path) -> Result<Self> {
        Self::prepare_with(dir, &More::default())
    }

    /// Like [`Broker::prepare`], with more listeners, settings and users.
    ///
    /// # Errors
    /// As [`Broker::prepare`].
    pub fn prepare_with(dir: &Path, more: &More) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let (port, controller) = (free_port()?, free_port()?);
        let data = dir.join("data");
        let mut listeners = BTreeMap::new();
        for (name, _) in &more.listeners {
            listeners.insert((*name).to_owned(), free_port()?);
        }
        let more_listeners: String =
            listeners.iter().map(|(name, port)| format!(",{name}://localhost:{port}")).collect();
        let more_protocols: String =
            more.listeners.iter().map(|(name, protocol)| format!(",{name}:{protocol}")).collect();
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{more_listeners}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}{more_listeners}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{more_protocols}\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             group.initial.rebalance.delay.ms=0\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             {}",
            data.display(),
            more.properties
        );
        let broker = Self { dir: dir.to_owned(), port, listeners, process: None };
        std::fs::write(broker.properties(), properties).context("write server.properties")?;
        let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("read a random uuid")?;
        // A cluster id is 16 bytes in base64 without padding: 21 digits, and a last digit whose low four bits are zero.
        let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(21).collect();
        let format = broker.java("kafka-format", "kafka.tools.StorageTool")?;
        let output = format
            .args(["format", "--cluster-id", &format!("{digits}A"), "--config"])
            .arg(broker.properties())
            .args(more.scram.iter().flat_map(|user| ["--add-scram", user]))
            .output()?;
        ensure!(
            output.status.success(),
            "format the broker's folder: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(broker)
    }

    /// Opens a broker prepared earlier in `dir`, possibly by another process, without additional listeners. The broker
    /// is not started.
    ///
    /// # Errors
    /// When `dir` has no broker.
    pub fn open(dir: &Path) -> Result<Self> {
        let properties = std::fs::read_to_string(dir.join("server.properties")).context("read server.properties")?;
        let own = properties.lines().find_map(|line| line.strip_prefix("advertised.listeners=PLAINTEXT://127.0.0.1:"));
        let digits: String = own.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        let port = digits.parse().context("read the port in server.properties")?;
        Ok(Self { dir: dir.to_owned(), port, listeners: BTreeMap::new(), process: None })
    }

    /// Starts the broker and waits until it answers.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn resume(&mut self) -> Result<()> {
        let mut process = self.java("kafka", "kafka.Kafka")?.arg(self.properties()).start()?;
        // The client's log is off, because each refused connection during the start would be logged.
        let client: BaseConsumer =
            self.client_config().set("log_level", "0").create().context("make a Kafka client")?;
        let answered = wait::until("Kafka to answer", START_LIMIT, || {
            ensure!(process.is_running()?, "Kafka ended; the end of its log:\n{}", process.log_tail());
            Ok(client.fetch_metadata(None, Duration::from_secs(1)).ok())
        });
        answered.with_context(|| format!("the end of its log:\n{}", process.log_tail()))?;
        self.process = Some(process);
        Ok(())
    }

    /// `host:port`, as a `brokers` entry.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of a listener named in [`More`].
    ///
    /// # Errors
    /// When there is no listener with this name.
    pub fn listener(&self, name: &str) -> Result<String> {
        let port = self.listeners.get(name).with_context(|| format!("no listener {name}"))?;
        Ok(format!("localhost:{port}"))
    }

    /// Process id of the broker, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }

    /// Ends the broker at once, like a power cut. [`Broker::resume`] starts the broker again.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Settings for a client of this broker.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        config
    }

    /// Makes a topic with the broker's defaults.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client_config().create().context("make an admin client")?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let made = futures::executor::block_on(admin.create_topics([&topic], &AdminOptions::new()))
            .context("ask for a topic")?;
        for outcome in made {
            outcome.map_err(|(topic, code)| anyhow::anyhow!("make topic {topic}: {code}"))?;
        }
        Ok(())
    }

    fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn java(&self, name: &str, class: &str) -> Result<Program> {
        let jars = cached("kafka")?;
        Ok(Program::new(name, &self.dir, "java")
            // Without the second compiler the JVM starts in half the time; no test runs long enough to need it.
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
            .arg(jars.join("*"))
            .arg(format!("-Dlog4j2.configurationFile={}", checkout().join("tests/kafka/log4j2.properties").display()))
            .arg(class))
    }
}
