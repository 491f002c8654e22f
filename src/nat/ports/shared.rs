//! Ports that several mappings use at once, each with other remotes (see [`crate::nat::behaviour`]).
//!
//! Remembered are, in windows of 64 ports: which ports this worker has leased for sharing, and which of them a mapping with
//! a given remote uses already. So the question "which of these 64 ports are left for that remote" takes two look-ups,
//! whether one port in sixty-four is left or all of them.

use std::collections::VecDeque;

use super::fixed::{FixedMap, Full, Key};
use super::{ExternalIndex, PortSpace};
use crate::arch::OutOfMemory;
use crate::base::Tick;
use crate::flow::hash::Hasher;
use crate::nat::behaviour::{Behaviour, Remote};

/// How far a mapping shares its port: not with others of the same remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    scope: Behaviour,
    remote: Remote<u128>,
}

impl Share {
    /// Not with others that have the same remote, as far as `scope` looks at it. `None`: with nobody.
    #[inline]
    pub fn new(scope: Behaviour, remote: Remote<u128>) -> Option<Share> {
        (scope != Behaviour::Endpoint).then(|| Share {
            scope,
            remote: scope.part_of(remote),
        })
    }
}

/// One space of one address, as mappings with one remote see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) external: ExternalIndex,
    pub(super) space: PortSpace,
    pub(super) share: Share,
}

impl View {
    fn leased(&self, window: u16) -> WindowKey {
        WindowKey {
            external: self.external.0,
            window,
            space: self.space as u8,
            scope: self.share.scope as u8,
            ..WindowKey::default()
        }
    }

    fn taken(&self, window: u16) -> WindowKey {
        let Remote { address, port } = self.share.remote;
        WindowKey {
            taken: true,
            remote_port: port,
            remote: [address as u64, (address >> 64) as u64],
            ..self.leased(window)
        }
    }

    fn port(&self, port: u16) -> PortKey {
        PortKey {
            external: self.external.0,
            port,
            space: self.space as u8,
        }
    }
}

/// 64 ports from `window` on: those leased for sharing, or of these, those taken for a remote.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct WindowKey {
    remote: [u64; 2],
    external: u16,
    window: u16,
    remote_port: u16,
    space: u8,
    scope: u8,
    taken: bool,
}

impl Key for WindowKey {
    fn words(&self) -> [u64; 4] {
        let place = u64::from(self.external) | u64::from(self.window) << 16;
        let kind = u64::from(self.space) | u64::from(self.scope) << 4 | u64::from(self.taken) << 8;
        let port = u64::from(self.remote_port);
        [self.remote[0], self.remote[1], place | port << 32, kind]
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct PortKey {
    external: u16,
    port: u16,
    space: u8,
}

impl Key for PortKey {
    fn words(&self) -> [u64; 4] {
        [
            u64::from(self.external) | u64::from(self.port) << 16,
            self.space.into(),
            0,
            0,
        ]
    }
}

/// Who uses a shared port.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct PortUse {
    /// Mappings on it.
    mappings: u32,
    /// When the last of the mappings that ended has rested.
    rests_until: u32,
}

/// A remote that is not to be given again to a port still in use.
#[derive(Clone, Copy)]
struct Resting {
    key: WindowKey,
    bit: u64,
    due: Tick,
}

/// The ports one worker has leased for sharing.
pub struct SharedPorts {
    windows: FixedMap<WindowKey, u64>,
    ports: FixedMap<PortKey, PortUse>,
    resting: VecDeque<Resting>,
    hold_max: usize,
    overflows: u64,
}

impl SharedPorts {
    /// Room for `mappings` on shared ports, of which `hold_max` more may rest when they have ended.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(
        mappings: usize,
        hold_max: usize,
        hasher: Hasher,
    ) -> Result<SharedPorts, OutOfMemory> {
        let hold_max = if mappings == 0 { 0 } else { hold_max };
        Ok(SharedPorts {
            // A mapping takes its port in one window for its remote, and the port is leased in another.
            windows: FixedMap::new(2 * mappings + hold_max, hasher.clone())?,
            ports: FixedMap::new(mappings, hasher)?,
            resting: VecDeque::with_capacity(hold_max),
            hold_max,
            overflows: 0,
        })
    }

    /// Ports of a window that are leased for sharing so.
    #[inline]
    pub(super) fn leased(&self, view: &View, window: u16) -> u64 {
        self.windows.get(&view.leased(window))
    }

    /// Ports of a window that the remote is not to meet: a mapping uses them with it, or did until a moment ago.
    #[inline]
    pub(super) fn taken(&self, view: &View, window: u16) -> u64 {
        self.windows.get(&view.taken(window))
    }

    /// Whether some mapping uses the port, which then is leased.
    pub fn is_in_use(&self, external: ExternalIndex, space: PortSpace, port: u16) -> bool {
        let key = PortKey {
            external: external.0,
            port,
            space: space as u8,
        };
        self.ports.get(&key).mappings > 0
    }

