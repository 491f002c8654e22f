//! Addresses, interfaces, ports and protocols as the matcher compares them.

use ipnet::IpNet;

use super::Compiler;
use crate::base::InterfaceId;
use crate::config::validated::{self, AddressList, PrefixSet};
use crate::nat::family::Family;
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

    pub(super) fn addresses_of<A: Family>(&self, set: &PrefixSet) -> RangeSet<A> {
        addresses(set, &self.config.interfaces)
    }

    pub(super) fn ranges<A: Family>(&self, list: &AddressList) -> Vec<(A, A)> {
        ranges(list, &self.config.interfaces)
    }
}

/// The addresses of a family that a set has.
pub(super) fn addresses<A: Family>(
    set: &PrefixSet,
    interfaces: &[validated::Interface],
) -> RangeSet<A> {
    if set.is_any() {
        return RangeSet::any();
    }
    let include = match &set.include {
        Some(list) => RangeSet::of(ranges(list, interfaces)),
        None => RangeSet::any(),
    };
    include.without(&RangeSet::of(ranges(&set.exclude, interfaces)))
}

fn ranges<A: Family>(list: &AddressList, interfaces: &[validated::Interface]) -> Vec<(A, A)> {
    let nets = list.resolve(interfaces);
    let ends = |net: &IpNet| Some((A::from_ip(net.network())?, A::from_ip(net.broadcast())?));
    nets.iter().filter_map(ends).collect()
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
