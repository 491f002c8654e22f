//! The port state of an address whose ports are leased one by one.

use super::bitmap::Bitmap;
use super::external::{Counters, Usage};
use super::{Allowed, MAX_WORKERS, PortRange, PortSpace, Preference};
use crate::arch::prefetch_index;
use crate::base::{Random, WorkerId};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// Units of one space: a bit per free port, and who holds the others.
struct Space {
    free: Bitmap,
    /// Per port: worker + 1, 0 = nobody, [`RESTING`] added while in hold.
    owners: Box<[AtomicU8]>,
    counters: Counters,
}

/// The bit of the owner byte that says "given back, but not to be reissued yet".
const RESTING: u8 = 0x80;

/// Single ports of one external address, leased by any worker.
///
/// A port is free, in use (a mapping has it), or in hold (RFC 6888 REQ-8); its worker stays its owner in hold.
pub struct SinglePorts {
    spaces: [Space; PortSpace::COUNT],
    errors: AtomicU64,
}

impl SinglePorts {
    /// Bytes of the port state.
    pub(super) fn memory_bytes(&self) -> usize {
        let space = |s: &Space| size_of_val(&*s.owners) + s.owners.len() / 8;
        self.spaces.iter().map(space).sum()
    }

    /// All 65,536 ports of every space free.
    pub(super) fn new() -> SinglePorts {
        let space = || Space {
            free: Bitmap::free(65_536),
            owners: (0..=u16::MAX).map(|_| AtomicU8::new(0)).collect(),
            counters: Counters::default(),
        };
        SinglePorts {
            spaces: std::array::from_fn(|_| space()),
            errors: AtomicU64::new(0),
        }
    }

    /// Leases `port` to `worker`; false if somebody has it. The caller checks that the port is allowed.
    #[inline]
    pub fn claim(&self, space: PortSpace, port: u16, worker: WorkerId) -> bool {
        let state = &self.spaces[space.index()];
        let won = state.free.claim(u32::from(port));
        if won {
            state.won(port, worker);
        }
        won
    }

    /// Leases a random allowed port, or `None` if no allowed port is free.
    ///
    /// The search starts at a port drawn uniformly from the union of the ranges, so that ranges are used in
    /// proportion to their size, and takes the next free one, around the end of the ranges (RFC 6056 §3.3.1). If the
    /// network card steers by port, the port drawn is moved to where replies come to this worker, unless that is not
    /// allowed.
    // Implements: G15, P9.
    #[inline]
    pub fn claim_random(
        &self,
        worker: WorkerId,
        allowed: &Allowed<'_>,
        preference: Preference,
        random: &mut Random,
    ) -> Option<u16> {
        self.claim_from(preference.start(worker, allowed, random)?, worker, allowed)
    }

    /// Leases the lowest allowed free port above `after`, around the end of the ranges; `None` if none is free.
    #[inline]
    pub fn claim_sequential(
        &self,
        worker: WorkerId,
        allowed: &Allowed<'_>,
        after: u16,
    ) -> Option<u16> {
        self.claim_from(after.wrapping_add(1), worker, allowed)
    }

    /// The first allowed free port at or after `start`, around the end of the ranges.
    // Implements: G13.
    fn claim_from(&self, start: u16, worker: WorkerId, allowed: &Allowed<'_>) -> Option<u16> {
        let high = allowed.clip(allowed.clip_above(start));
        let found = self.claim_ascending(&high, worker);
        if found.is_some() || start == 0 {
            return found;
        }
        self.claim_ascending(&allowed.clip(allowed.clip_below(start)?), worker)
    }

    /// The lowest allowed free port.
    fn claim_ascending(&self, allowed: &Allowed<'_>, worker: WorkerId) -> Option<u16> {
        let state = &self.spaces[allowed.space().index()];
        for PortRange { first, last } in allowed.ranges() {
            let bit = state
                .free
                .claim_in(first.into(), last.into(), |w| allowed.unreserved_word(w));
            if let Some(bit) = bit {
                let port = bit as u16;
                state.won(port, worker);
                return Some(port);
            }
        }
        None
    }

