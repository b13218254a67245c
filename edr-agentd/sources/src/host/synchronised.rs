//! The state of the clock's synchronisation.
//!
//! The kernel knows the state (adjtimex(2)), but a sandbox may forbid this call together with the calls that set the
//! clock (`ProtectClock=`, `@clock` of systemd.exec(5)). In this case two time daemons are checked, both open to
//! queries without rights: systemd-timesyncd through the file touched at each correction, chronyd through the request
//! of `chronyc tracking`. Only a positive answer counts: a negative or missing answer proves nothing, because another
//! daemon may keep the clock. An unknown state stays unknown, and a gap has the reason.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use edr_wire::snapshot::GapReason;

use super::clock::clock_state;
use crate::common::GapCollector;

const FIELD: &[u8] = b"time.synchronised";
/// File touched by systemd-timesyncd at each correction of the clock, at least every half hour
/// (systemd-timesyncd.service(8), `PollIntervalMaxSec=`).
const TIMESYNCD: &str = "run/systemd/timesync/synchronized";
/// Time without a correction after which the kernel itself considers its clock unsynchronised: the estimated error
/// grows by 500 µs a second (`MAXFREQ`) up to 16 s (`NTP_PHASE_LIMIT`, `include/linux/timex.h`).
const CORRECTION_HOLDS: Duration = Duration::from_secs(32_000);
/// chronyd's port for monitoring (chrony.conf(5), `cmdport`), which answers everyone on the loopback interface. The
/// port is below 1024, so that impersonating chronyd needs a privilege.
const CHRONYD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 323);
/// Time limit for an answer. An answer from the same machine takes 0.1 ms.
const ANSWER_MAX: Duration = Duration::from_millis(20);

/// The time daemons, for hosts where the kernel's state is not available.
#[derive(Debug)]
pub(super) struct TimeDaemons {
    /// The root folder, instead of `/`.
    root: PathBuf,
    chronyd: SocketAddr,
}

impl Default for TimeDaemons {
    fn default() -> Self {
        Self { root: PathBuf::from("/"), chronyd: CHRONYD }
    }
}

/// Returns the state according to the kernel, otherwise according to the daemons; `None`, with a gap, when both are
/// unknown.
pub(super) fn synchronised(daemons: &TimeDaemons, gaps: &mut GapCollector) -> Option<bool> {
    clock_state().map(|state| state.synchronised).or_else(|| daemons.synchronised(gaps))
}

impl TimeDaemons {
    fn synchronised(&self, gaps: &mut GapCollector) -> Option<bool> {
        let timesyncd = match timesyncd(&self.root, SystemTime::now()) {
            Ok(()) => return Some(true),
            Err(why) => why,
        };
        let chronyd = match chronyd(self.chronyd) {
            Ok(()) => return Some(true),
            Err(why) => why,
        };
        let detail = format!("adjtimex(2) is refused; systemd-timesyncd: {timesyncd}; chronyd: {chronyd}");
        // The reason of the gap is the missing answer, not the denied adjtimex: with a time daemon nothing would be
        // missing.
        gaps.add(super::SOURCE, None, FIELD, GapReason::Gone, &detail);
        None
    }
}

fn timesyncd(root: &Path, now: SystemTime) -> Result<(), String> {
    let touched = std::fs::symlink_metadata(root.join(TIMESYNCD)).and_then(|file| file.modified());
    let touched = touched.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "has corrected nothing".to_owned(),
        _ => format!("/{TIMESYNCD}: {error}"),
    })?;
    match now.duration_since(touched) {
        Ok(age) if age < CORRECTION_HOLDS => Ok(()),
        // No number in the text: a gap with the same text at each tick costs nothing.
        Ok(_) => Err("the last correction is too long ago".to_owned()),
        Err(_) => Err("the last correction lies in the future: the clock was set since".to_owned()),
    }
}

fn chronyd(address: SocketAddr) -> Result<(), String> {
    let sequence = getrandom::u32().map_err(|error| error.to_string())?;
    let mut reply = [0; REPLY_BYTES];
    let length = exchange(address, &request(sequence), &mut reply).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "does not answer".to_owned(),
        io::ErrorKind::ConnectionRefused => "is not there".to_owned(),
        _ => error.to_string(),
    })?;
    match tracking(reply.get(..length).unwrap_or_default(), sequence) {
        // chronyd follows no other clock, but reports a normal state.
        Some((OWN_CLOCK, _)) => Err("takes the host's own clock for right (`local`)".to_owned()),
        Some((_, 0..=2)) => Ok(()),
        Some(_) => Err("is not synchronised".to_owned()),
        None => Err("the answer is malformed".to_owned()),
    }
}

