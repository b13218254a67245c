//! Limits how many hosts become known. Frames are not signed, so any writer of the topic can invent hosts.
//!
//! A first budget lets in hosts in the order of arrival. Hosts beyond the budget are remembered, and a second budget
//! lets in those that come again: a host that exists sends every few seconds, and needs no luck against a flood of
//! hosts that are each invented once. Both budgets are refilled by the times of receipt, so reading the archive again
//! has the same result.

use std::collections::{HashMap, VecDeque};

use edr_wire::HostId;

/// New hosts at once: a fleet that begins to send.
const AT_ONCE_MAX: u32 = 10_000;
/// New hosts a minute, half of them hosts that come again. Hosts seen once leave the list after a day: together with
/// [`AT_ONCE_MAX`] they are 96,400, fewer than [`HOSTS_MAX`](super::HOSTS_MAX).
pub(super) const NEW_PER_MINUTE: u32 = 60;
/// Hosts of the second budget at once.
const AGAIN_AT_ONCE_MAX: u32 = NEW_PER_MINUTE / 2;
/// Time, in ns, after which a refused host comes again.
const AGAIN_NS: i64 = 5_000_000_000;
/// Refused hosts remembered, about 64 bytes each.
const WAITING_MAX: usize = 65_536;
const MINUTE_NS: i64 = 60_000_000_000;

/// Places for new hosts.
#[derive(Debug)]
pub(super) struct Admission {
    first: Budget,
    again: Budget,
    /// When each refused host was first refused, ns since the epoch.
    waiting: HashMap<HostId, i64>,
    /// The refused hosts, oldest first.
    order: VecDeque<HostId>,
    is_unlimited: bool,
}

/// Places that are refilled with time.
#[derive(Debug)]
struct Budget {
    left: u32,
    left_max: u32,
    /// Up to when the places are refilled, ns since the epoch.
    refilled_ns: i64,
}

impl Budget {
    fn take(&mut self, now_ns: i64) -> bool {
        let place_ns = MINUTE_NS / i64::from(NEW_PER_MINUTE / 2);
        let elapsed_ns = now_ns.saturating_sub(self.refilled_ns);
        let places = u32::try_from(elapsed_ns.max(0) / place_ns).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(places).min(self.left_max);
        // After the clock was set back, refilling goes on from the new time.
        let is_full = self.left == self.left_max;
        self.refilled_ns = if is_full || elapsed_ns < 0 {
            now_ns
        } else {
            self.refilled_ns.saturating_add(i64::from(places) * place_ns)
        };
        let is_free = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_free
    }
}

impl Default for Admission {
    fn default() -> Self {
        let budget = |left| Budget { left, left_max: left, refilled_ns: i64::MIN };
        Self {
            first: budget(AT_ONCE_MAX),
            again: budget(AGAIN_AT_ONCE_MAX),
            waiting: HashMap::new(),
            order: VecDeque::new(),
            is_unlimited: false,
        }
    }
}

impl Admission {
    /// Lets in all hosts.
    pub(super) fn unlimited() -> Self {
        Self { is_unlimited: true, ..Self::default() }
    }

    /// Returns true when a new host with a frame received at this time (ns since the epoch) becomes known.
    pub(super) fn admit(&mut self, host_id: HostId, received_ns: i64) -> bool {
        if self.is_unlimited || self.first.take(received_ns) {
            return true;
        }
        match self.waiting.get(&host_id) {
            Some(since_ns) => {
                let comes_again = received_ns.saturating_sub(*since_ns) >= AGAIN_NS;
                let is_admitted = comes_again && self.again.take(received_ns);
                if is_admitted {
                    self.waiting.remove(&host_id);
                }
                is_admitted
            }
            None => {
                self.waiting.insert(host_id, received_ns);
                self.order.push_back(host_id);
                while self.order.len() > WAITING_MAX {
                    if let Some(oldest) = self.order.pop_front() {
                        self.waiting.remove(&oldest);
                    }
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;

    fn invented(n: u64) -> HostId {
        let mut id = [0xee; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        HostId(id)
    }

    #[test]
    fn a_flood_of_invented_hosts_leaves_places_for_hosts_that_come_again() {
        let mut admission = Admission::default();
        let begin_ns = 1_800_000_000 * SECOND_NS;
        let honest = HostId([1; 16]);
        let (mut let_in, mut honest_s, mut next) = (0, None, 0);
        for second in 0..120 {
            for _ in 0..2_000 {
                next += 1;
                let_in += u32::from(admission.admit(invented(next), begin_ns + second * SECOND_NS));
            }
            if second >= 30 && second % 10 == 0 && honest_s.is_none() {
                honest_s = admission.admit(honest, begin_ns + second * SECOND_NS).then_some(second);
            }
        }
        assert!((10_000..=10_000 + 60).contains(&let_in), "{let_in}");
        assert_eq!(honest_s, Some(40), "the second frame of the host");
        assert!(admission.waiting.len() <= WAITING_MAX && admission.order.len() <= WAITING_MAX);
    }

    #[test]
    fn hosts_invented_for_a_whole_day_do_not_fill_the_list() {
        let mut admission = Admission::default();
        let mut let_in = 0;
        for second in 0..86_400_i64 {
            // Ten hosts a second, each of which comes again.
            for n in 0..10 {
                let_in += usize::from(admission.admit(invented(second as u64 * 10 + n), second * SECOND_NS));
                if second >= 10 {
                    let again = invented((second as u64 - 10) * 10 + n);
                    let_in += usize::from(admission.admit(again, second * SECOND_NS));
                }
            }
        }
        assert!(let_in < super::super::HOSTS_MAX, "{let_in}");
    }

    #[test]
    fn a_clock_that_jumps_neither_closes_nor_opens_the_list() {
        let mut admission = Admission::default();
        let at = |admission: &mut Admission, hosts: std::ops::Range<u64>, ns: i64| {
            hosts.filter(|n| admission.admit(invented(*n), ns)).count()
        };
        assert_eq!(at(&mut admission, 0..20_000, i64::MAX), 10_000);
        assert_eq!(at(&mut admission, 20_000..20_100, 0), 0);
        assert_eq!(at(&mut admission, 20_100..20_200, 60 * SECOND_NS), 30);
        assert_eq!(at(&mut admission, 30_000..60_000, i64::MAX), 10_000);
        assert_eq!(at(&mut admission, 60_000..90_000, i64::MIN), 0);
    }
}
