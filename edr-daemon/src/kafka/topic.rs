//! Checks of a topic's settings, with the commands that correct them.

use std::time::Duration;

use super::{CertificateVerdict, Security, ask};
use crate::config::{show_bytes, show_duration};
use crate::preflight::Findings;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// A certificate that expires within this time is reported as a warning.
const SOON_SECONDS: i64 = 30 * 86_400;

/// Largest batch of records that the collector reads, bytes, as Kafka stores it and unfolded. The largest record of an
/// agent has 4 MiB (`kafka.part-bytes-max`), and an agent's batches have 1 MiB, or one record.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// The size of a record, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordBytes {
    /// Size of the largest body alone: a smaller limit cannot work.
    pub least: u64,
    /// Size with the largest possible header.
    pub most: u64,
}

/// Checks the settings of `topic`; `value` returns a setting by its name, when known.
pub fn judge(
    findings: &mut Findings,
    topic: &str,
    brokers: &[String],
    record: RecordBytes,
    value: impl Fn(&str) -> Option<String>,
) {
    let set = |setting: &str| {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config \
            {setting}",
            brokers.join(",")
        )
    };
    let number = |name: &str| value(name).and_then(|text| text.parse::<u64>().ok());
    match number("max.message.bytes") {
        Some(bytes) if bytes < record.least => findings.fail(
            "topic size",
            format!("max.message.bytes is {bytes}, records have up to {}", record.most),
            format!(
                "{}, or lower kafka.part-bytes-max of the agents",
                set(&format!("max.message.bytes={}", record.most))
            ),
        ),
        Some(bytes) if bytes < record.most => findings.ok(
            "topic size",
            format!(
                "max.message.bytes is {bytes}: enough for a part, and {} of header",
                show_bytes(bytes.saturating_sub(record.least))
            ),
        ),
        Some(bytes) if bytes > BATCH_BYTES_MAX as u64 => findings.warn(
            "topic size",
            format!(
                "max.message.bytes is {bytes}: batches above {} are passed over by the collector",
                show_bytes(BATCH_BYTES_MAX as u64)
            ),
            set(&format!("max.message.bytes={BATCH_BYTES_MAX}")),
        ),
        Some(bytes) => findings.ok("topic size", format!("max.message.bytes is {bytes}")),
        None => {}
    }
    if let Some(policy) = value("cleanup.policy") {
        if policy.contains("compact") {
            findings.fail(
                "topic keeps",
                format!("cleanup.policy is {policy}: of every host only the last record would stay"),
                set("cleanup.policy=delete"),
            );
        }
        let longest = |ms: u64| show_duration(Duration::from_millis(ms));
        match value("retention.ms").as_deref().map(str::parse::<i64>) {
            Some(Ok(ms)) if ms >= 0 && ms.unsigned_abs() < DAY_MS => findings.warn(
                "topic keeps",
                format!(
                    "retention.ms is {}: a longer outage of the collector loses records",
                    longest(ms.unsigned_abs())
                ),
                set("retention.ms=604800000"),
            ),
            Some(Ok(ms)) if ms >= 0 => {
                findings.ok("topic keeps", format!("records for {}", longest(ms.unsigned_abs())));
            }
            Some(Ok(_)) => findings.ok("topic keeps", "records for ever"),
            _ => {}
        }
    }
    if let Some(bytes) = value("retention.bytes").and_then(|text| text.parse::<i64>().ok()).filter(|bytes| *bytes >= 0)
    {
        findings.warn(
            "topic keeps",
            format!(
                "retention.bytes is {}: whoever writes the topic can push out records that are not archived yet",
                show_bytes(bytes.unsigned_abs())
            ),
            set("retention.bytes=-1"),
        );
    }
    if value("unclean.leader.election.enable").as_deref() == Some("true") {
        findings.warn(
            "topic copies",
            "unclean.leader.election.enable is true: a broker without the newest records may become the leader, and \
             acknowledged records are lost",
            set("unclean.leader.election.enable=false"),
        );
    }
    if let Some(codec) = value("compression.type").filter(|codec| codec != "producer") {
        findings.warn(
            "topic codec",
            format!(
                "compression.type is {codec}: a broker unfolds batches with another codec in its own memory, without a \
                 limit, and a batch of 1 MB can end the broker"
            ),
            set("compression.type=producer"),
        );
    }
    let before = number("message.timestamp.before.max.ms");
    match (value("message.timestamp.type").as_deref(), number("message.timestamp.after.max.ms")) {
        (Some("CreateTime"), Some(after)) if after < HOUR_MS => findings.warn(
            "topic time",
            format!("records with a clock {} ahead are refused", show_duration(Duration::from_millis(after))),
            set("message.timestamp.type=LogAppendTime"),
        ),
        (Some("CreateTime"), _) if before.is_some_and(|before| before < DAY_MS) => findings.warn(
            "topic time",
            format!(
                "records older than {} are refused: frames that a host kept during an outage are lost",
                show_duration(Duration::from_millis(before.unwrap_or(0)))
            ),
            set("message.timestamp.before.max.ms=9223372036854775807"),
        ),
        (Some(kind), _) => findings.ok("topic time", format!("message.timestamp.type is {kind}")),
        (None, _) => {}
    }
}

