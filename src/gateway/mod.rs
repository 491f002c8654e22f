//! Interfaces, routes, neighbours and the ICMP the gateway itself sends.
//!
//! Everything here is a pure function or a structure that is told the time: nothing reads a clock, sends a packet
//! or logs. The dataplane asks, and builds the frames:
//!
//! | question | asked of |
//! |---|---|
//! | whose is this frame? | [`Interfaces::lookup`] |
//! | can this sender or receiver exist? | [`sanity`] |
//! | is it for the gateway itself? | [`Routes::local_v4`], [`Proxy`] |
//! | where does it leave? | [`Routes::route_v4`] |
//! | with which Ethernet header? | [`Neighbours`], [`WaitQueue`] while nobody knows |
//! | may the sender be told why not? | [`errors`], [`IcmpLimiter`] |
//!
//! Interfaces and routes belong to the policy snapshot and never change once published; neighbours, waiting packets
//! and limiters are a worker's own.

pub mod dhcp;
pub mod errors;
pub mod interface;
pub mod limiter;
pub mod lpm;
pub mod neighbour;
pub mod proxy;
pub mod routes;
pub mod sanity;
pub mod wait;

pub use errors::{ErrorKind, Offender, may_send_error};
pub use interface::{Interface, Interfaces};
pub use limiter::{IcmpLimiter, TokenBucket};
pub use lpm::{Address, Lpm};
pub use neighbour::{Learned, Neighbour, NeighbourId, Neighbours, Resolution};
pub use proxy::{Proxy, ProxyRange};
pub use routes::{Hop, HopKind, Local, RouteEntry, RouteError, Routes, StaticRoute};
pub use wait::WaitQueue;

use std::net::IpAddr;

/// One key space for both families: IPv4 addresses as `::ffff:a.b.c.d`, which never occurs on a wire as IPv6
/// ([`sanity`] refuses it).
fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => 0xffff_0000_0000 | u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Spreads an address over 64 bits. `salt` is secret where strangers choose the addresses.
fn mix(address: u128, salt: u64) -> u64 {
    let mut x = (address as u64) ^ salt;
    x = (x ^ (x >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25);
    x ^= (address >> 64) as u64;
    x = (x ^ (x >> 29)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}
