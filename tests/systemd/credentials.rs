//! Secrets as systemd credentials: follows the examples of the packages.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use edr_tests::certificates::Authority;
use edr_tests::kafka::{Broker, More};
use serde_json::Value;

use crate::faults::fresh;
use crate::installed::{main_pid, run, show, systemctl};

const DAEMONS: [&str; 2] = ["edr-agentd", "edr-collectd"];
const PASSWORD: &str = "correct horse";

/// A broker with two listeners: the first without a login, the second with TLS and a password for each of the two
/// daemons.
pub(crate) fn broker(dir: &Path) -> Result<(Broker, Authority)> {
    fs::create_dir_all(dir)?;
    let authority = Authority::new(dir, "authority")?;
    let own = authority.sign("broker", "localhost", (-1, 90))?;
    let properties = format!(
        "ssl.keystore.type=PEM\nssl.keystore.location={}\n\
         listener.name.login.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.login.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;\n",
        own.both.display()
    );
    let scram = DAEMONS.map(|name| format!("SCRAM-SHA-512=[name={name},password={PASSWORD}]"));
    let more = More { listeners: vec![("LOGIN", "SASL_SSL")], properties, scram: scram.to_vec() };
    let mut broker = Broker::prepare_with(&dir.join("kafka"), &more)?;
    broker.resume()?;
    Ok((broker, authority))
}

/// Inside: gives the running daemons credentials, and restricts them to a few IP addresses.
pub(crate) fn are_handed_over(broker: &Broker, authority: &Authority) -> Result<()> {
    for name in DAEMONS {
        let (etc, examples) = (format!("/etc/{name}"), format!("/usr/share/doc/{name}/examples"));
        let password = format!("{etc}/kafka.password");
        fs::write(&password, format!("{PASSWORD}\n"))?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        fs::copy(&authority.file, format!("{etc}/kafka-ca.pem"))?;
        let drop_ins = format!("/etc/systemd/system/{name}.service.d");
        for example in ["credentials.conf", "addresses.conf"] {
            run("install", &["-D", "-m", "644", "-t", &drop_ins, &format!("{examples}/{example}")])?;
        }
        let login = fs::read_to_string(format!("{examples}/kafka-login.toml"))?;
        let brokers = r#"["kafka-1.example.org:9093", "kafka-2.example.org:9093"]"#;
        ensure!(login.contains(brokers), "{login}");
        let address = broker.listener("LOGIN")?;
        fs::write(format!("{etc}/conf.d/60-login.toml"), login.replace(brokers, &format!("[{address:?}]")))?;
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&[&["restart"], DAEMONS.as_slice()].concat())?;
    fresh("a start with credentials")?;
    for name in DAEMONS {
        let handed = format!("/run/credentials/{name}.service/kafka.password");
        ensure!(fs::metadata(&handed)?.permissions().mode() & 0o777 == 0o400, "{handed} is for others, too");
        ensure!(show(name, "IPAddressDeny")?.contains("::/0"), "{name} may speak with everybody");
        // As root, outside of the unit: the command uses the credential of the running unit.
        let said = run(&format!("/usr/sbin/{name}"), &["check", "--online"])?;
        println!("{name} check --online:\n{said}");
    }
    let status: Value = serde_json::from_str(&run("/usr/sbin/edr-agentd", &["status", "--format", "json"])?)?;
    let security = status["kafka"]["security"].as_str().unwrap_or_default();
    ensure!(security.contains("TLS") && security.contains("SCRAM-SHA-512"), "it speaks {security}");
    ensure!(status["pid"] == main_pid("edr-agentd")?, "another agent answers: {status}");
    Ok(())
}
