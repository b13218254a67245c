//! Compares the agent's state with psad's files, parsed by independent code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use edr_wire::snapshot::Gap;

use super::world::PsadReading;

/// Content and modification time of every file, by path.
pub(super) type FileTree = BTreeMap<PathBuf, (Vec<u8>, Option<SystemTime>)>;

pub(super) fn tree(folder: &Path) -> FileTree {
    let mut files = FileTree::new();
    let Ok(entries) = fs::read_dir(folder) else { return files };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            let time = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            files.insert(path.clone(), (fs::read(&path).unwrap_or_default(), time));
        }
    }
    files
}

/// Compares the agent's state with psad's files, parsed by independent code. Returns false when a file was half
/// written.
pub(super) fn compare(tree: &FileTree, reading: &PsadReading, gaps: &[Gap]) -> bool {
    if gaps.iter().any(|gap| gap.detail.starts_with("half written")) {
        return false;
    }
    assert!(gaps.is_empty(), "{gaps:?}");
    let text = |name: &str| {
        let found = tree.iter().find(|(path, _)| path.ends_with(Path::new("psad").join(name)));
        found.map_or(String::new(), |(_, (text, _))| String::from_utf8(text.clone()).unwrap())
    };
    let rows = |name: &str| -> BTreeSet<Vec<String>> {
        let text = text(name);
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        lines.map(|line| line.split_whitespace().map(plain).collect()).collect()
    };
    let psad = &reading.psad;
    let row = |fields: &[&dyn ToString]| fields.iter().map(|field| field.to_string()).collect::<Vec<_>>();
    let attackers = psad.top_attackers.iter().map(|a| {
        row(&[&a.ip, &a.danger_level, &a.packets, &a.unique_signatures, &a.signature_matches, &u8::from(a.is_local)])
    });
    assert_eq!(attackers.collect::<BTreeSet<_>>(), rows("top_attackers"));
    let ports = psad.top_ports.iter().map(|p| row(&[&p.protocol, &p.port, &p.packets]));
    assert_eq!(ports.collect::<BTreeSet<_>>(), rows("top_ports"));
    let protocols = psad.protocol_counters.iter().map(|c| row(&[&format!("{}:", c.protocol), &c.packets]));
    assert_eq!(protocols.collect::<BTreeSet<_>>(), rows("packet_ctr"));
    let signatures = psad
        .top_signatures
        .iter()
        .map(|s| format!("{} \"{}\" {} {} {}", s.sid, s.msg, s.matches, s.sources, s.protocol));
    let theirs =
        text("top_sigs").lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect();
    assert_eq!(signatures.collect::<BTreeSet<_>>(), theirs);
    let prefixes = psad.prefix_counters.iter().map(|c| format!("{}: {}", c.prefix, c.packets));
    assert_eq!(prefixes.collect::<BTreeSet<_>>(), text("ipt_prefix_ctr").lines().map(str::to_owned).collect());

    let mut folders: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for (path, (text, _)) in tree {
        let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        if let Ok(ip) = folder.parse::<IpAddr>() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            folders.entry(ip.to_string()).or_default().insert(name, String::from_utf8_lossy(text).into_owned());
        }
    }
    let sources: BTreeSet<String> = psad.sources.iter().map(|source| source.ip.clone()).collect();
    assert_eq!(sources, folders.keys().cloned().collect());
    for source in &psad.sources {
        let files = &folders[&source.ip];
        assert_eq!(format!("{}\n", source.danger_level), files["danger_level"]);
        let (mut packets, mut signatures, mut starts) = (0, 0, 0);
        for (name, text) in files {
            let Some((target, what)) = name.split_once('_') else { continue };
            let Ok(target) = target.parse::<IpAddr>() else { continue };
            let Some(ours) = source.targets.iter().find(|other| other.ip == target.to_string()) else { continue };
            match what {
                "start_time" => {
                    starts += 1;
                    assert_eq!(format!("{}\n", ours.start_time), *text);
                }
                "packet_ctr" => {
                    packets += 1;
                    let rows = ours.packets.iter().map(|p| {
                        let ports = match (p.port_low, p.port_high) {
                            (Some(low), Some(high)) if low != high => format!(" [{low}-{high}]"),
                            (Some(low), _) => format!(" [{low}]"),
                            _ => String::new(),
                        };
                        format!("{}_{}_{}:  {}{ports}", p.chain, p.interface, p.protocol, p.packets)
                    });
                    assert_eq!(rows.collect::<BTreeSet<_>>(), text.lines().map(str::to_owned).collect());
                }
                "signatures" => {
                    signatures += 1;
                    let rows = ours.signatures.iter().map(|s| {
                        format!(
                            "{} {} {} \"{}\" {} {} {} \"{}\" {} {}",
                            s.time,
                            s.sid,
                            s.matches,
                            s.msg,
                            s.chain,
                            s.protocol,
                            s.port,
                            s.flags,
                            u8::from(s.is_fwsnort),
                            u8::from(s.is_psad)
                        )
                    });
                    let theirs = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
                    assert_eq!(rows.collect::<BTreeSet<_>>(), theirs);
                }
                _ => {}
            }
        }
        let with = |has: fn(&edr_wire::snapshot::ScanTarget) -> bool| source.targets.iter().filter(|t| has(t)).count();
        assert_eq!(with(|target| !target.packets.is_empty()), packets);
        assert_eq!(with(|target| !target.signatures.is_empty()), signatures);
        assert_eq!(with(|target| target.start_time > 0), starts);
    }
    true
}

/// Returns a word, in canonical form when it is an address.
fn plain(word: &str) -> String {
    word.parse::<IpAddr>().map_or_else(|_| word.to_owned(), |address| address.to_string())
}