    /// Ports `window` (a multiple of 64) to `window + 63`, bit set = free.
    #[inline]
    pub(super) fn free_in(&self, space: PortSpace, window: u16) -> u64 {
        self.spaces[space.index()].free.word(window.into())
    }

    /// Gives a port in use back for immediate reuse. A port nobody uses is counted as an error and stays.
    #[inline]
    pub fn release(&self, space: PortSpace, port: u16) {
        let state = &self.spaces[space.index()];
        let owner = state.owners[usize::from(port)].load(Relaxed);
        if owner == 0 || owner & RESTING != 0 {
            self.errors.fetch_add(1, Relaxed);
            return;
        }
        state.counters.in_use_down();
        state.free_port(port);
    }

    /// Puts a port in use into hold; true if it was in use, and so [`SinglePorts::release_held`] must follow.
    #[inline]
    pub fn hold(&self, space: PortSpace, port: u16) -> bool {
        let state = &self.spaces[space.index()];
        let owner = state.owners[usize::from(port)].load(Relaxed);
        if owner == 0 || owner & RESTING != 0 {
            self.errors.fetch_add(1, Relaxed);
            return false;
        }
        state.owners[usize::from(port)].store(owner | RESTING, SeqCst);
        state.counters.in_use_down();
        state.counters.held_add(1);
        true
    }

    /// Ends the hold of a port: it may be leased again.
    #[inline]
    pub fn release_held(&self, space: PortSpace, port: u16) {
        let state = &self.spaces[space.index()];
        if state.owners[usize::from(port)].load(Relaxed) & RESTING == 0 {
            self.errors.fetch_add(1, Relaxed);
            return;
        }
        state.counters.held_sub(1);
        state.free_port(port);
    }

    /// The worker that holds `port`, in use or in hold.
    #[inline]
    pub fn owner(&self, space: PortSpace, port: u16) -> Option<WorkerId> {
        let owner = self.spaces[space.index()].owners[usize::from(port)].load(SeqCst) & !RESTING;
        owner.checked_sub(1).map(WorkerId)
    }

    /// Fetches the line that says who has leased a port.
    #[inline]
    pub fn prefetch_owner(&self, space: PortSpace, port: u16) {
        prefetch_index(&self.spaces[space.index()].owners, port.into());
    }

    /// Ports in use, in hold and free. Free counts all 65,536, allowed or not.
    pub fn usage(&self, space: PortSpace) -> Usage {
        self.spaces[space.index()].counters.usage(65_536)
    }

    /// Releases that made no sense (port not in use). Stays 0 unless the caller has a bug.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }
}

impl Space {
    /// Notes the new owner of a port just claimed.
    #[inline]
    fn won(&self, port: u16, worker: WorkerId) {
        debug_assert!(worker.index() < MAX_WORKERS);
        self.owners[usize::from(port)].store(worker.0 + 1, SeqCst);
        self.counters.in_use_up();
    }

    /// Forgets the owner, then offers the port: the next owner's note cannot be overwritten by ours.
    #[inline]
    fn free_port(&self, port: u16) {
        self.owners[usize::from(port)].store(0, SeqCst);
        self.free.release(u32::from(port));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PortMask, PortRanges};
    use super::*;
    use crate::nat::rss::worker_of_port;

    const W: WorkerId = WorkerId(3);
    /// No card steers.
    const ANY: Preference = Preference {
        workers: 1,
        shift: 9,
    };

    fn ranges(text: &str) -> PortRanges {
        text.parse().unwrap()
    }

    // Proves: G13.
    #[test]
    fn finds_every_allowed_port_and_no_other() {
        let ports = SinglePorts::new();
        let ranges = ranges("100-163,1000-1200,65500-65535");
        let mut mask = PortMask::new();
        mask.reserve(PortSpace::Udp, PortRange::new(1000, 1130));
        mask.reserve(PortSpace::Tcp, PortRange::new(100, 200));
        let allowed = Allowed::new(&ranges, &mask, PortSpace::Udp);
        let mut random = Random::from_seed(1);
        let mut got: Vec<u16> =
            std::iter::from_fn(|| ports.claim_random(W, &allowed, ANY, &mut random)).collect();
        got.sort_unstable();
        let want: Vec<u16> = ranges
            .iter()
            .filter(|p| !(1000..=1130).contains(p))
            .collect();
        assert_eq!(got, want);
        assert_eq!(ports.usage(PortSpace::Udp).in_use, want.len() as u32);
        assert_eq!(ports.usage(PortSpace::Tcp).in_use, 0, "spaces are apart");
        // The only free port is found from wherever the search starts.
        for port in [100, 1131, 65535] {
            ports.release(PortSpace::Udp, port);
            for _ in 0..50 {
                assert_eq!(
                    ports.claim_random(W, &allowed, ANY, &mut random),
                    Some(port)
                );
                ports.release(PortSpace::Udp, port);
            }
            assert!(ports.claim(PortSpace::Udp, port, W));
        }
        assert_eq!(ports.errors(), 0);
    }