fn exchange(address: SocketAddr, request: &[u8], reply: &mut [u8]) -> io::Result<usize> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // A connected socket receives datagrams only from its peer, and reports a closed port at once.
    socket.connect(address)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.send(request)?;
    socket.recv(reply)
}

// The protocol of `candm.h`, version 6 (since chrony 1.31): big-endian words. A request is as long as its reply, so
// that a server cannot be used for amplification.
const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const TRACKING: u16 = 33;
const TRACKING_REPLY: u16 = 5;
const REPLY_BYTES: usize = 104;
/// Reference id 127.127.1.1: the host's own clock (chrony.conf(5), `local`).
const OWN_CLOCK: u32 = 0x7f7f_0101;

fn request(sequence: u32) -> [u8; REPLY_BYTES] {
    let mut request = [0; REPLY_BYTES];
    // Version, type, two reserved bytes, command, attempt, sequence; the rest is padding.
    request[..2].copy_from_slice(&[VERSION, REQUEST]);
    request[4..6].copy_from_slice(&TRACKING.to_be_bytes());
    request[8..12].copy_from_slice(&sequence.to_be_bytes());
    request
}

/// Returns reference id and leap status: 0 normal, 1 and 2 a leap second is near, 3 not synchronised. `None` when
/// `reply` is no answer to this request.
fn tracking(reply: &[u8], sequence: u32) -> Option<(u32, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(reply.get(at..at + 2)?.try_into().ok()?));
    // Version, type, two reserved bytes, command, kind of reply, status, padding, sequence, padding: 28 bytes. Then
    // reference id (4), address (20), stratum (2), leap status (2), and values that are not needed.
    let is_answer = reply.len() == REPLY_BYTES
        && reply.starts_with(&[VERSION, REPLY])
        && (word(4)?, word(6)?, word(8)?) == (TRACKING, TRACKING_REPLY, 0)
        && reply.get(16..20)? == sequence.to_be_bytes();
    let reference = u32::from_be_bytes(reply.get(28..32)?.try_into().ok()?);
    if is_answer { Some((reference, word(54)?)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// A port without a listener.
    fn closed() -> SocketAddr {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
    }

    fn touch(root: &Path, when: SystemTime) {
        let file = root.join(TIMESYNCD);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        File::create(file).unwrap().set_modified(when).unwrap();
    }

    #[test]
    fn only_a_fresh_correction_is_a_yes_the_rest_is_unknown_with_a_reason() {
        let root = tempfile::tempdir().unwrap();
        let daemons = TimeDaemons { root: root.path().to_owned(), chronyd: closed() };
        let mut gaps = GapCollector::default();
        let mut why = || {
            assert_eq!(daemons.synchronised(&mut gaps), None);
            let gap = gaps.take().pop().unwrap();
            assert_eq!((gap.source.as_str(), gap.field.as_ref()), ("host", FIELD));
            gap.detail
        };
        assert_eq!(why(), "adjtimex(2) is refused; systemd-timesyncd: has corrected nothing; chronyd: is not there");
        let now = SystemTime::now();
        touch(root.path(), now - CORRECTION_HOLDS);
        assert!(why().contains("too long ago"));
        touch(root.path(), now + Duration::from_secs(3_600));
        assert!(why().contains("the clock was set since"));
        for age in [Duration::ZERO, Duration::from_secs(2_048), CORRECTION_HOLDS - Duration::from_secs(60)] {
            touch(root.path(), now - age);
            assert_eq!(daemons.synchronised(&mut gaps), Some(true), "{age:?}");
        }
        assert_eq!(gaps.take(), []);
    }

    /// A reply of chronyd: the frame of an answer to `sequence`.
    fn reply(sequence: [u8; 4], leap: u16) -> [u8; REPLY_BYTES] {
        let mut reply = [0; REPLY_BYTES];
        reply[..2].copy_from_slice(&[6, 2]);
        (reply[5], reply[7]) = (33, 5);
        reply[16..20].copy_from_slice(&sequence);
        reply[54..56].copy_from_slice(&leap.to_be_bytes());
        reply
    }

    #[test]
    fn chronyd_is_believed_only_for_a_yes_to_this_request() {
        let root = tempfile::tempdir().unwrap();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        let ask = |answer: &(dyn Fn([u8; 4]) -> Vec<u8> + Sync)| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut request = [0; 200];
                    let (length, from) = server.recv_from(&mut request).unwrap();
                    assert_eq!((length, &request[..8]), (REPLY_BYTES, &[6, 1, 0, 0, 0, 33, 0, 0][..]));
                    server.send_to(&answer(request[8..12].try_into().unwrap()), from).unwrap();
                });
                chronyd(address)
            })
        };
        // A machine under load may be slower than a question waits.
        let patiently = |answer: &(dyn Fn([u8; 4]) -> Vec<u8> + Sync)| {
            std::iter::repeat_with(|| ask(answer)).find(|said| *said != Err("does not answer".to_owned())).unwrap()
        };
        for leap in 0..3 {
            assert_eq!(patiently(&|sequence| reply(sequence, leap).to_vec()), Ok(()));
        }
        assert_eq!(patiently(&|sequence| reply(sequence, 3).to_vec()), Err("is not synchronised".to_owned()));
        let refused = Err("the answer is malformed".to_owned());
        assert_eq!(patiently(&|sequence| reply(sequence.map(|byte| !byte), 0).to_vec()), refused);
        assert_eq!(patiently(&|sequence| reply(sequence, 0)[..103].to_vec()), refused);
        assert_eq!(patiently(&|_| Vec::new()), refused);
        drop(server);
        let daemons = TimeDaemons { root: root.path().to_owned(), chronyd: address };
        assert_eq!(daemons.synchronised(&mut GapCollector::default()), None);
    }

    const CHRONYD: &str = "usr/sbin/chronyd";

    /// A chronyd that ends with the test.
    struct Chronyd(std::process::Child);

    impl Chronyd {
        fn start(root: &Path, dir: &Path, name: &str, config: &str) -> Self {
            let (file, pid) = (dir.join(name), dir.join(name).with_extension("pid"));
            fs::write(&file, format!("bindcmdaddress /\npidfile {}\n{config}", pid.display())).unwrap();
            let mut command = edr_tests::unpacked::command(root, root.join(CHRONYD));
            // -x: the clock is left alone.
            command.args(["-d", "-x", "-U", "-u", "root", "-f"]).arg(file).stderr(std::process::Stdio::null());
            Self(command.spawn().unwrap())
        }
    }

    impl Drop for Chronyd {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_real_chronyd_is_believed_when_it_follows_a_server_not_its_own_clock() {
        let Some(root) = edr_tests::unpacked::unpacked(CHRONYD) else { return };
        let dir = tempfile::tempdir().unwrap();
        let server = closed().port();
        let text = format!("port {server}\nbindaddress 127.0.0.1\ncmdport 0\nallow 127.0.0.0/8\nlocal stratum 8\n");
        let _server = Chronyd::start(&root, dir.path(), "server", &text);
        let own = Err("takes the host's own clock for right (`local`)".to_owned());
        let follows = format!("server 127.0.0.1 port {server} iburst minpoll -6 maxpoll -6");
        for (source, says) in
            [("", Err("is not synchronised".to_owned())), ("local stratum 10", own), (follows.as_str(), Ok(()))]
        {
            let address = closed();
            let text = format!("port 0\ncmdport {}\nbindcmdaddress 127.0.0.1\n{source}\n", address.port());
            let mut client = Chronyd::start(&root, dir.path(), "client", &text);
            let started = std::time::Instant::now();
            loop {
                let said = chronyd(address);
                if said == says {
                    break;
                }
                if let Some(ended) = client.0.try_wait().unwrap() {
                    println!("skipped: chronyd does not run here: {ended}");
                    return;
                }
                assert!(started.elapsed() < Duration::from_secs(60), "{source:?}: {said:?}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn every_byte_of_the_frame_of_an_answer_counts() {
        let good = reply([1, 2, 3, 4], 0);
        assert_eq!(tracking(&good, 0x0102_0304), Some((0, 0)));
        for at in [0, 1, 4, 5, 6, 7, 8, 9, 16, 17, 18, 19] {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(tracking(&bad, 0x0102_0304), None, "byte {at}");
        }
        for length in 0..REPLY_BYTES {
            assert_eq!(tracking(&good[..length], 0x0102_0304), None);
        }
    }
}