    /// A mapping begins on a port of a window: one leased for sharing already, or just now.
    ///
    /// # Errors
    /// When there is no room; nothing is changed then.
    pub(super) fn begin(&mut self, view: &View, window: u16, port: u16) -> Result<(), Full> {
        let bit = 1u64 << (port - window);
        self.ports.update(&view.port(port), |p| p.mappings += 1)?;
        if let Err(full) = self.take(view, window, bit) {
            let undone = self.ports.update(&view.port(port), |p| p.mappings -= 1);
            return undone.and(Err(full));
        }
        Ok(())
    }

    fn take(&mut self, view: &View, window: u16, bit: u64) -> Result<(), Full> {
        let (leased, taken) = (view.leased(window), view.taken(window));
        let first = self.windows.get(&leased) & bit == 0;
        self.windows.update(&leased, |ports| *ports |= bit)?;
        let took = self.windows.update(&taken, |ports| *ports |= bit);
        if took.is_err() && first {
            self.windows.update(&leased, |ports| *ports &= !bit)?;
        }
        took
    }

    /// A mapping ends. `Some`: it was the last on its port, which is to be given back and rest that many ticks.
    pub(super) fn end(
        &mut self,
        view: &View,
        window: u16,
        port: u16,
        hold: u32,
        now: Tick,
    ) -> Option<u32> {
        let bit = 1u64 << (port - window);
        let mut now_used = PortUse::default();
        // Coarse ticks must not shorten the hold.
        let due = now.0.saturating_add(hold).saturating_add(1);
        let known = self.ports.get(&view.port(port)).mappings > 0;
        let updated = self.ports.update(&view.port(port), |used| {
            used.mappings = used.mappings.saturating_sub(1);
            if hold > 0 {
                used.rests_until = used.rests_until.max(due);
            }
            now_used = *used;
            if used.mappings == 0 {
                *used = PortUse::default();
            }
        });
        if !known || updated.is_err() {
            return Some(hold);
        }
        if hold > 0 {
            self.rest(view.taken(window), bit, Tick(due));
        } else {
            self.forget(&view.taken(window), bit);
        }
        if now_used.mappings > 0 {
            return None;
        }
        self.forget(&view.leased(window), bit);
        Some(now_used.rests_until.saturating_sub(now.0))
    }

    fn rest(&mut self, key: WindowKey, bit: u64, due: Tick) {
        let entry = Resting { key, bit, due };
        if self.resting.len() == self.hold_max {
            self.overflows += 1;
            match self.resting.pop_front() {
                Some(oldest) => self.forget(&oldest.key, oldest.bit),
                None => return self.forget(&key, bit),
            }
        }
        self.resting.push_back(entry);
    }

    /// Lets at most `budget` remotes go that have rested.
    pub(super) fn release_due(&mut self, now: Tick, budget: usize) {
        for _ in 0..budget {
            let due = self.resting.front().filter(|entry| entry.due <= now);
            let Some(&Resting { key, bit, .. }) = due else {
                return;
            };
            self.resting.pop_front();
            self.forget(&key, bit);
        }
    }

    fn forget(&mut self, key: &WindowKey, bit: u64) {
        // A value that only loses bits needs no room.
        let _ = self.windows.update(key, |ports| *ports &= !bit);
    }

    /// Remotes that had to be let go early because too many rested.
    pub fn hold_overflows(&self) -> u64 {
        self.overflows
    }

