//! What the filter knows of a packet, and what a rule can ask of it.

use std::ops::BitOr;
use std::sync::Arc;

use crate::base::InterfaceId;
use crate::flow::key::Tuple;
use crate::nat::matcher::RangeSet;

/// States of a flow's packet, as `state` names them. A packet has several at a time (`new` and `dnat`); a rule matches
/// when it names one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u16);

impl States {
    /// The packet opens a flow.
    pub const NEW: States = States(1);
    /// It belongs to a flow that was let through.
    pub const ESTABLISHED: States = States(2);
    /// It is an ICMP error about such a flow.
    pub const RELATED: States = States(4);
    /// It can open no flow: a TCP segment from the middle of a connection nobody knows, an answer to no question.
    pub const INVALID: States = States(8);
    /// The flow's destination was translated.
    pub const DNAT: States = States(16);
    /// The flow's source was translated; known from the second packet on.
    pub const SNAT: States = States(32);

    /// Every state with the name the configuration gives it.
    pub const ALL: [(&'static str, States); 6] = [
        ("new", States::NEW),
        ("established", States::ESTABLISHED),
        ("related", States::RELATED),
        ("invalid", States::INVALID),
        ("dnat", States::DNAT),
        ("snat", States::SNAT),
    ];

    /// The states as bits, below 64.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether `state` is among them.
    pub fn has(self, state: States) -> bool {
        self.0 & state.0 != 0
    }

    /// The combinations that have one of these states, if there are any, and none of `without`: what a rule that names
    /// them accepts.
    pub fn matching(self, without: States) -> RangeSet<u16> {
        if self.0 | without.0 == 0 {
            return RangeSet::any();
        }
        let accepts = |bits: &u16| (self.0 == 0 || bits & self.0 != 0) && bits & without.0 == 0;
        RangeSet::of((0..64).filter(accepts).map(|bits| (bits, bits)))
    }
}

impl BitOr for States {
    type Output = States;

    fn bitor(self, other: States) -> States {
        States(self.0 | other.0)
    }
}

/// ICMP or ICMPv6 type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpKind {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
}

impl IcmpKind {
    /// Type and code as one number, in the order of types.
    pub fn number(self) -> u16 {
        u16::from(self.kind) << 8 | u16::from(self.code)
    }

    /// What answers a query of this kind (RFC 792, RFC 950, RFC 4443); itself if it is none.
    #[must_use]
    pub fn answer(self, v6: bool) -> IcmpKind {
        let kind = match (v6, self.kind) {
            (false, 8) => 0,
            (false, 13 | 15 | 17) | (true, 128) => self.kind + 1,
            (_, other) => other,
        };
        IcmpKind { kind, code: 0 }
    }
}

/// A packet on its way through the gateway, as the filter sees it: its destination translated, its source not yet.
#[derive(Clone, Copy, Debug)]
pub struct Crossing<A: Copy> {
    /// Interface it came in on.
    pub ingress: InterfaceId,
    /// Interface it will leave by.
    pub egress: InterfaceId,
    /// Its endpoints.
    pub tuple: Tuple<A>,
    /// The destination its flow's first packet was sent to, before translation.
    pub original: (A, u16),
    /// IP protocol.
    pub protocol: u8,
    /// Whether the ports in `tuple` are ports, not ids of ICMP queries or nothing.
    pub has_ports: bool,
    /// ICMP type and code, if it is ICMP.
    pub icmp: Option<IcmpKind>,
    /// Its states.
    pub states: States,
}

/// Everything a rule asks of a packet of one family; all of it must hold. Lists are shared: a named set exists once.
#[derive(Clone, Debug)]
pub struct Conditions<A> {
    /// Receiving interface, by number.
    pub ingress: Arc<RangeSet<u16>>,
    /// Outgoing interface, by number.
    pub egress: Arc<RangeSet<u16>>,
    /// Source address.
    pub source: Arc<RangeSet<A>>,
    /// Destination address.
    pub destination: Arc<RangeSet<A>>,
    /// Destination address before translation.
    pub original: Arc<RangeSet<A>>,
    /// IP protocol.
    pub protocol: Arc<RangeSet<u16>>,
    /// Source port. A condition on ports never holds for protocols without.
    pub source_port: Arc<RangeSet<u16>>,
    /// Destination port.
    pub destination_port: Arc<RangeSet<u16>>,
    /// Destination port before translation.
    pub original_port: Arc<RangeSet<u16>>,
    /// ICMP type and code ([`IcmpKind::number`]).
    pub icmp: Arc<RangeSet<u16>>,
    /// Combinations of states ([`States::matching`]).
    pub states: Arc<RangeSet<u16>>,
}

impl<A> Default for Conditions<A> {
    fn default() -> Conditions<A> {
        let any = Arc::new(RangeSet::any());
        let any_address = Arc::new(RangeSet::any());
        Conditions {
            ingress: any.clone(),
            egress: any.clone(),
            source: any_address.clone(),
            destination: any_address.clone(),
            original: any_address,
            protocol: any.clone(),
            source_port: any.clone(),
            destination_port: any.clone(),
            original_port: any.clone(),
            icmp: any.clone(),
            states: any,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_answered_by_the_next_type_but_for_the_echo_of_ipv4() {
        for (v6, kind, answer) in [
            (false, 8, 0),
            (false, 13, 14),
            (false, 15, 16),
            (false, 17, 18),
            (false, 128, 128),
            (false, 3, 3),
            (true, 128, 129),
            (true, 8, 8),
            (true, 13, 13),
        ] {
            let query = IcmpKind { kind, code: 5 };
            let expected = IcmpKind {
                kind: answer,
                code: 0,
            };
            assert_eq!(query.answer(v6), expected, "{kind}");
        }
        let kind = IcmpKind { kind: 3, code: 4 };
        assert_eq!(kind.number(), 0x0304);
    }

    #[test]
    fn states_match_by_any_that_is_named_and_none_that_is_excluded() {
        let new_dnat = States::NEW | States::DNAT;
        assert_eq!(new_dnat.bits(), 17);
        assert_eq!(new_dnat | States::NEW, new_dnat);
        for (_, state) in States::ALL {
            assert_eq!(
                new_dnat.has(state),
                state == States::NEW || state == States::DNAT
            );
        }
        let none = States::default();
        for (named, without, matches) in [
            (States::NEW, none, true),
            (States::NEW, States::DNAT, false),
            (States::NEW, States::NEW, false),
            (States::RELATED, none, false),
            (States::RELATED | States::DNAT, none, true),
            (none, States::DNAT, false),
            (none, States::SNAT, true),
            (none, none, true),
        ] {
            let set = named.matching(without);
            assert_eq!(
                set.contains(new_dnat.bits()),
                matches,
                "{named:?} {without:?}"
            );
        }
        assert!(!none.matching(none).is_constrained());
        assert_eq!(States::NEW.matching(none).ranges().len(), 32);
    }
}
