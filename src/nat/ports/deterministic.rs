//! Deterministic mapping (RFC 7422): which ports belong to an inside host is arithmetic, so that nothing needs logging.
//!
//! The hosts of a pool are numbered in the order of the configuration and share its addresses evenly, in order: with
//! `n` hosts on `m` addresses the first ⌈n/m⌉ use the first address, the next ones the second (algorithm 0, sequential).
//! Every host of an address gets the same number of ports, from the low end; what is left is for overflow blocks:
//!
//! ```text
//! 203.0.113.1   │ host 0 │ host 1 │ host 2 │ … │ overflow │ overflow │ … │
//! 203.0.113.2   │ host k │ …
//! ```
//!
//! A host's block is leased by the worker that the host lives on, as every block is: which worker that is follows from the
//! inside address alone, so that changing the mapping moves no host, and what the card delivers elsewhere is handed over.
//!
//! Both directions are pure functions of the configuration: [`Deterministic::place`] and [`Deterministic::holder`]
//! (RFC 7422 §2).

use super::{PortRange, PortRanges};

/// How every address of a deterministic pool is cut into blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// The ports to share out, reserved ones taken out.
    pub ports: PortRanges,
    /// Hosts that share an address, at least 1: the blocks 0 to `hosts - 1`.
    pub hosts: u16,
    /// Ports of each of them, at least 1.
    pub ports_per_host: u16,
    /// Ports of an overflow block; `None`: a host has its own ports and no more.
    pub overflow: Option<u16>,
}

impl HostPlan {
    /// The ports that belong to the host with this number on its address: a range, or several where ports are reserved
    /// in between. Empty when the ports do not reach so far.
    pub fn own_ports(&self, slot: u16) -> Vec<PortRange> {
        let first = u32::from(slot) * u32::from(self.ports_per_host);
        pieces(&self.ports, first, u32::from(self.ports_per_host))
    }

    /// The ports behind those of the hosts.
    pub fn rest(&self) -> Vec<PortRange> {
        let taken = u32::from(self.hosts) * u32::from(self.ports_per_host);
        let left = self.ports.size().saturating_sub(taken);
        pieces(&self.ports, taken, left)
    }

    /// Whole overflow blocks of an address; one never spans reserved ports.
    pub fn overflow_blocks(&self) -> u32 {
        let Some(size) = self.overflow else { return 0 };
        let whole = |range: &PortRange| range.size() / u32::from(size.max(1));
        self.rest().iter().map(whole).sum()
    }
}

/// `count` ports from the `first`-th on, as ranges.
fn pieces(ports: &PortRanges, mut first: u32, mut count: u32) -> Vec<PortRange> {
    let mut pieces = Vec::new();
    for range in ports.ranges() {
        if count == 0 {
            break;
        }
        if first >= range.size() {
            first -= range.size();
            continue;
        }
        let here = count.min(range.size() - first);
        let low = range.first + first as u16;
        pieces.push(PortRange::new(low, low + (here - 1) as u16));
        (first, count) = (0, count - here);
    }
    pieces
}

/// Inside hosts `first` to `last`, numbered from `number` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hosts {
    first: u32,
    last: u32,
    number: u32,
}

/// Where a host's own ports are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Position of the address in the pool.
    pub address: usize,
    /// Number of the host on that address, and of its own block.
    pub slot: u16,
}

/// Whose a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This inside address, always.
    Host(u32),
    /// Whoever holds the overflow block it lies in at the time.
    Overflow,
    /// Nobody: it is reserved, or left over.
    Nobody,
}

/// The mapping of a deterministic pool.
// Implements: D2, D3, D7, G14.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deterministic {
    /// In order of their numbers.
    hosts: Box<[Hosts]>,
    /// The same, by address.
    by_address: Box<[Hosts]>,
    total: u32,
    plan: HostPlan,
}

