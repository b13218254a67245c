//! Sources of psad's configuration: psad.conf, its override files, the daemon's arguments, or a folder set by hand.

use std::fs;

use edr_sources::psad::{PsadReader, PsadSettings};
use edr_wire::snapshot::{PsadMode, PsadRunState};

use super::world::{PsadWorld, fixtures, read};

/// A psad with its files configured below `srv`.
fn elsewhere(extra: &str) -> (PsadWorld, PsadSettings) {
    let world = PsadWorld::empty();
    let base = world.log_dir().join("../..").canonicalize().unwrap();
    let from = PsadWorld::of("kmsgsd-fwdata/t1");
    fs::create_dir_all(base.join("srv")).unwrap();
    fs::rename(from.log_dir().join("psad"), base.join("srv/psad")).unwrap();
    let conf = format!(
        "{extra}INSTALL_ROOT /;\nROOT {};\nPSAD_DIR $INSTALL_ROOT$ROOT/srv/psad; ### state\nFW_DATA_FILE \
        $PSAD_DIR/fwdata;\n\
         PSAD_RUN_DIR $ROOT/run;\nAUTO_DETECT_JOURNALCTL N;\nDANGER_LEVEL2 16;\nENABLE_AUTO_IDS Y;\n\
         AUTO_IDS_DANGER_LEVEL 4;\n",
        base.display()
    );
    world.write(&base.join("etc/psad/psad.conf"), conf);
    let settings = PsadSettings { psad_dir: None, ..world.settings() };
    (world, settings)
}

#[test]
fn the_configuration_gives_places_and_mode() {
    let (world, settings) = elsewhere("");
    let (reading, _) = read(&mut PsadReader::open(settings.clone(), &[]));
    assert_eq!(reading.psad.mode, PsadMode::File);
    assert_eq!(reading.psad.sources.len(), 3);
    let conf = reading.psad.conf.unwrap();
    assert_eq!((conf.danger_levels, conf.check_interval_s), ([5, 16, 150, 1_500, 10_000], 5));
    assert_eq!((conf.block_danger_level, conf.block_timeout_s), (Some(4), Some(3_600)));
    assert!(reading.packets.is_empty(), "in file mode fwdata is not what psad reads");

    // The start-up file of a stopped psad names an override file.
    let base = world.log_dir().join("../..").canonicalize().unwrap();
    world.write(&base.join("over.conf"), "ENABLE_SYSLOG_FILE N;\n");
    world.write(&base.join("etc/default/psad"), format!("DAEMON_ARGS=\"-O {}\"\n", base.join("over.conf").display()));
    let mut reader = PsadReader::open(settings.clone(), &[]);
    let (reading, _) = read(&mut reader);
    assert_eq!((reading.psad.mode, reading.packets.len()), (PsadMode::Kmsgsd, 1_034));
    assert_eq!(reading.psad.conf.unwrap().packet_log.to_string(), base.join("srv/psad/fwdata").display().to_string());

    // The arguments of a running psad take precedence, and a change is noticed at the next tick.
    world.write(&base.join("more.conf"), "ENABLE_SYSLOG_FILE N;\nSYSLOG_DAEMON ulogd;\n");
    let line = format!("/usr/sbin/psad -I 9 --Override-config {}\n", base.join("more.conf").display());
    world.write(&base.join("run/psad.cmd"), line);
    let (reading, _) = read(&mut reader);
    assert_eq!((reading.psad.mode, reading.psad.conf.unwrap().check_interval_s), (PsadMode::Ulogd, 9));
}

#[test]
fn a_configuration_that_names_itself_or_nothing_is_no_trap() {
    let (_world, settings) = elsewhere("PSAD_RUN_DIR $PSAD_RUN_DIR/x;\nFW_DATA_FILE $FW_DATA_FILE$FW_DATA_FILE;\n");
    let (reading, _) = read(&mut PsadReader::open(settings, &[]));
    assert_eq!(reading.psad.sources.len(), 3);
}

#[test]
fn a_folder_named_by_hand_is_described_by_its_files_only() {
    let (_world, settings) = elsewhere("");
    let by_hand = fixtures().join("ipv6/var/log/psad");
    let (reading, _) = read(&mut PsadReader::open(PsadSettings { psad_dir: Some(by_hand), ..settings }, &[]));
    assert_eq!((reading.psad.mode, reading.psad.conf, reading.psad.pid), (PsadMode::File, None, None));
    assert_ne!(reading.psad.state, PsadRunState::Absent);
    assert_eq!(reading.packets.len(), 3_117);
}
