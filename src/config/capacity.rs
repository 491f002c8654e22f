//! The arithmetic of a configuration: addresses, blocks, subscribers per address, memory. What `natgate check` prints.

use std::fmt;

use super::validate::blocks_of;
use super::validated::{Deterministic, Pairing, Pool, System, Validated};
use crate::dataplane::provision::{PacketBuffers, PortBuffers};

/// Bytes of a session with its share of the tables and its mapping.
pub const SESSION_BYTES: u64 = 110;
/// Bytes more where mappings share ports: two windows of ports and a port for each mapping, with their tables.
pub const SHARED_BYTES: u64 = 140;
/// Bytes more where clients come back to their backends: one remembered client for each session.
pub const AFFINITY_BYTES: u64 = 32;
/// IPv6 sessions and subscribers there is room for, where an interface has an IPv6 address: one for so many of IPv4.
const IPV6_SHARE: u32 = 4;
/// The same where none has: enough to begin with when addresses come with a reload, without the price of a share.
const IPV6_SHARE_UNUSED: u32 = 64;
/// Bytes of an IPv6 session with its share of the tables and its mapping.
pub const IPV6_SESSION_BYTES: u64 = 240;
/// Bytes of an inside host.
pub const SUBSCRIBER_BYTES: u64 = 72;
/// Bytes of one external address: port bitmaps of four protocols, resting ports, block owners.
pub const ADDRESS_BYTES: u64 = 64 * 1024;
/// Bytes of a tracked fragmented datagram with the fragments held for it.
pub const FRAGMENT_BYTES: u64 = 512;
/// What the process needs whatever the configuration.
const BASE_BYTES: u64 = 64 << 20;

/// What one pool can give.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PoolCapacity {
    /// The pool's name.
    pub name: String,
    /// External addresses, those of followed interfaces included.
    pub addresses: u64,
    /// Ports of one address and protocol.
    pub ports_per_address: u32,
    /// Ports in a block; `None` without blocks.
    pub block_size: Option<u16>,
    /// Blocks of one address; 0 without blocks.
    pub blocks_per_address: u32,
    /// Most ports of one host and protocol; `None` without blocks.
    pub ports_per_host: Option<u32>,
    /// Hosts one address serves when each holds a single block; `None` without blocks.
    pub subscribers_per_address: Option<u32>,
    /// Hosts one address serves when each holds all the blocks it may; `None` without blocks.
    pub subscribers_per_address_busy: Option<u32>,
    /// Whether a host keeps one address.
    pub paired: bool,
    /// The shares of a deterministic pool.
    pub deterministic: Option<DeterministicCapacity>,
}

/// How a deterministic pool is shared out (RFC 7422).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeterministicCapacity {
    /// Inside hosts.
    pub hosts: u32,
    /// Ports of each host's own.
    pub own_ports: u16,
    /// Ports in an overflow block; `None` without overflow.
    pub overflow_size: Option<u16>,
    /// Overflow blocks of an address.
    pub overflow_blocks_per_address: u32,
    /// Ports of an address that nobody gets.
    pub unused_ports_per_address: u32,
}

/// The arithmetic of a whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Capacity {
    /// The pools, in order.
    pub pools: Vec<PoolCapacity>,
    /// Sessions.
    pub sessions: u32,
    /// Inside hosts tracked.
    pub subscribers: u32,
    /// Bytes of session tables and mappings.
    pub session_bytes: u64,
    /// Bytes of the same for IPv6.
    pub ipv6_session_bytes: u64,
    /// Bytes of the table of inside hosts.
    pub subscriber_bytes: u64,
    /// Bytes of pools' port tables.
    pub pool_bytes: u64,
    /// Bytes of the table of fragmented datagrams.
    pub fragment_bytes: u64,
    /// Bytes of packet buffers.
    pub buffer_bytes: u64,
    /// Bytes of everything, the process itself included.
    pub needed_bytes: u64,
    /// `system.memory`.
    pub memory_bytes: u64,
}

/// There is room for one IPv6 session for so many of IPv4, and for subscribers alike.
pub fn ipv6_share(config: &Validated) -> u32 {
    match config.interfaces.iter().any(|i| !i.v6.is_empty()) {
        true => IPV6_SHARE,
        false => IPV6_SHARE_UNUSED,
    }
}

impl Capacity {
    /// The arithmetic of `config`.
    pub fn of(config: &Validated) -> Capacity {
        let System {
            sessions,
            subscribers,
            fragments,
            memory_bytes,
            ..
        } = config.system;
        let pools: Vec<PoolCapacity> = config
            .pools
            .iter()
            .map(|pool| pool_capacity(pool, config))
            .collect();
        // Every interface can be masqueraded behind, so its addresses have port tables as well.
        let own: u64 = config
            .interfaces
            .iter()
            .map(|interface| interface.address_count() as u64)
            .sum();
        let pooled: u64 = config
            .pools
            .iter()
            .map(|pool| pool.addresses.len() as u64)
            .sum();
        let shares = config.pools.iter().any(Pool::shares_ports);
        let remembers = config.services.iter().any(|s| s.affinity.is_some());
        let more = |needed: bool, bytes: u64| if needed { bytes } else { 0 };
        let shared = more(shares, SHARED_BYTES);
        let each = SESSION_BYTES + shared + more(remembers, AFFINITY_BYTES);
        let session_bytes = u64::from(sessions) * each;
        let of_ipv6 = ipv6_share(config);
        let ipv6_session_bytes = u64::from(sessions / of_ipv6) * (IPV6_SESSION_BYTES + shared);
        let subscriber_bytes = u64::from(subscribers + subscribers / of_ipv6) * SUBSCRIBER_BYTES;
        let pool_bytes = (own + pooled) * ADDRESS_BYTES;
        let fragment_bytes = u64::from(fragments) * FRAGMENT_BYTES;
        let buffer_bytes = packet_buffers(config).bytes();
        let needed_bytes = BASE_BYTES
            + session_bytes
            + ipv6_session_bytes
            + subscriber_bytes
            + pool_bytes
            + fragment_bytes
            + buffer_bytes;
        Capacity {
            pools,
            sessions,
            subscribers,
            session_bytes,
            ipv6_session_bytes,
            subscriber_bytes,
            pool_bytes,
            fragment_bytes,
            buffer_bytes,
            needed_bytes,
            memory_bytes,
        }
    }
}