    #[test]
    fn random_ports_lead_replies_home_while_they_can() {
        let allowed_ranges = ranges("1024-65535");
        let allowed = Allowed::new(&allowed_ranges, PortMask::none(), PortSpace::Udp);
        let mut random = Random::from_seed(3);
        for workers in [2u8, 3, 4] {
            let (ports, steered) = (SinglePorts::new(), Preference { workers, shift: 9 });
            let mut abroad = 0;
            for n in 0..4000u32 {
                let worker = WorkerId((n % u32::from(workers)) as u8);
                let port = ports.claim_random(worker, &allowed, steered, &mut random);
                abroad += u32::from(worker_of_port(port.unwrap(), workers) != worker);
            }
            // Expected: the draws that no rounding leads home, plus those that find every port up to the end of their
            // superblock of 512 taken. At a density q the latter are q + q² + … = q / (1 - q) of 512; q grows to
            // 4000 / 64512, so that 4000 draws see a quarter of one, which counts as one here.
            let homeless = |worker| {
                let away = |&port: &u16| {
                    let home = steered.home(worker, port);
                    let start = if allowed.contains(home) { home } else { port };
                    worker_of_port(start, workers) != worker
                };
                allowed_ranges.iter().filter(away).count() as f64 / 64_512.0
            };
            let each = (0..workers).map(|worker| homeless(WorkerId(worker)));
            let expected = 4000.0 * each.sum::<f64>() / f64::from(workers) + 1.0;
            // Of 126 superblocks, two rounds are cut short with three workers (2, and 126 with 127), one with four (2 and
            // 3): four of 3 · 126 draws and four of 4 · 126.
            let by_hand = [0.0, 0.0, 0.0, 4.0 / 378.0, 4.0 / 504.0][usize::from(workers)];
            assert!((expected - 1.0 - 4000.0 * by_hand).abs() < 1e-6);
            // Six standard deviations of a rare event: once in a thousand million seeds.
            let bound = expected + 6.0 * expected.sqrt();
            assert!(
                f64::from(abroad) < bound,
                "{abroad} of 4000 with {workers} workers, at most {bound:.0} expected"
            );
        }
        let one_ranges = ranges("2048-2559");
        let one = Allowed::new(&one_ranges, PortMask::none(), PortSpace::Udp);
        let steered = Preference {
            workers: 2,
            shift: 9,
        };
        let port = SinglePorts::new().claim_random(WorkerId(1), &one, steered, &mut random);
        assert!(one.contains(port.unwrap()), "rather abroad than none");
    }

    #[test]
    fn ranges_are_drawn_in_proportion_to_size() {
        let ports = SinglePorts::new();
        let ranges = ranges("1024-29999,32768-65535");
        let allowed = Allowed::new(&ranges, PortMask::none(), PortSpace::Udp);
        let mut random = Random::from_seed(2);
        let mut low = 0;
        let mut sixteenths = [0u32; 16];
        for _ in 0..8000 {
            let port = ports.claim_random(W, &allowed, ANY, &mut random).unwrap();
            assert!(ranges.contains(port));
            low += u32::from(port < 30000);
            sixteenths[usize::from(port % 16)] += 1;
        }
        assert!(
            (3600..3910).contains(&low),
            "46.9 % expected, got {low}/8000"
        );
        assert!(
            sixteenths.iter().all(|&n| (400..600).contains(&n)),
            "{sixteenths:?}"
        );
    }

