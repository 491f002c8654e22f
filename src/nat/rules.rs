//! The rules a policy is made of, and how a new flow is matched against them.
//!
//! First match wins in every ordered list, there are no chains. Destination rules (static NAT, port forwards) are asked
//! before the route is known, source rules (static NAT, exemptions, source NAT) after.

use std::net::Ipv6Addr;

use crate::base::{InterfaceId, PoolId, RealmId, RuleId};
use crate::flow::key::Tuple;
use crate::gateway::lpm::Lpm;
use crate::nat::family::Family;
use crate::nat::matcher::{InterfaceSet, RangeSet};
use crate::nat::ports::{PortRanges, Select};
use crate::nat::prefix::Neutral;

/// What is known of a flow when rules are asked.
#[derive(Clone, Copy, Debug)]
pub struct Facts<A: Copy> {
    /// Interface it came in on.
    pub ingress: InterfaceId,
    /// Its addresses and ports, as far as translated.
    pub tuple: Tuple<A>,
    /// IP protocol.
    pub protocol: u8,
}

/// Conditions common to all rules.
#[derive(Clone, Debug)]
pub struct Conditions<A> {
    /// Receiving interface.
    pub ingress: InterfaceSet,
    /// Outgoing interface (source rules only).
    pub egress: InterfaceSet,
    /// Source address.
    pub source: RangeSet<A>,
    /// Destination address.
    pub destination: RangeSet<A>,
    /// IP protocol.
    pub protocol: RangeSet<u8>,
    /// Source port.
    pub source_port: RangeSet<u16>,
    /// Destination port.
    pub destination_port: RangeSet<u16>,
}

impl<A> Default for Conditions<A> {
    /// No conditions.
    fn default() -> Conditions<A> {
        Conditions {
            ingress: InterfaceSet::default(),
            egress: InterfaceSet::default(),
            source: RangeSet::any(),
            destination: RangeSet::any(),
            protocol: RangeSet::any(),
            source_port: RangeSet::any(),
            destination_port: RangeSet::any(),
        }
    }
}

impl<A: Family> Conditions<A> {
    /// Whether a flow satisfies them; `egress` is the outgoing interface where it is known.
    pub fn match_flow(&self, facts: &Facts<A>, egress: Option<InterfaceId>) -> bool {
        self.ingress.contains(facts.ingress)
            && egress.is_none_or(|e| self.egress.contains(e))
            && self.source.contains(facts.tuple.source)
            && self.destination.contains(facts.tuple.destination)
            && self.protocol.contains(facts.protocol)
            && self.source_port.contains(facts.tuple.source_port)
            && self.destination_port.contains(facts.tuple.destination_port)
    }
}

/// Where a source rule takes the new source from.
#[derive(Clone, Debug)]
pub enum Via {
    /// The outgoing interface's own address (masquerade).
    Interface,
    /// A pool.
    Pool(PoolId),
    /// Nowhere: leave the source as it is.
    Nothing,
}

/// `[[source-nat]]`.
#[derive(Clone, Debug)]
pub struct SourceRule<A> {
    /// Counter.
    pub id: RuleId,
    /// When it applies.
    pub conditions: Conditions<A>,
    /// What it does.
    pub via: Via,
    /// Ports of its own, narrower than the pool's.
    pub ports: Option<PortRanges>,
    /// Its ports bind ICMP query ids, too: it is a rule about ICMP alone (E6).
    pub binds_ids: bool,
    /// Port selection of its own.
    pub select: Option<Select>,
}

/// Whether a destination listed in `[[exempt]]` is left alone or translated after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// `dst`: leave untranslated, and count it for this rule.
    Leave(RuleId),
    /// `force`: translate although a shorter prefix says otherwise.
    Force,
}

/// `[[exempt]]`.
#[derive(Clone, Debug)]
pub struct Exempt<A> {
    /// Receiving interfaces it applies to.
    pub ingress: InterfaceSet,
    /// Sources it applies to.
    pub source: RangeSet<A>,
    /// Destinations; the longest prefix decides.
    pub destinations: Lpm<A, Exemption>,
}

/// One target of a port forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardTarget<A> {
    /// Inside address.
    pub address: A,
    /// First inside port; `None` keeps the port.
    pub first_port: Option<u16>,
}