/// Checks the certificates in the files and the certificates of the brokers, to which this function connects.
pub fn judge_security(findings: &mut Findings, security: &Security, brokers: &[String], now: jiff::Timestamp) {
    if let Err(faults) = security.read() {
        for fault in faults {
            findings.fail("credentials", format!("{}: {}", fault.key, fault.fault.rule), fault.fault.remedy);
        }
        return;
    }
    if security.tls.is_none() {
        findings.warn(
            "security",
            format!("the connection to Kafka is {}: it can be read and changed on the way", security.summary()),
            "enabled = true under [kafka.tls], with a TLS port of the brokers",
        );
    } else {
        findings.ok("security", security.summary());
    }
    let left = |at: Option<jiff::Timestamp>| at.map(|at| at.as_second() - now.as_second());
    let shown = |at: Option<jiff::Timestamp>| at.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string());
    // The bundle of the system is not checked: it is not part of this configuration.
    for (key, validity) in security.certificates() {
        let text = format!("{key}: {} until {}", validity.subject, shown(validity.not_after));
        match left(validity.not_after) {
            Some(left) if left <= 0 => {
                findings.fail("certificate", format!("{text}: expired"), "put a new certificate into the file");
            }
            Some(left) if left < SOON_SECONDS => {
                findings.warn(
                    "certificate",
                    format!("{text}: ends within 30 days"),
                    "put a new certificate into the file in time",
                );
            }
            _ => findings.ok("certificate", text),
        }
    }
    let Some(tls) = &security.tls else { return };
    for broker in brokers {
        match ask(broker, tls) {
            Err(error) => findings.fail("tls", error, "look whether the broker runs, and whether this port speaks TLS"),
            Ok(found) => match found.in_words(broker, tls, now) {
                Some(words) => {
                    let (text, remedy) = words.split_once(": ").unwrap_or((&words, ""));
                    findings.fail("tls", text, remedy);
                }
                None => {
                    let until = found.validity.not_after;
                    let text = format!("{broker} shows {} until {}", found.names.join(", "), shown(until));
                    debug_assert_eq!(found.verdict, CertificateVerdict::Good);
                    if left(until).is_some_and(|left| left < SOON_SECONDS) {
                        findings.warn("tls", format!("{text}: ends within 30 days"), "renew it on the broker in time");
                    } else {
                        findings.ok("tls", text);
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Level;

    #[test]
    fn unfit_settings_are_reported_with_the_command_to_change_them() {
        let judge = |settings: &[(&str, &str)]| {
            let mut findings = Findings::default();
            let value =
                |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            super::judge(&mut findings, "t", &["b:1".to_owned()], RecordBytes { least: 1_000, most: 2_000 }, value);
            findings
        };
        let good = [
            ("max.message.bytes", "1048588"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("message.timestamp.type", "CreateTime"),
            ("message.timestamp.after.max.ms", "3600000"),
            ("compression.type", "producer"),
            ("retention.bytes", "-1"),
            ("unclean.leader.election.enable", "false"),
            ("message.timestamp.before.max.ms", "9223372036854775807"),
        ];
        assert_eq!(judge(&good).worst(), Level::Ok);
        assert_eq!(judge(&good).iter().count(), 3);
        for (name, wrong, level, remedy) in [
            ("max.message.bytes", "999", Level::Fail, "--entity-name t --add-config max.message.bytes=2000"),
            ("max.message.bytes", "8388609", Level::Warn, "--add-config max.message.bytes=8388608"),
            ("compression.type", "uncompressed", Level::Warn, "--add-config compression.type=producer"),
            ("cleanup.policy", "compact,delete", Level::Fail, "--add-config cleanup.policy=delete"),
            ("retention.ms", "3600000", Level::Warn, "--add-config retention.ms=604800000"),
            ("message.timestamp.after.max.ms", "1000", Level::Warn, "message.timestamp.type=LogAppendTime"),
            ("message.timestamp.before.max.ms", "3600000", Level::Warn, "message.timestamp.before.max.ms=92"),
            ("retention.bytes", "1073741824", Level::Warn, "--add-config retention.bytes=-1"),
            ("unclean.leader.election.enable", "true", Level::Warn, "unclean.leader.election.enable=false"),
        ] {
            let mut settings = good;
            settings.iter_mut().filter(|(known, _)| *known == name).for_each(|(_, value)| *value = wrong);
            let findings = judge(&settings);
            let worst = findings.iter().find(|finding| finding.level == level).unwrap();
            assert!(worst.remedy.contains(remedy), "{worst:?}");
            assert_eq!(findings.worst(), level);
        }
        assert_eq!(judge(&[]).iter().count(), 0);
    }
}
