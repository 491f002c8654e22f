//! The left-hand sides of rules: which interfaces, addresses, protocols and ports a rule speaks about.
//!
//! Names, sets, wildcards and negations are resolved here; what follows an interface (`interface:IF`, `@self`)
//! stays symbolic, because the addresses of an interface may change while the rule stays the same.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::validated::Interface;
use crate::base::InterfaceId;

/// Interfaces a rule applies to (`in`, `out`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceMatch {
    /// No condition.
    Any,
    /// Exactly these interfaces, ascending; negation and wildcards are already resolved. May be empty (a wildcard
    /// that matches nothing), then the rule never matches.
    Only {
        /// The interfaces, ascending, without repeats.
        ids: Vec<InterfaceId>,
        /// The condition as written, for listings.
        text: String,
    },
}

impl InterfaceMatch {
    /// Whether the rule applies to `id`.
    pub fn contains(&self, id: InterfaceId) -> bool {
        match self {
            InterfaceMatch::Any => true,
            InterfaceMatch::Only { ids, .. } => ids.binary_search(&id).is_ok(),
        }
    }

    /// Whether there is no condition.
    pub fn is_any(&self) -> bool {
        matches!(self, InterfaceMatch::Any)
    }
}

impl fmt::Display for InterfaceMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterfaceMatch::Any => f.write_str("any"),
            InterfaceMatch::Only { text, .. } => f.write_str(text),
        }
    }
}

/// A union of addresses, parts of which follow interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressList {
    /// Fixed prefixes, sorted and aggregated (no prefix covers another).
    pub prefixes: Vec<IpNet>,
    /// "The addresses of these interfaces", ascending: host addresses only, not their subnets.
    pub interfaces: Vec<InterfaceId>,
    /// `@self`: every address of every interface.
    pub own: bool,
}

impl AddressList {
    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty() && self.interfaces.is_empty() && !self.own
    }

    /// The list with `interface:IF` and `@self` replaced by the addresses `interfaces` have now, aggregated.
    pub fn resolve(&self, interfaces: &[Interface]) -> Vec<IpNet> {
        let mut all = self.prefixes.clone();
        for (index, interface) in interfaces.iter().enumerate() {
            let listed = self.interfaces.iter().any(|id| id.index() == index);
            if self.own || listed {
                all.extend(interface.addresses().map(IpNet::from));
            }
        }
        IpNet::aggregate(&all)
    }

    /// Whether `address` is in the list, given the interfaces as they are now.
    pub fn contains(&self, address: IpAddr, interfaces: &[Interface]) -> bool {
        self.resolve(interfaces)
            .iter()
            .any(|net| net.contains(&address))
    }
}

/// Addresses a rule applies to (`src`, `dst`): everything in `include` that is not in `exclude`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet {
    /// What matches; `None` is every address of both families.
    pub include: Option<AddressList>,
    /// What is taken out of it again (`"!x"`).
    pub exclude: AddressList,
    /// The condition as written, for listings; empty for "any".
    pub text: String,
}

impl PrefixSet {
    /// Whether there is no condition.
    pub fn is_any(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Whether `address` matches, given the interfaces as they are now. The policy compiles the lists into a
    /// faster form; this is the definition.
    pub fn contains(&self, address: IpAddr, interfaces: &[Interface]) -> bool {
        let included = self
            .include
            .as_ref()
            .is_none_or(|list| list.contains(address, interfaces));
        included && !self.exclude.contains(address, interfaces)
    }
}

impl fmt::Display for PrefixSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_any() { "any" } else { &self.text })
    }
}

/// A set of IP protocol numbers; negation is resolved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ProtocolSet([u64; 4]);

impl ProtocolSet {
    /// Every protocol.
    pub const ANY: ProtocolSet = ProtocolSet([u64::MAX; 4]);
    /// No protocol: the start of a union.
    pub const EMPTY: ProtocolSet = ProtocolSet([0; 4]);

    /// Names natgate writes and reads; any other protocol is a number.
    pub const NAMES: &'static [(&'static str, u8)] = &[
        ("icmp", 1),
        ("tcp", 6),
        ("udp", 17),
        ("dccp", 33),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("icmp6", 58),
        ("sctp", 132),
        ("udplite", 136),
    ];

    /// Adds a protocol.
    pub fn insert(&mut self, protocol: u8) {
        self.0[usize::from(protocol >> 6)] |= 1 << (protocol & 63);
    }

    /// Whether `protocol` is in the set.
    pub fn contains(&self, protocol: u8) -> bool {
        self.0[usize::from(protocol >> 6)] & (1 << (protocol & 63)) != 0
    }

    /// The protocols not in the set.
    pub fn complement(self) -> ProtocolSet {
        ProtocolSet(self.0.map(|word| !word))
    }

    /// Whether every protocol is in the set.
    pub fn is_any(&self) -> bool {
        *self == Self::ANY
    }

    /// The protocols in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|&protocol| self.contains(protocol))
    }

    /// The name of a protocol, or its number.
    pub fn name(protocol: u8) -> String {
        let known = Self::NAMES.iter().find(|(_, number)| *number == protocol);
        known.map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_string())
    }
}

