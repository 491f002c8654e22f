//! External ports: who may use which port of which public address, now and for how long after.
//!
//! Every external address is one shared object, an [`External`], that holds the state of all its ports.
//! The management thread creates it, snapshots share it (`Arc`), and it outlives reloads. Workers *lease*
//! units from it with atomic operations, so that no free unit is stranded with the wrong worker, and anybody
//! can ask which worker holds a port (to hand it a packet):
//!
//! ```text
//! Pool (policy) ──> External 203.0.113.1 ──┬─ SinglePorts: unit = one port of one space (masquerade, plain pools)
//!                   External 203.0.113.2   └─ BlockPorts:  unit = a block of ports of all spaces, one subscriber each
//! ```
//!
//! Inside a leased block only the owning worker writes. A port that is given back rests for the hold time
//! before it is handed out again (RFC 6888 REQ-8): single ports in the worker's [`HoldQueue`], ports of blocks
//! in resting bitmaps. [`Allocator`] ties it together for one worker: it picks address and port for a new
//! mapping and takes them back. Port choice is random (RFC 6056) and exact: as long as an allowed port is free,
//! it is found.

mod allocator;
mod bitmap;
mod block;
mod blockmap;
mod chain;
mod choose;
mod deterministic;
mod external;
mod fixed;
mod hold;
mod pool;
mod pools;
mod preference;
mod ranges;
mod resting;
mod shared;
mod sharing;
mod single;

pub use allocator::{Allocator, Lease, Request, Returned, ReturnedBlock};
pub use block::{BlockIndex, BlockLink, BlockPorts, Claim};
pub use deterministic::{Deterministic, Holder, HostPlan, Place};
pub use external::{BlockUsage, External, ExternalIndex, Externals, InternError, Layout, Usage};
pub use hold::{Held, HoldQueue};
pub use pool::{BlockPolicy, Exhaustion, ExternalRef, Pairing, Pool, PoolPolicy, Select};
pub use pools::{PoolCounts, Pools};
pub use preference::Preference;
pub use ranges::{Allowed, PortMask, PortRange, PortRanges, RangesError};
pub use resting::Rest;
pub use shared::{Share, SharedPorts};
pub use single::SinglePorts;

#[cfg(test)]
mod allocator_tests;
#[cfg(test)]
mod block_tests;
#[cfg(test)]
mod deterministic_tests;
#[cfg(test)]
mod edge_tests;
#[cfg(test)]
mod sharing_tests;

/// The most workers that can lease ports: the owner byte of a port keeps one bit for "resting".
pub const MAX_WORKERS: usize = 126;

/// A number space in which an external port is unique: each protocol has its own 65,536 ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PortSpace {
    /// TCP ports.
    Tcp,
    /// UDP ports.
    Udp,
    /// ICMP and ICMPv6 query identifiers (RFC 5508): every value 0–65535 is usable.
    Icmp,
    /// SCTP ports.
    Sctp,
}

impl PortSpace {
    /// Number of spaces.
    pub const COUNT: usize = 4;
    /// Every space, in index order.
    pub const ALL: [PortSpace; Self::COUNT] = [
        PortSpace::Tcp,
        PortSpace::Udp,
        PortSpace::Icmp,
        PortSpace::Sctp,
    ];

    /// The space of an IP protocol number, or `None` for a protocol without ports natgate can translate.
    #[inline]
    pub const fn from_protocol(protocol: u8) -> Option<PortSpace> {
        match protocol {
            6 => Some(PortSpace::Tcp),
            17 => Some(PortSpace::Udp),
            1 | 58 => Some(PortSpace::Icmp),
            132 => Some(PortSpace::Sctp),
            _ => None,
        }
    }

    /// Position in an array of [`PortSpace::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// `tcp`, `udp`, `icmp` or `sctp`.
    pub const fn name(self) -> &'static str {
        match self {
            PortSpace::Tcp => "tcp",
            PortSpace::Udp => "udp",
            PortSpace::Icmp => "icmp",
            PortSpace::Sctp => "sctp",
        }
    }
}
