//! psad's own configuration: `psad.conf`, its override files, and the arguments of the daemon.
//!
//! Pure: [`Conf`] receives the text of the files in the order in which psad reads them, overrides first, because the
//! first definition of a key counts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::common::lines::{lines, number};

/// Rounds of `$KEY` expansion, as in psad.
const EXPANSION_ROUNDS_MAX: usize = 20;
/// Longest value after expansion, bytes: limits the growth of keys with mutual references.
const VALUE_BYTES_MAX: usize = 4 << 10;
/// Limit of keys; psad.conf has 190.
const KEYS_MAX: usize = 4_096;

/// The settings as written, before expansion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conf {
    values: BTreeMap<String, String>,
}

impl Conf {
    /// Adds the settings of a further file: lines `KEY value;`. Text after the semicolon is ignored. A known key keeps
    /// its value.
    pub(crate) fn add(&mut self, text: &[u8]) {
        for line in lines(text) {
            let line = line.trim_ascii_start();
            let Some(key_end) = line.iter().position(u8::is_ascii_whitespace).filter(|_| line[0] != b'#') else {
                continue;
            };
            let Some(value_end) = memchr::memchr(b';', &line[key_end..]) else { continue };
            let value = line[key_end..key_end + value_end].trim_ascii();
            if value.len() > VALUE_BYTES_MAX || self.values.len() >= KEYS_MAX {
                continue;
            }
            let key = String::from_utf8_lossy(&line[..key_end]).into_owned();
            self.values.entry(key).or_insert_with(|| String::from_utf8_lossy(value).into_owned());
        }
    }

    /// True without any setting.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns the value of `key` with every `$OTHER_KEY` replaced; `None` when the key is not set.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let mut value = self.values.get(key)?.clone();
        for _ in 0..EXPANSION_ROUNDS_MAX {
            let Some((before, name, after)) = reference(&value) else { break };
            let Some(inner) = self.values.get(name) else { break };
            // The root is written before paths that already start with a slash.
            let inner = if name == "INSTALL_ROOT" && inner == "/" { "" } else { inner };
            let longer = format!("{before}{inner}{after}");
            if longer.len() > VALUE_BYTES_MAX {
                break;
            }
            value = longer;
        }
        Some(value)
    }

    /// Returns the value of `key` when it is an absolute path, otherwise `default()`.
    pub(crate) fn path(&self, key: &str, default: impl FnOnce() -> PathBuf) -> PathBuf {
        self.get(key).filter(|value| value.starts_with('/') && !value.contains('$')).map_or_else(default, PathBuf::from)
    }

    /// Parses `Y` or `N`; returns `default` when the key is not set.
    pub(crate) fn yes(&self, key: &str, default: bool) -> bool {
        self.get(key).map_or(default, |value| value.eq_ignore_ascii_case("y"))
    }

    /// Parses a number; returns `default` when the key is not set to a number.
    pub(crate) fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key).and_then(|value| number(value.as_bytes())).unwrap_or(default)
    }
}

/// Splits a value at the first `$NAME`: the text before, the name, the text after.
fn reference(value: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = value.split_once('$')?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    Some((before, &rest[..end], &rest[end..]))
}

/// Arguments of the psad daemon for other files or another timing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// `-c`: the main file.
    pub(crate) config: Option<PathBuf>,
    /// `-O`: files read before the main file.
    pub(crate) overrides: Vec<PathBuf>,
    /// `-I`: seconds between two passes.
    pub(crate) interval_s: Option<u64>,
}