impl Deterministic {
    /// The mapping of hosts in these ranges (both ends included, disjoint), in order. `plan.hosts` of them share an
    /// address.
    pub fn new(inside: &[(u32, u32)], plan: HostPlan) -> Deterministic {
        let mut total: u32 = 0;
        let mut hosts = Vec::new();
        for &(first, last) in inside {
            let number = total;
            hosts.push(Hosts {
                first,
                last,
                number,
            });
            total = total.saturating_add((last - first).saturating_add(1));
        }
        let mut by_address = hosts.clone();
        by_address.sort_unstable_by_key(|h| h.first);
        Deterministic {
            hosts: hosts.into(),
            by_address: by_address.into(),
            total,
            plan,
        }
    }

    /// How addresses are cut.
    pub fn plan(&self) -> &HostPlan {
        &self.plan
    }

    /// Number of inside hosts.
    pub fn hosts(&self) -> u32 {
        self.total
    }

    /// Where the ports of an inside address are; `None` if it is no host of the pool.
    pub fn place(&self, inside: u32) -> Option<Place> {
        let behind = self.by_address.partition_point(|h| h.first <= inside);
        let hosts = self.by_address.get(behind.checked_sub(1)?)?;
        if inside > hosts.last {
            return None;
        }
        let number = hosts.number + (inside - hosts.first);
        let share = u32::from(self.plan.hosts.max(1));
        Some(Place {
            address: (number / share) as usize,
            slot: (number % share) as u16,
        })
    }

