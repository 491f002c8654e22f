//! The deterministic mapping of a configuration, asked without a running gateway (RFC 7422 section 2: an operator can
//! test both functions).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::validated::{Deterministic, Pool, Validated};
use crate::nat::ports::{self, Holder, HostPlan, PortRange, PortRanges};

impl Deterministic {
    /// How every address of the pool is cut.
    pub fn plan(&self) -> HostPlan {
        let ranges = self.ports.ranges().iter();
        let ranges = ranges.map(|&(first, last)| PortRange { first, last });
        HostPlan {
            // Validation leaves at least one port.
            ports: PortRanges::new(ranges.collect())
                .unwrap_or_else(|_| PortRanges::single(1024, u16::MAX)),
            hosts: self.hosts_per_address,
            ports_per_host: self.ports_per_host,
            overflow: self.overflow.map(|overflow| overflow.block),
        }
    }

    /// Both functions of the mapping.
    pub fn mapping(&self) -> ports::Deterministic {
        let inside: Vec<(u32, u32)> = self
            .inside
            .iter()
            .map(|(first, last)| (u32::from(*first), u32::from(*last)))
            .collect();
        ports::Deterministic::new(&inside, self.plan())
    }

    /// Number of hosts.
    pub fn hosts(&self) -> u32 {
        self.mapping().hosts()
    }

    /// The most ports of one host and protocol.
    pub fn most_ports(&self) -> u32 {
        let overflow = self.overflow;
        let overflow = overflow.map_or(0, |o| u32::from(o.block) * u32::from(o.max));
        u32::from(self.ports_per_host) + overflow
    }
}

/// One answer of [`lookup`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Answer {
    /// The pool whose mapping it is.
    pub pool: String,
    /// The outside address.
    pub outside: IpAddr,
    /// The inside host; `None` where it is whoever holds the overflow block at the time.
    pub subscriber: Option<Ipv4Addr>,
    /// First and last port of the ranges, ascending: the host's own, or the one asked about in the overflow part.
    pub ports: Vec<(u16, u16)>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |&(first, last): &(u16, u16)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        let ports: Vec<String> = self.ports.iter().map(range).collect();
        let subscriber = self.subscriber.map_or_else(
            || "whoever holds the overflow block at the time".to_owned(),
            |subscriber| subscriber.to_string(),
        );
        write!(
            f,
            "outside={} ports={} subscriber={subscriber} pool={}",
            self.outside,
            ports.join(","),
            self.pool
        )
    }
}

/// Asks the deterministic pools of a configuration: without a port, which outside ports a subscriber has (one answer for
/// each pool it is a host of); with a port, whose this outside endpoint is.
// Implements: D1.
pub fn lookup(config: &Validated, address: IpAddr, port: Option<u16>) -> Vec<Answer> {
    let asked = |pool| match (port, address) {
        (None, IpAddr::V4(subscriber)) => of_subscriber(pool, subscriber),
        (None, IpAddr::V6(_)) => None,
        (Some(port), outside) => of_outside(pool, outside, port),
    };
    config.pools.iter().filter_map(asked).collect()
}

fn of_subscriber(pool: &Pool, subscriber: Ipv4Addr) -> Option<Answer> {
    let map = pool.deterministic.as_ref()?.mapping();
    let place = map.place(u32::from(subscriber))?;
    let own = map.plan().own_ports(place.slot);
    Some(Answer {
        pool: pool.label.name.clone(),
        outside: *pool.addresses.get(place.address)?,
        subscriber: Some(subscriber),
        ports: own.iter().map(|range| (range.first, range.last)).collect(),
    })
}

fn of_outside(pool: &Pool, outside: IpAddr, port: u16) -> Option<Answer> {
    let map = pool.deterministic.as_ref()?.mapping();
    let at = pool.addresses.iter().position(|known| *known == outside)?;
    match map.holder(at, port) {
        Holder::Host(subscriber) => of_subscriber(pool, Ipv4Addr::from(subscriber)),
        Holder::Overflow => Some(Answer {
            pool: pool.label.name.clone(),
            outside,
            subscriber: None,
            ports: vec![(port, port)],
        }),
        Holder::Nobody => None,
    }
}

/// What whoever has to reproduce the mapping later must know (RFC 7422 section 4): the inside and outside addresses,
/// the dynamic factor, the ports of a host, the algorithm and the reserved ports.
// Implements: D6.
pub fn record(pool: &Pool) -> Option<String> {
    let settings = pool.deterministic.as_ref()?;
    let inside: Vec<String> = settings
        .inside
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(v4) => Some(u32::from(*v4)),
        IpAddr::V6(_) => None,
    };
    for address in pool.addresses.iter().filter_map(v4) {
        match runs.last_mut() {
            Some(run) if run.1.checked_add(1) == Some(address) => run.1 = address,
            _ => runs.push((address, address)),
        }
    }
    let range =
        |&(first, last): &(u32, u32)| format!("{}-{}", Ipv4Addr::from(first), Ipv4Addr::from(last));
    let outside: Vec<String> = runs.iter().map(range).collect();
    let rest: u32 = settings.plan().rest().iter().map(|r| r.size()).sum();
    Some(format!(
        "inside={} outside={} hosts_per_address={} ports_per_host={} dynamic={} max_ports={} algorithm=0 reserved={}",
        inside.join(","),
        outside.join(","),
        settings.hosts_per_address,
        settings.ports_per_host,
        rest / u32::from(settings.ports_per_host),
        settings.most_ports(),
        settings.ports.complement(),
    ))
}