/// The pool of packet buffers that all ports share.
pub fn packet_buffers(config: &Validated) -> PacketBuffers {
    let ports = config.ports.iter().map(|port| PortBuffers {
        device: &port.device,
        queues: port.queues,
        descriptors: port.descriptors,
        mtu: port.mtu,
    });
    PacketBuffers::of(ports, config.system.workers)
}

fn pool_capacity(pool: &Pool, config: &Validated) -> PoolCapacity {
    let followed = pool
        .interfaces
        .iter()
        .filter_map(|id| config.interfaces.get(id.index()));
    let followed: u64 = followed
        .map(|interface| interface.address_count() as u64)
        .sum();
    let blocks = pool
        .block
        .map_or(0, |block| blocks_of(&pool.ports, block.size));
    if let Some(settings) = &pool.deterministic {
        return shared_out(pool, settings);
    }
    PoolCapacity {
        name: pool.label.name.clone(),
        addresses: pool.addresses.len() as u64 + followed,
        ports_per_address: pool.ports.count(),
        block_size: pool.block.map(|block| block.size),
        blocks_per_address: blocks,
        ports_per_host: pool
            .block
            .map(|block| u32::from(block.size) * u32::from(block.max_per_host)),
        subscribers_per_address: pool.block.map(|_| blocks),
        subscribers_per_address_busy: pool
            .block
            .map(|block| blocks / u32::from(block.max_per_host.max(1))),
        paired: pool.pairing == Pairing::Paired,
        deterministic: None,
    }
}

fn shared_out(pool: &Pool, settings: &Deterministic) -> PoolCapacity {
    let plan = settings.plan();
    let rest: u32 = plan.rest().iter().map(|range| range.size()).sum();
    let overflow = plan.overflow_blocks();
    let hosts = u32::from(settings.hosts_per_address);
    PoolCapacity {
        name: pool.label.name.clone(),
        addresses: pool.addresses.len() as u64,
        ports_per_address: settings.ports.count(),
        block_size: None,
        blocks_per_address: hosts + overflow,
        ports_per_host: Some(settings.most_ports()),
        subscribers_per_address: Some(hosts),
        subscribers_per_address_busy: Some(hosts),
        paired: true,
        deterministic: Some(DeterministicCapacity {
            hosts: settings.hosts(),
            own_ports: settings.ports_per_host,
            overflow_size: plan.overflow,
            overflow_blocks_per_address: overflow,
            unused_ports_per_address: rest - overflow * u32::from(plan.overflow.unwrap_or(0)),
        }),
    }
}

/// A number of bytes for people: `120.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

impl fmt::Display for PoolCapacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "es" });
        write!(
            f,
            "pool {}: {}",
            self.name,
            count(self.addresses, "address")
        )?;
        if let (Some(shares), Some(most), Some(hosts)) = (
            &self.deterministic,
            self.ports_per_host,
            self.subscribers_per_address,
        ) {
            write!(
                f,
                " for {} hosts, {hosts} per address with {} ports each",
                shares.hosts, shares.own_ports
            )?;
            if let Some(size) = shares.overflow_size {
                let blocks = shares.overflow_blocks_per_address;
                write!(f, " and {blocks} overflow blocks of {size} for all of them")?;
            }
            return write!(
                f,
                "; at most {most} ports per subscriber and protocol; {} ports per address unused",
                shares.unused_ports_per_address
            );
        }
        let (Some(size), Some(most), Some(light), Some(busy)) = (
            self.block_size,
            self.ports_per_host,
            self.subscribers_per_address,
            self.subscribers_per_address_busy,
        ) else {
            let all = self.addresses * u64::from(self.ports_per_address);
            return write!(
                f,
                " × {} ports = {all} ports per protocol",
                self.ports_per_address
            );
        };
        let all = self.addresses * u64::from(self.blocks_per_address);
        write!(
            f,
            " × {} blocks of {size} ports = {all} blocks; {light} subscribers per address with one block each, \
             {busy} with all they may hold; at most {most} ports per subscriber and protocol",
            self.blocks_per_address
        )
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pool in &self.pools {
            writeln!(f, "{pool}")?;
        }
        writeln!(
            f,
            "sessions: {} × {} B = {}; subscribers: {}",
            self.sessions,
            self.session_bytes / u64::from(self.sessions.max(1)),
            bytes(self.session_bytes),
            self.subscribers
        )?;
        write!(
            f,
            "memory: {} of {} (sessions {}, IPv6 sessions {}, subscribers {}, ports {}, fragments {}, packet buffers {}, process {})",
            bytes(self.needed_bytes),
            bytes(self.memory_bytes),
            bytes(self.session_bytes),
            bytes(self.ipv6_session_bytes),
            bytes(self.subscriber_bytes),
            bytes(self.pool_bytes),
            bytes(self.fragment_bytes),
            bytes(self.buffer_bytes),
            bytes(BASE_BYTES)
        )
    }
}