/// `[[port-forward]]`.
#[derive(Clone, Debug)]
pub struct PortForward<A> {
    /// Counter.
    pub id: RuleId,
    /// When it applies; `destination` and `destination_port` are the public side.
    pub conditions: Conditions<A>,
    /// Where to. Several: by hash of the client's address, so that a client always meets the same server (E19).
    pub targets: Vec<ForwardTarget<A>>,
    /// Clients behind the target's own interface may call the public address, too.
    pub hairpin: bool,
    /// Source address the target is to see.
    pub source: Option<A>,
    /// Its flows pass without the filter being asked.
    pub allow: bool,
    /// Where the targets are.
    pub realm: RealmId,
}

impl<A: Family> PortForward<A> {
    /// The target of a client. Equal-length ranges shift one to one (E20).
    pub fn target(&self, client: A, port: u16) -> Option<(A, u16)> {
        let pick = spread(client.fold(), self.targets.len())?;
        let target = self.targets.get(pick)?;
        let shifted = match target.first_port {
            None => port,
            Some(first) => {
                let base = self.conditions.destination_port.ranges().first()?.0;
                first.checked_add(port.checked_sub(base)?)?
            }
        };
        Some((target.address, shifted))
    }
}

/// A stable choice among `count` by client address (finaliser of a 32-bit mixer; not secret, because restarts and other
/// gateways are to choose alike).
fn spread(client: u32, count: usize) -> Option<usize> {
    let mut x = client.wrapping_mul(0x9e37_79b1);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    (x as usize).checked_rem(count)
}

/// `[[static-nat]]`: equal-length prefixes, one to one; by host part, or as RFC 6296 says.
// Implements: NP6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRule<A> {
    /// Counter.
    pub id: RuleId,
    /// First external address.
    pub external: A,
    /// First internal address.
    pub internal: A,
    /// Number of addresses − 1 (a mask of host bits).
    pub host_mask: A,
    /// What keeps checksums as they are: rules between IPv6 prefixes of up to 64 bits (RFC 6296).
    pub neutral: Option<Neutral>,
    /// Interface of the outside, if the rule names one.
    pub interface: Option<InterfaceId>,
    /// Translate flows from outside.
    pub inbound: bool,
    /// Translate flows from inside.
    pub outbound: bool,
    /// Where the internal addresses are.
    pub realm: RealmId,
}

impl<A: Family> StaticRule<A> {
    /// The internal address behind an external one.
    pub fn to_internal(&self, address: A) -> Option<A> {
        if address & !self.host_mask != self.external {
            return None;
        }
        let moved = self.internal | (address & self.host_mask);
        self.neutrally(moved, Neutral::back)
    }

    /// The external address in front of an internal one.
    pub fn to_external(&self, address: A) -> Option<A> {
        if !self.holds_internal(address) {
            return None;
        }
        let moved = self.external | (address & self.host_mask);
        self.neutrally(moved, Neutral::out)
    }

    /// Whether an internal address is the rule's business. One without an external address is not let out as it is.
    pub fn holds_internal(&self, address: A) -> bool {
        address & !self.host_mask == self.internal
    }