impl fmt::Display for ProtocolSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any");
        }
        // More members than absentees reads better negated.
        let (sign, set) = match self.iter().count() {
            n if n > 128 => ("!", self.complement()),
            _ => ("", *self),
        };
        let names: Vec<String> = set
            .iter()
            .map(|p| format!("{sign}{}", Self::name(p)))
            .collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for ProtocolSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProtocolSet({self})")
    }
}

/// A set of port numbers as ascending, disjoint, non-adjacent inclusive ranges; negation is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Every port, 0–65535.
    pub fn any() -> PortSet {
        PortSet(vec![(0, u16::MAX)])
    }

    /// The set of these inclusive ranges, in any order, overlapping or not. A range whose end lies below its
    /// start is empty.
    pub fn new(mut ranges: Vec<(u16, u16)>) -> PortSet {
        ranges.retain(|(low, high)| low <= high);
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        PortSet(merged)
    }

    /// The ports not in the set.
    pub fn complement(&self) -> PortSet {
        let mut ranges = Vec::new();
        let mut next = 0u32;
        for &(low, high) in &self.0 {
            if next < u32::from(low) {
                ranges.push((next as u16, low - 1));
            }
            next = u32::from(high) + 1;
        }
        if next <= u32::from(u16::MAX) {
            ranges.push((next as u16, u16::MAX));
        }
        PortSet(ranges)
    }

    /// The ports that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &PortSet) -> PortSet {
        let mut union = self.complement().ranges().to_vec();
        union.extend_from_slice(other.ranges());
        PortSet::new(union).complement()
    }

    /// The inclusive ranges, ascending.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|&(low, high)| (low..=high).contains(&port))
    }

    /// Number of ports, 0–65536.
    pub fn count(&self) -> u32 {
        self.0
            .iter()
            .map(|&(low, high)| u32::from(high - low) + 1)
            .sum()
    }

    /// Whether every port is in the set.
    pub fn is_any(&self) -> bool {
        self.0 == [(0, u16::MAX)]
    }

    /// Whether the two sets share a port.
    pub fn intersects(&self, other: &PortSet) -> bool {
        let overlap = |a: &(u16, u16), b: &(u16, u16)| a.0 <= b.1 && b.0 <= a.1;
        self.0.iter().any(|a| other.0.iter().any(|b| overlap(a, b)))
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any");
        }
        for (index, (low, high)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match low == high {
                true => write!(f, "{comma}{low}")?,
                false => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

/// Everything a rule can require of a packet. All conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Receiving interface.
    pub in_: InterfaceMatch,
    /// Sending interface, known after routing.
    pub out: InterfaceMatch,
    /// Source address (before source translation).
    pub src: PrefixSet,
    /// Destination address (after destination translation).
    pub dst: PrefixSet,
    /// IP protocol.
    pub proto: ProtocolSet,
    /// Source port; only protocols with ports match a set that is not "any".
    pub sport: PortSet,
    /// Destination port; only protocols with ports match a set that is not "any".
    pub dport: PortSet,
}

impl Default for Match {
    fn default() -> Match {
        Match {
            in_: InterfaceMatch::Any,
            out: InterfaceMatch::Any,
            src: PrefixSet::default(),
            dst: PrefixSet::default(),
            proto: ProtocolSet::ANY,
            sport: PortSet::any(),
            dport: PortSet::any(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn port_sets_merge_and_print() {
        let set = PortSet::new(vec![(32768, 65535), (1024, 2000), (2001, 29999)]);
        assert_eq!(set.to_string(), "1024-29999,32768-65535");
        assert_eq!(set.count(), 28976 + 32768);
        assert_eq!(set.complement().to_string(), "0-1023,30000-32767");
        assert_eq!(PortSet::new(vec![(80, 80)]).to_string(), "80");
        assert!(PortSet::any().complement().ranges().is_empty());
    }

    #[test]
    fn protocol_sets_print_the_shorter_way() {
        let mut set = ProtocolSet::EMPTY;
        set.insert(6);
        set.insert(99);
        assert_eq!(set.to_string(), "tcp,99");
        assert_eq!(set.complement().to_string(), "!tcp,!99");
        assert_eq!(ProtocolSet::ANY.to_string(), "any");
    }

    proptest! {
        #[test]
        fn complement_splits_the_ports(ranges in prop::collection::vec(any::<(u16, u16)>(), 0..6), port: u16) {
            let set = PortSet::new(ranges);
            prop_assert_ne!(set.contains(port), set.complement().contains(port));
            prop_assert_eq!(set.count() + set.complement().count(), 65536);
        }
    }
}