    /// Whose `port` of the `address`-th address is.
    pub fn holder(&self, address: usize, port: u16) -> Holder {
        let plan = &self.plan;
        if !plan.ports.contains(port) {
            return Holder::Nobody;
        }
        let below = plan.ports.ranges().iter().take_while(|r| r.first <= port);
        let at: u32 = below
            .map(|r| PortRange::new(r.first, r.last.min(port)).size())
            .sum::<u32>()
            - 1;
        let slot = at / u32::from(plan.ports_per_host.max(1));
        if slot >= u32::from(plan.hosts) {
            let size = u32::from(plan.overflow.unwrap_or(0));
            let whole = |r: &PortRange| {
                r.contains(port) && u32::from(port - r.first) < r.size() / size.max(1) * size
            };
            return match plan.rest().iter().any(whole) {
                true => Holder::Overflow,
                false => Holder::Nobody,
            };
        }
        let number = address as u64 * u64::from(plan.hosts) + u64::from(slot);
        let behind = self
            .hosts
            .partition_point(|h| u64::from(h.number) <= number);
        let hosts = behind.checked_sub(1).and_then(|i| self.hosts.get(i));
        match hosts.map(|h| u64::from(h.first) + number - u64::from(h.number)) {
            Some(host) if number < u64::from(self.total) => Holder::Host(host as u32),
            _ => Holder::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use std::net::Ipv4Addr;

    fn host(text: &str) -> u32 {
        u32::from(text.parse::<Ipv4Addr>().unwrap())
    }

    /// RFC 7422 §2.3 (GV2).
    fn example() -> Deterministic {
        let plan = HostPlan {
            ports: PortRanges::single(1024, 65535),
            hosts: 14,
            ports_per_host: 4032,
            overflow: Some(1008),
        };
        let inside = (host("198.51.100.1"), host("198.51.100.14"));
        Deterministic::new(&[inside], plan)
    }

    // Proves: D7, D2, D3.
    #[test]
    fn the_example_of_the_rfc() {
        let map = example();
        for n in 1..=14u16 {
            let inside = host("198.51.100.0") + u32::from(n);
            let place = map.place(inside).unwrap();
            assert_eq!(place.address, 0);
            let first = 1024 + 4032 * (n - 1);
            assert_eq!(
                map.plan().own_ports(place.slot),
                [PortRange::new(first, first + 4031)]
            );
            for port in [first, first + 4031] {
                assert_eq!(map.holder(0, port), Holder::Host(inside));
            }
        }
        assert_eq!(map.plan().own_ports(13)[0], PortRange::new(53440, 57471));
        assert_eq!(map.plan().rest(), [PortRange::new(57472, 65535)]);
        assert_eq!(map.plan().overflow_blocks(), 8);
        assert_eq!(map.holder(0, 2001), Holder::Host(host("198.51.100.1")));
        assert_eq!(map.holder(0, 58204), Holder::Overflow);
        assert_eq!(map.holder(0, 1023), Holder::Nobody);
        for stranger in ["198.51.100.0", "198.51.100.15", "10.0.0.1"] {
            assert_eq!(map.place(host(stranger)), None);
        }
    }

    #[test]
    fn hosts_of_the_next_range_follow_those_of_the_first() {
        let plan = HostPlan {
            ports: PortRanges::single(2000, 2029),
            hosts: 3,
            ports_per_host: 10,
            overflow: None,
        };
        let [a, b, c, d] = ["10.0.5.0", "10.0.5.1", "10.0.0.7", "10.0.0.8"].map(host);
        let map = Deterministic::new(&[(a, b), (c, d)], plan);
        assert_eq!(map.hosts(), 4);
        let holders = |address| [2000, 2010, 2020].map(|port| map.holder(address, port));
        assert_eq!(holders(0), [a, b, c].map(Holder::Host));
        let last = [Holder::Host(d), Holder::Nobody, Holder::Nobody];
        assert_eq!(holders(1), last, "there is no fifth host");
    }

    #[test]
    fn what_fills_no_overflow_block_is_nobodys() {
        let plan = HostPlan {
            ports: "2000-2019,2030-2054,2060-2062".parse().unwrap(),
            hosts: 1,
            ports_per_host: 10,
            overflow: Some(10),
        };
        let only = host("10.0.0.1");
        let map = Deterministic::new(&[(only, only)], plan);
        for (first, last, holder) in [
            (1024, 1999, Holder::Nobody),
            (2000, 2009, Holder::Host(only)),
            (2010, 2019, Holder::Overflow),
            (2020, 2029, Holder::Nobody),
            (2030, 2049, Holder::Overflow),
            (2050, 2065, Holder::Nobody),
        ] {
            for port in first..=last {
                assert_eq!(map.holder(0, port), holder, "port {port}");
            }
        }
    }

    /// The two functions are each other's inverse, whatever is reserved and however hosts and addresses are given.
    // Proves: D1.
    #[test]
    fn both_functions_agree_and_no_port_has_two_hosts() {
        let mut random = Random::from_seed(7422);
        for round in 0..200 {
            let mut ranges = Vec::new();
            let mut low = 1024;
            for _ in 0..=random.below(3) {
                let last = low + 500 + random.below(9000);
                ranges.push(PortRange::new(low as u16, last as u16));
                low = last + 2 + random.below(300);
            }
            let ports = PortRanges::new(ranges).unwrap();
            let hosts = 1 + random.below(20) as u16;
            let most = ports.size() / u32::from(hosts);
            let plan = HostPlan {
                ports: ports.clone(),
                hosts,
                ports_per_host: 1 + random.below(most) as u16,
                overflow: (round % 2 == 0).then_some(1 + random.below(64) as u16),
            };
            let needed = u32::from(plan.hosts) * u32::from(plan.ports_per_host);
            assert!(needed <= plan.ports.size());
            let inside = [
                (0x0a00_0500, 0x0a00_0500 + random.below(30)),
                (0x0a00_0000, random.below(30) + 0x0a00_0000),
            ];
            let map = Deterministic::new(&inside, plan.clone());
            let mut owned = 0;
            for (first, last) in inside {
                for address in first..=last {
                    let place = map.place(address).unwrap();
                    for port in map
                        .plan()
                        .own_ports(place.slot)
                        .iter()
                        .flat_map(|r| r.first..=r.last)
                    {
                        owned += 1;
                        assert_eq!(map.holder(place.address, port), Holder::Host(address));
                    }
                }
            }
            assert_eq!(owned, map.hosts() * u32::from(plan.ports_per_host));
            let addresses = map.hosts().div_ceil(hosts.into()) as usize;
            let (mut found, mut overflow) = (0, 0);
            for address in 0..addresses {
                for port in 0..=u16::MAX {
                    match map.holder(address, port) {
                        Holder::Host(_) => found += 1,
                        Holder::Overflow => overflow += 1,
                        Holder::Nobody => {}
                    }
                }
            }
            assert_eq!(
                found, owned,
                "no port beyond the hosts' own leads to a host"
            );
            let blocks = plan.overflow_blocks() * u32::from(plan.overflow.unwrap_or(0));
            assert_eq!(overflow, blocks * addresses as u32);
        }
    }
}