    fn neutrally(&self, moved: A, how: impl Fn(Neutral, u128) -> Option<u128>) -> Option<A> {
        match self.neutral {
            None => Some(moved),
            Some(neutral) => A::from_ip(Ipv6Addr::from(how(neutral, moved.into())?).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(targets: &[(u32, Option<u16>)], ports: (u16, u16)) -> PortForward<u32> {
        PortForward {
            id: RuleId(0),
            conditions: Conditions {
                destination_port: RangeSet::of([ports]),
                ..Conditions::default()
            },
            targets: targets
                .iter()
                .map(|&(address, first_port)| ForwardTarget {
                    address,
                    first_port,
                })
                .collect(),
            hairpin: true,
            source: None,
            allow: true,
            realm: RealmId(0),
        }
    }

    #[test]
    fn forward_ranges_shift_one_to_one() {
        let rule = forward(&[(1, Some(20))], (9000, 9002));
        assert_eq!(rule.target(7, 9000), Some((1, 20)));
        assert_eq!(rule.target(7, 9002), Some((1, 22)));
        assert_eq!(
            forward(&[(1, None)], (9000, 9002)).target(7, 9001),
            Some((1, 9001))
        );
    }

    #[test]
    fn clients_spread_and_stay() {
        let rule = forward(&[(1, None), (2, None), (3, None)], (80, 80));
        let mut seen = [0; 4];
        for client in 0..3000u32 {
            let (target, _) = rule.target(client, 80).unwrap();
            assert_eq!(rule.target(client, 80), Some((target, 80)));
            seen[target as usize] += 1;
        }
        assert!(
            seen[1..].iter().all(|n| (800..1200).contains(n)),
            "{seen:?}"
        );
    }

    /// 203.0.113.0/24 for 10.0.0.0/24.
    const PREFIXES: StaticRule<u32> = StaticRule {
        id: RuleId(0),
        external: 0xcb00_7100,
        internal: 0x0a00_0000,
        host_mask: 0xff,
        neutral: None,
        interface: None,
        inbound: true,
        outbound: true,
        realm: RealmId(0),
    };

    #[test]
    fn static_prefixes_map_both_ways() {
        let rule = PREFIXES;
        assert_eq!(rule.to_internal(0xcb00_7105), Some(0x0a00_0005));
        assert_eq!(rule.to_external(0x0a00_0005), Some(0xcb00_7105));
        assert_eq!(rule.to_internal(0xcb00_7205), None);
    }

    /// Gateways side by side, and the next release, send a client to the same server.
    #[test]
    fn the_choice_among_targets_stays_what_it_is() {
        let clients = 0x0a00_0002..0x0a00_000a;
        let choices: Vec<usize> = clients.filter_map(|client| spread(client, 7)).collect();
        assert_eq!(choices, [3, 0, 2, 6, 4, 6, 6, 3]);
        let whole = |client| spread(client, 1 << 32);
        assert_eq!(
            (whole(0x0a00_0002), whole(0xcb00_7109)),
            (Some(0x5270_1790), Some(0x2f4e_fa0d))
        );
        assert_eq!(spread(7, 0), None);
    }

    #[test]
    fn a_port_outside_of_the_range_has_no_target() {
        let rule = forward(&[(1, Some(65535))], (9000, 9001));
        assert_eq!(rule.target(7, 9000), Some((1, 65535)));
        assert_eq!(rule.target(7, 9001), None, "beyond the last port");
        assert_eq!(rule.target(7, 8999), None, "below the first");
    }

    #[test]
    fn every_condition_has_to_hold() {
        let facts = Facts {
            ingress: InterfaceId(1),
            tuple: Tuple {
                source: 2u32,
                destination: 3,
                source_port: 4,
                destination_port: 5,
            },
            protocol: 6,
        };
        let only = |id| InterfaceSet::Only(vec![InterfaceId(id)]);
        type Change<'a> = dyn Fn(&mut Conditions<u32>, bool) + 'a;
        let with = |change: &Change, holds: bool| {
            let mut conditions = Conditions::default();
            change(&mut conditions, holds);
            conditions.match_flow(&facts, Some(InterfaceId(9)))
        };
        let changes: [&Change; 7] = [
            &|c, holds| c.ingress = only(if holds { 1 } else { 9 }),
            &|c, holds| c.egress = only(if holds { 9 } else { 1 }),
            &|c, holds| c.source = RangeSet::of([if holds { (2, 2) } else { (3, 9) }]),
            &|c, holds| c.destination = RangeSet::of([if holds { (3, 3) } else { (4, 9) }]),
            &|c, holds| c.protocol = RangeSet::of([if holds { (6, 6) } else { (7, 9) }]),
            &|c, holds| c.source_port = RangeSet::of([if holds { (4, 4) } else { (5, 9) }]),
            &|c, holds| c.destination_port = RangeSet::of([if holds { (5, 5) } else { (6, 9) }]),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            assert_eq!(
                (with(change, true), with(change, false)),
                (true, false),
                "{n}"
            );
        }
        let elsewhere = Conditions {
            egress: only(1),
            ..Conditions::default()
        };
        assert!(elsewhere.match_flow(&facts, None), "not known yet");
    }

    #[test]
    fn a_static_rule_is_about_its_own_prefixes() {
        let rule = PREFIXES;
        assert!(rule.holds_internal(0x0a00_00ff) && !rule.holds_internal(0x0a00_0100));
        assert_eq!(rule.to_external(0x0a00_0100), None);
        assert_eq!(rule.to_internal(0xcb00_70ff), None);
        assert_eq!(rule.to_internal(0xcb00_71ff), Some(0x0a00_00ff));
    }
}