    /// Ports leased for sharing.
    pub fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether no port is shared.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes taken.
    pub fn memory_bytes(&self) -> usize {
        self.windows.memory_bytes() + self.ports.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(scope: Behaviour, address: u128, port: u16) -> View {
        View {
            external: ExternalIndex(3),
            space: PortSpace::Udp,
            share: Share::new(scope, Remote { address, port }).unwrap(),
        }
    }

    fn ports() -> SharedPorts {
        SharedPorts::new(8, 4, Hasher::new([5, 6])).unwrap()
    }

    #[test]
    fn a_port_is_given_back_with_its_last_mapping() {
        let mut shared = ports();
        let (a, b) = (
            view(Behaviour::AddressPort, 1, 53),
            view(Behaviour::AddressPort, 1, 54),
        );
        shared.begin(&a, 1024, 1030).unwrap();
        assert_eq!((shared.leased(&b, 1024), shared.taken(&b, 1024)), (64, 0));
        shared.begin(&b, 1024, 1030).unwrap();
        assert_eq!(shared.taken(&b, 1024), 64);
        assert_eq!(shared.end(&a, 1024, 1030, 0, Tick(1)), None);
        assert_eq!(shared.taken(&a, 1024), 0, "free again at once");
        assert_eq!(shared.end(&b, 1024, 1030, 0, Tick(2)), Some(0));
        assert_eq!(shared.leased(&b, 1024), 0);
        assert!(shared.is_empty());
    }

    #[test]
    fn remotes_rest_while_the_port_is_in_use_and_the_port_as_long_as_the_last_of_them() {
        let mut shared = ports();
        let (a, b) = (
            view(Behaviour::AddressPort, 1, 53),
            view(Behaviour::AddressPort, 2, 53),
        );
        shared.begin(&a, 1024, 1030).unwrap();
        shared.begin(&b, 1024, 1030).unwrap();
        assert_eq!(shared.end(&a, 1024, 1030, 100, Tick(50)), None);
        shared.release_due(Tick(150), 10);
        assert_eq!(shared.taken(&a, 1024), 64, "until tick 151");
        // Closed in order, so its own remote needs no rest: but the other's is not over.
        assert_eq!(shared.end(&b, 1024, 1030, 0, Tick(60)), Some(91));
        shared.release_due(Tick(151), 10);
        assert_eq!(shared.taken(&a, 1024), 0);
        assert_eq!(shared.windows.len(), 0);
    }

    #[test]
    fn what_finds_no_room_leaves_nothing_behind() {
        let mut shared = ports();
        let to = |remote| view(Behaviour::Address, remote, 0);
        // Of room for twenty windows one is taken by the port, and eighteen by its remotes.
        for remote in 0..18 {
            shared.begin(&to(remote), 0, 5).unwrap();
        }
        let second = shared.begin(&to(50), 64, 70);
        assert_eq!(second, Err(Full), "another port takes two windows");
        assert_eq!(shared.leased(&to(50), 64), 0);
        assert_eq!((shared.len(), shared.windows.len()), (1, 19));
        assert!(!shared.is_empty());
        shared.begin(&to(18), 0, 5).unwrap();
        assert_eq!(shared.begin(&to(19), 0, 5), Err(Full));
        assert_eq!(shared.leased(&to(19), 0), 32, "the others have the port");
        for remote in 0..18 {
            assert_eq!(shared.end(&to(remote), 0, 5, 0, Tick(1)), None);
        }
        assert_eq!(shared.end(&to(18), 0, 5, 0, Tick(1)), Some(0));
        assert!(shared.is_empty());
    }

    #[test]
    fn every_part_of_a_remote_tells_it_from_others() {
        let mut shared = ports();
        let to = |address, port| view(Behaviour::AddressPort, address, port);
        let (high, other) = (0x2001_0db8 << 96, 0x2001_0db9 << 96);
        shared.begin(&to(high | 1, 53), 1024, 1030).unwrap();
        assert_eq!(shared.taken(&to(high | 1, 53), 1024), 64);
        for (address, port) in [(other | 1, 53), (high | 2, 53), (high | 1, 54), (0, 0)] {
            assert_eq!(shared.taken(&to(address, port), 1024), 0);
        }
    }

    #[test]
    fn a_port_that_nobody_shares_is_given_back_as_it_was_asked_for() {
        let mut shared = ports();
        let stranger = view(Behaviour::Address, 1, 0);
        assert_eq!(shared.end(&stranger, 1024, 1030, 100, Tick(50)), Some(100));
        assert_eq!((shared.resting.len(), shared.len()), (0, 0));
    }

    #[test]
    fn memory_is_that_of_ports_and_windows() {
        let shared = SharedPorts::new(10_000, 0, Hasher::new([5, 6])).unwrap();
        // A mapping has two windows of 48 bytes and a port of 20, and for each of the three 7 in an index.
        let each = shared.memory_bytes() / 10_000;
        assert!((125..150).contains(&each), "{each}");
    }

    #[test]
    fn scopes_do_not_mix_and_the_number_resting_is_bounded() {
        let mut shared = ports();
        let wide = view(Behaviour::Address, 1, 53);
        assert_eq!(
            wide.share,
            view(Behaviour::Address, 1, 99).share,
            "the port does not count"
        );
        shared.begin(&wide, 0, 5).unwrap();
        assert_eq!(
            shared.leased(&view(Behaviour::AddressPort, 2, 53), 0),
            0,
            "leased for another kind of sharing"
        );
        for remote in 10..16 {
            let view = view(Behaviour::Address, remote, 0);
            shared.begin(&view, 0, 5).unwrap();
            assert_eq!(shared.end(&view, 0, 5, 100, Tick(1)), None);
        }
        assert_eq!(shared.hold_overflows(), 2);
        assert_eq!(shared.taken(&view(Behaviour::Address, 11, 0), 0), 0);
        assert_eq!(shared.taken(&view(Behaviour::Address, 12, 0), 0), 32);
        let full = (0..9).map(|n| {
            let view = view(Behaviour::AddressPort, 50 + n, 0);
            shared.begin(&view, 64 * n as u16, 64 * n as u16)
        });
        assert_eq!(
            full.collect::<Vec<_>>().last(),
            Some(&Err(Full)),
            "sized for eight mappings"
        );
    }
}