impl Arguments {
    /// Parses a command line, `psad.cmd` or the value of `DAEMON_ARGS`: words between blanks, options in the forms
    /// `-O file`, `--Override-config file` and `--Override-config=file`; long names in any case.
    pub(crate) fn parse(line: &[u8]) -> Self {
        let mut arguments = Self::default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace().map(|word| word.trim_matches(['"', '\'']));
        while let Some(word) = words.next() {
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let is = |short: &str, long: &str| name == short || name.eq_ignore_ascii_case(long);
            if is("-O", "--Override-config") {
                let files = attached.or_else(|| words.next()).unwrap_or_default();
                let absolute = files.split(',').filter(|file| file.starts_with('/'));
                arguments.overrides = absolute.take(16).map(PathBuf::from).collect();
            } else if is("-c", "--config") {
                let file = attached.or_else(|| words.next()).filter(|file| file.starts_with('/'));
                arguments.config = file.map(PathBuf::from);
            } else if is("-I", "--Interval") {
                arguments.interval_s = attached.or_else(|| words.next()).and_then(|n| number(n.as_bytes()));
            }
        }
        arguments
    }
}

/// Returns the value of `DAEMON_ARGS` in `/etc/default/psad`: the last assignment, without quotes.
pub(crate) fn parse_daemon_args(text: &[u8]) -> Vec<u8> {
    let assignments = lines(text).filter_map(|line| line.trim_ascii().strip_prefix(b"DAEMON_ARGS="));
    let value = assignments.last().unwrap_or_default();
    let quoted = [b"\"", b"'"].iter().find_map(|quote| {
        let inner = value.strip_prefix(*quote)?;
        Some(&inner[..memchr::memchr(quote[0], inner)?])
    });
    quoted.unwrap_or(value).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Conf {
        let mut conf = Conf::default();
        conf.add(text.as_bytes());
        conf
    }

    #[test]
    fn values_are_expanded_as_psad_does() {
        let conf = conf(
            "INSTALL_ROOT /;\nPSAD_DIR   $INSTALL_ROOT/var/log/psad;  ### state\n# PSAD_DIR /x;\n\
             FW_DATA_FILE $PSAD_DIR/fwdata;\nPSAD_DIR /later;\nDANGER_LEVEL1 5;    ### Number of packets.\nNO_END 1\n",
        );
        assert_eq!(conf.get("FW_DATA_FILE").as_deref(), Some("/var/log/psad/fwdata"));
        assert_eq!((conf.number("DANGER_LEVEL1", 0), conf.get("NO_END")), (5, None));
        assert_eq!(conf.path("FW_DATA_FILE", PathBuf::new), PathBuf::from("/var/log/psad/fwdata"));
        assert_eq!(conf.path("ULOG_DATA_FILE", || "/d/ulogd.log".into()), PathBuf::from("/d/ulogd.log"));
    }

    #[test]
    fn the_first_file_wins() {
        let mut conf = conf("ENABLE_SYSLOG_FILE N;\n");
        conf.add(b"ENABLE_SYSLOG_FILE Y;\nSYSLOG_DAEMON ulogd;\n");
        assert!(!conf.yes("ENABLE_SYSLOG_FILE", true));
        assert_eq!(conf.get("SYSLOG_DAEMON").as_deref(), Some("ulogd"));
    }

    #[test]
    fn keys_that_name_each_other_end() {
        let conf = conf("A $B$B$B$B;\nB $A$A$A$A;\nC $C;\nD $NOWHERE/x;\n");
        for key in ["A", "B", "C"] {
            assert!(conf.get(key).unwrap().len() <= VALUE_BYTES_MAX);
        }
        assert_eq!(conf.path("D", || "/default".into()), PathBuf::from("/default"));
    }

    #[test]
    fn arguments_in_each_form() {
        let parsed = Arguments::parse(b"/usr/sbin/psad -O /a.conf,/b.conf,relative -I 10 -c /etc/other.conf\n");
        let overrides = vec![PathBuf::from("/a.conf"), PathBuf::from("/b.conf")];
        assert_eq!((&parsed.overrides, parsed.interval_s), (&overrides, Some(10)));
        assert_eq!(parsed.config, Some("/etc/other.conf".into()));
        let text = b"# DAEMON_ARGS=\"x\"\nDAEMON_ARGS=\"--override-config=/root/o.conf\" # why\n";
        assert_eq!(Arguments::parse(&parse_daemon_args(text)).overrides, [PathBuf::from("/root/o.conf")]);
        assert_eq!(Arguments::parse(b"-O"), Arguments::default());
    }
}
