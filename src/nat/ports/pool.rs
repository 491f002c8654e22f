//! What a pool's configuration says about ports and addresses, as packet code reads it.

use super::{Deterministic, External, ExternalIndex, PoolCounts, PortMask, PortRanges, PortSpace};
use crate::base::PoolId;
use crate::nat::behaviour::Behaviours;
use crate::nat::helpers::Helpers;
use std::sync::Arc;

/// How an external port is chosen (RFC 6056, RFC 4787 §4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Select {
    /// The inside port if it is free, else a random one.
    #[default]
    Preserve,
    /// A random one, always.
    Random,
    /// The next free one above the worker's previous choice.
    Sequential,
}

/// How an external address is chosen (RFC 6888 REQ-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairing {
    /// One address for all flows of a subscriber.
    #[default]
    Paired,
    /// An address per inside port.
    Spread,
}

/// What the sender hears when no port is left (RFC 6888 REQ-11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exhaustion {
    /// Nothing.
    #[default]
    Drop,
    /// An ICMP error, rate limited.
    Icmp,
}

/// The pool hands out blocks of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPolicy {
    /// Ports in a block, at least 1.
    pub size: u16,
    /// The most blocks a subscriber may hold (RFC 6888 REQ-4), beside its own ones in a deterministic pool: at least
    /// 1, or 0 for no overflow.
    pub max_per_host: u16,
    /// Ticks a block without a port in use stays with its subscriber.
    pub idle: u32,
}

/// One address of a pool.
#[derive(Clone)]
pub struct ExternalRef {
    /// The address's number in [`super::Externals`].
    pub index: ExternalIndex,
    /// The address and its ports.
    pub external: Arc<External>,
    /// The address is on its way out: existing mappings stay, new ones go elsewhere.
    pub draining: bool,
    /// Ports that allocation must not hand out.
    pub reserved: Arc<PortMask>,
}

/// The settings of a pool.
#[derive(Clone, Debug)]
pub struct PoolPolicy {
    /// Its number, the same across reloads while the pool keeps its name: pairing and the quota of blocks are kept by it.
    pub id: PoolId,
    /// The configured name, or the interface of a masquerade.
    pub name: String,
    /// Ports that may be handed out.
    pub ports: PortRanges,
    /// Source ports below 1024 are translated within their own class (1–511, 512–1023), even outside `ports`
    /// (RFC 4787 REQ-3-a), and ICMP query ids use all 65,536 values. Without meaning for blocks.
    pub low_ports: bool,
    /// How ports are chosen.
    pub select: Select,
    /// TCP and UDP ports stay even or odd (RFC 4787 REQ-4).
    pub parity: bool,
    /// How addresses are chosen.
    pub pairing: Pairing,
    /// Blocks of ports instead of single ones. Every address must then have [`super::Layout::Blocks`].
    pub block: Option<BlockPolicy>,
    /// Every host has ports of its own by arithmetic (RFC 7422); `block` is about overflow then, and every address has
    /// [`super::Layout::Planned`].
    pub deterministic: Option<Arc<Deterministic>>,
    /// Ticks a port rests after use (RFC 6888 REQ-8; 0 = none).
    pub hold: u32,
    /// The most ports in hold, per worker.
    pub hold_max: u32,
    /// What mappings depend on and what comes in through them, by port space.
    pub behaviours: [Behaviours; PortSpace::COUNT],
    /// What the sender hears when nothing is left.
    pub exhaustion: Exhaustion,
    /// Application helpers for flows on its addresses.
    pub helpers: Helpers,
}

/// A pool of external addresses: settings and addresses, immutable in a snapshot.
// Implements: G3.
pub struct Pool {
    policy: PoolPolicy,
    externals: Box<[ExternalRef]>,
    /// Positions in `externals` of the addresses that are not draining.
    active: Box<[u16]>,
    /// (index, position in `externals`) of the same, sorted, for membership.
    by_index: Box<[(ExternalIndex, u16)]>,
    counts: Arc<PoolCounts>,
}

impl Pool {
    /// A pool of these addresses, in configured order (which decides who is paired with which), for so many workers.
    pub fn new(policy: PoolPolicy, externals: Vec<ExternalRef>, workers: u8) -> Pool {
        let usable = externals.iter().enumerate().filter(|(_, e)| !e.draining);
        let mut by_index: Vec<(ExternalIndex, u16)> =
            usable.map(|(i, e)| (e.index, i as u16)).collect();
        let active = by_index.iter().map(|&(_, i)| i).collect();
        by_index.sort_unstable();
        Pool {
            policy,
            externals: externals.into_boxed_slice(),
            active,
            by_index: by_index.into_boxed_slice(),
            counts: Arc::new(PoolCounts::new(workers)),
        }
    }

    /// The same pool, counting on from where its predecessor in the policy in force is.
    #[must_use]
    pub fn succeeding(self, before: &Pool) -> Pool {
        Pool {
            counts: before.counts.clone(),
            ..self
        }
    }

    /// What it has counted.
    #[inline]
    pub fn counts(&self) -> &PoolCounts {
        &self.counts
    }

    /// What its mappings of one port space depend on.
    #[inline]
    pub fn behaviours(&self, space: PortSpace) -> Behaviours {
        self.policy.behaviours[space.index()]
    }

    /// The settings.
    #[inline]
    pub fn policy(&self) -> &PoolPolicy {
        &self.policy
    }

    /// Every address, draining ones included.
    pub fn externals(&self) -> &[ExternalRef] {
        &self.externals
    }

    /// Whether a mapping at `index` may be shared by new flows: the address is in the pool and not draining.
    #[inline]
    pub fn holds(&self, index: ExternalIndex) -> bool {
        self.find_active(index).is_some()
    }

    /// The address at this position of the configuration, draining or not.
    #[inline]
    pub(super) fn at(&self, position: usize) -> Option<&ExternalRef> {
        self.externals.get(position)
    }

    /// Number of addresses that may be allocated from.
    #[inline]
    pub fn active_count(&self) -> usize {
        self.active.len()
    }

    /// The `n`-th address that may be allocated from, counted around the end.
    #[inline]
    pub(super) fn active(&self, n: usize) -> Option<&ExternalRef> {
        let position = self.active.get(n.checked_rem(self.active.len())?)?;
        self.externals.get(usize::from(*position))
    }

    /// The address `index`, if it is in the pool and not draining.
    #[inline]
    pub(super) fn find_active(&self, index: ExternalIndex) -> Option<&ExternalRef> {
        let found = self
            .by_index
            .binary_search_by_key(&index, |&(i, _)| i)
            .ok()?;
        self.externals.get(usize::from(self.by_index[found].1))
    }
}
