//! Addresses, interfaces, ports and protocols as the matcher compares them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::Compiler;
use crate::base::InterfaceId;
use crate::config::validated::{self, AddressList, PrefixSet};
use crate::nat::matcher::{InterfaceSet, RangeSet};
use crate::nat::ports::{PortRange, PortRanges};

impl Compiler<'_> {
    pub(super) fn interfaces_of(&self, of: &validated::InterfaceMatch) -> InterfaceSet {
        match of {
            validated::InterfaceMatch::Any => InterfaceSet::Any,
            validated::InterfaceMatch::Only { ids, .. } => {
                let mut list: Vec<InterfaceId> = ids.iter().map(|id| self.id(*id)).collect();
                list.sort_unstable();
                InterfaceSet::Only(list)
            }
        }
    }

    pub(super) fn addresses_of(&self, set: &PrefixSet) -> RangeSet<u32> {
        if set.is_any() {
            return RangeSet::any();
        }
        let include = match &set.include {
            Some(list) => self.ranges(list),
            None => vec![(0, u32::MAX)],
        };
        RangeSet::of(subtract(include, self.ranges(&set.exclude)))
    }

    pub(super) fn ranges(&self, list: &AddressList) -> Vec<(u32, u32)> {
        let nets = list.resolve(&self.config.interfaces);
        nets.iter()
            .filter_map(|net| match net {
                IpNet::V4(net) => Some((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(_) => None,
            })
            .collect()
    }
}

pub(super) fn port_ranges(set: &validated::PortSet) -> PortRanges {
    let ranges = set
        .ranges()
        .iter()
        .map(|&(first, last)| PortRange { first, last })
        .collect();
    PortRanges::new(ranges).unwrap_or_else(|_| PortRanges::single(1024, u16::MAX))
}

pub(super) fn port_set(set: &validated::PortSet) -> RangeSet<u16> {
    if set.is_any() {
        RangeSet::any()
    } else {
        RangeSet::of(set.ranges().iter().copied())
    }
}

pub(super) fn protocols(set: &validated::ProtocolSet) -> RangeSet<u8> {
    if set.is_any() {
        RangeSet::any()
    } else {
        RangeSet::of(set.iter().map(|p| (p, p)))
    }
}

pub(super) fn v4(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => Some(u32::from(v4)),
        IpAddr::V6(_) => None,
    }
}

pub(super) fn v4_net(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    }
}

/// What is left of some ranges when others are taken out.
fn subtract(from: Vec<(u32, u32)>, mut out: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    out.sort_unstable();
    let mut left = Vec::new();
    for (mut low, high) in from {
        let mut open = true;
        for &(a, b) in &out {
            if !open || b < low || a > high {
                continue;
            }
            if a > low {
                left.push((low, a - 1));
            }
            match b.checked_add(1) {
                Some(next) => low = low.max(next),
                None => open = false,
            }
        }
        if open && low <= high {
            left.push((low, high));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtraction_leaves_exactly_the_rest() {
        assert_eq!(
            subtract(vec![(0, 100)], vec![(10, 20), (90, 200)]),
            [(0, 9), (21, 89)]
        );
        assert_eq!(subtract(vec![(0, u32::MAX)], vec![(5, u32::MAX)]), [(0, 4)]);
        assert_eq!(subtract(vec![(3, 4)], vec![(0, 9)]), []);
        assert_eq!(subtract(vec![(3, 4), (8, 9)], vec![]), [(3, 4), (8, 9)]);
    }
}