    #[test]
    fn sequential_goes_around() {
        let ports = SinglePorts::new();
        let ranges = ranges("10-12,20");
        let allowed = Allowed::new(&ranges, PortMask::none(), PortSpace::Tcp);
        let next = |after| ports.claim_sequential(W, &allowed, after);
        assert_eq!(next(11), Some(12));
        assert_eq!(next(12), Some(20));
        assert_eq!(next(20), Some(10));
        assert_eq!(next(65535), Some(11));
        assert_eq!(next(11), None);
    }

    #[test]
    fn hold_keeps_the_port_and_its_owner() {
        let ports = SinglePorts::new();
        assert!(ports.claim(PortSpace::Tcp, 7, W));
        assert!(!ports.claim(PortSpace::Tcp, 7, WorkerId(0)));
        assert!(ports.hold(PortSpace::Tcp, 7));
        assert!(!ports.claim(PortSpace::Tcp, 7, W));
        assert_eq!(ports.owner(PortSpace::Tcp, 7), Some(W));
        let usage = ports.usage(PortSpace::Tcp);
        assert_eq!((usage.in_use, usage.held, usage.high_water), (0, 1, 1));
        assert!(!ports.hold(PortSpace::Tcp, 7), "not in use");
        ports.release(PortSpace::Tcp, 7);
        assert_eq!(ports.errors(), 2);
        ports.release_held(PortSpace::Tcp, 7);
        assert_eq!(ports.owner(PortSpace::Tcp, 7), None);
        assert!(ports.claim(PortSpace::Tcp, 7, W));
    }

    #[test]
    fn only_a_port_in_hold_is_let_go_from_it() {
        let ports = SinglePorts::new();
        assert!(ports.claim(PortSpace::Tcp, 7, W));
        ports.release_held(PortSpace::Tcp, 7);
        ports.release_held(PortSpace::Tcp, 8);
        assert_eq!(ports.errors(), 2, "one is in use, one is free");
        assert_eq!(ports.owner(PortSpace::Tcp, 7), Some(W));
        let usage = ports.usage(PortSpace::Tcp);
        assert_eq!((usage.in_use, usage.held), (1, 0));
    }

    #[test]
    fn two_workers_never_get_the_same_port() {
        let ports = SinglePorts::new();
        let ranges = ranges("1000-1300");
        let holders: Vec<AtomicU8> = (0..=u16::MAX).map(|_| AtomicU8::new(0)).collect();
        std::thread::scope(|scope| {
            for worker in 0..4u8 {
                let (ports, ranges, holders) = (&ports, &ranges, &holders);
                scope.spawn(move || {
                    let allowed = Allowed::new(ranges, PortMask::none(), PortSpace::Udp);
                    let mut random = Random::from_seed(worker.into());
                    let mut mine = Vec::new();
                    for _ in 0..50_000 {
                        if random.below(2) == 0 {
                            if let Some(port) =
                                ports.claim_random(WorkerId(worker), &allowed, ANY, &mut random)
                            {
                                assert_eq!(holders[usize::from(port)].swap(worker + 1, SeqCst), 0);
                                assert_eq!(
                                    ports.owner(PortSpace::Udp, port),
                                    Some(WorkerId(worker))
                                );
                                mine.push(port);
                            }
                        } else if !mine.is_empty() {
                            let at = random.below(mine.len() as u32) as usize;
                            let port = mine.swap_remove(at);
                            holders[usize::from(port)].store(0, SeqCst);
                            ports.release(PortSpace::Udp, port);
                        }
                    }
                    for port in mine {
                        holders[usize::from(port)].store(0, SeqCst);
                        ports.release(PortSpace::Udp, port);
                    }
                });
            }
        });
        let usage = ports.usage(PortSpace::Udp);
        assert_eq!((usage.in_use, usage.held, ports.errors()), (0, 0, 0));
        // The summary lost nothing: every port is found again.
        let allowed = Allowed::new(&ranges, PortMask::none(), PortSpace::Udp);
        let mut random = Random::from_seed(9);
        let all =
            std::iter::from_fn(|| ports.claim_random(WorkerId(0), &allowed, ANY, &mut random));
        assert_eq!(all.count(), 301);
    }
}
