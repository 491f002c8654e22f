//! `[filter]`: what may pass, checked and resolved.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::matching::{InterfaceMatch, PortSet, PrefixSet, ProtocolSet};
use super::validated::Label;
use crate::gateway::errors::ErrorKind;
use crate::nat::filter::conditions::{IcmpKind, States};
use crate::nat::filter::{Action, Answer};

/// `[filter]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What becomes of packets no rule matches.
    pub default: Action,
    /// Answers and ICMP errors of flows that were let through pass without being asked.
    pub established: bool,
    /// `[[filter.rule]]`, in order: the first match decides.
    pub rules: Vec<FilterRule>,
}

/// `[[filter.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Name, comment, origin.
    pub label: Label,
    /// Receiving interface.
    pub in_: InterfaceMatch,
    /// Outgoing interface.
    pub out: InterfaceMatch,
    /// Source address, before source translation. Rules with the same text share the set.
    pub src: SharedSet,
    /// Destination address, after destination translation.
    pub dst: SharedSet,
    /// Destination address, before destination translation.
    pub orig_dst: SharedSet,
    /// IP protocol.
    pub proto: ProtocolSet,
    /// Source port.
    pub sport: PortSet,
    /// Destination port, after destination translation.
    pub dport: PortSet,
    /// Destination port, before destination translation.
    pub orig_dport: PortSet,
    /// ICMP or ICMPv6 types, as `proto` says.
    pub icmp: IcmpMatch,
    /// States of the packet's flow.
    pub state: StateMatch,
    /// What becomes of packets that match.
    pub action: Action,
}

/// A set of addresses that rules share. Two are equal when their texts are: what named sets in them contain is compared
/// with the sets.
#[derive(Clone, Debug)]
pub struct SharedSet(pub Arc<PrefixSet>);

impl PartialEq for SharedSet {
    fn eq(&self, other: &SharedSet) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for SharedSet {}

impl Deref for SharedSet {
    type Target = PrefixSet;

    fn deref(&self) -> &PrefixSet {
        &self.0
    }
}

/// `icmp_type`: types, or types with a code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IcmpMatch {
    /// Inclusive ranges of [`IcmpKind::number`]; `None` is no condition.
    pub ranges: Option<Vec<(u16, u16)>>,
    /// The condition as written; empty for none.
    pub text: String,
}

impl IcmpMatch {
    /// All codes of a type.
    pub fn all_codes(kind: u8) -> (u16, u16) {
        let number = |code| IcmpKind { kind, code }.number();
        (number(0), number(u8::MAX))
    }
}

impl fmt::Display for IcmpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ranges.is_none() {
            "any"
        } else {
            &self.text
        })
    }
}

/// `state`: the packet has one of these states, and none of those.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateMatch {
    /// One of these; no condition if there is none.
    pub include: States,
    /// None of these (`"!x"`).
    pub exclude: States,
}

impl fmt::Display for StateMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Vec::new();
        for (sign, set) in [("", self.include), ("!", self.exclude)] {
            let named = States::ALL.iter().filter(|(_, state)| set.has(*state));
            names.extend(named.map(|(name, _)| format!("{sign}{name}")));
        }
        match names.is_empty() {
            true => f.write_str("any"),
            false => f.write_str(&names.join(",")),
        }
    }
}

/// What `reject_with` can be, by the name iptables gives it.
pub const REJECT_WITH: &[(&str, Answer)] = &[
    (
        "icmp-port-unreachable",
        Answer::Error(ErrorKind::PortUnreachable),
    ),
    (
        "icmp-net-unreachable",
        Answer::Error(ErrorKind::NetUnreachable),
    ),
    (
        "icmp-host-unreachable",
        Answer::Error(ErrorKind::HostUnreachable),
    ),
    // The pointer of the IPv6 form: the next-header field of the fixed header.
    (
        "icmp-proto-unreachable",
        Answer::Error(ErrorKind::ProtocolUnreachable { pointer: 6 }),
    ),
    (
        "icmp-net-prohibited",
        Answer::Error(ErrorKind::NetProhibited),
    ),
    (
        "icmp-host-prohibited",
        Answer::Error(ErrorKind::HostProhibited),
    ),
    (
        "icmp-admin-prohibited",
        Answer::Error(ErrorKind::AdminProhibited),
    ),
    ("icmp6-no-route", Answer::Error(ErrorKind::NetUnreachable)),
    (
        "icmp6-adm-prohibited",
        Answer::Error(ErrorKind::AdminProhibited),
    ),
    (
        "icmp6-addr-unreachable",
        Answer::Error(ErrorKind::HostUnreachable),
    ),
    (
        "icmp6-port-unreachable",
        Answer::Error(ErrorKind::PortUnreachable),
    ),
    (
        "icmp6-policy-fail",
        Answer::Error(ErrorKind::SourceProhibited),
    ),
    ("icmp6-reject-route", Answer::Error(ErrorKind::RouteRejects)),
    ("tcp-reset", Answer::Reset),
];

/// What `reject` answers with unless `reject_with` says otherwise.
pub const REJECT_DEFAULT: Answer = Answer::Error(ErrorKind::PortUnreachable);

/// An action as listings show it: `accept`, `drop`, `reject:icmp-port-unreachable`.
pub fn action_name(action: Action) -> String {
    match action {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Reject(answer) => {
            // The first name: that of IPv4, where both families have one.
            let named = REJECT_WITH.iter().find(|(_, known)| *known == answer);
            format!("reject:{}", named.map_or("", |(name, _)| name))
        }
    }
}

/// ICMP types and codes by name, as iptables has them.
pub const ICMP_TYPES: &[(&str, u8, Option<u8>)] = &[
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-route-failed", 3, Some(5)),
    ("network-unknown", 3, Some(6)),
    ("host-unknown", 3, Some(7)),
    ("network-prohibited", 3, Some(9)),
    ("host-prohibited", 3, Some(10)),
    ("TOS-network-unreachable", 3, Some(11)),
    ("TOS-host-unreachable", 3, Some(12)),
    ("communication-prohibited", 3, Some(13)),
    ("host-precedence-violation", 3, Some(14)),
    ("precedence-cutoff", 3, Some(15)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("network-redirect", 5, Some(0)),
    ("host-redirect", 5, Some(1)),
    ("TOS-network-redirect", 5, Some(2)),
    ("TOS-host-redirect", 5, Some(3)),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("ttl-zero-during-transit", 11, Some(0)),
    ("ttl-zero-during-reassembly", 11, Some(1)),
    ("parameter-problem", 12, None),
    ("ip-header-bad", 12, Some(0)),
    ("required-option-missing", 12, Some(1)),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
    ("address-mask-request", 17, None),
    ("address-mask-reply", 18, None),
];

/// ICMPv6 types and codes by name, as ip6tables has them.
pub const ICMP6_TYPES: &[(&str, u8, Option<u8>)] = &[
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("beyond-scope", 1, Some(2)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("failed-policy", 1, Some(5)),
    ("reject-route", 1, Some(6)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-exceeded", 3, None),
    ("ttl-zero-during-transit", 3, Some(0)),
    ("ttl-zero-during-reassembly", 3, Some(1)),
    ("parameter-problem", 4, None),
    ("bad-header", 4, Some(0)),
    ("unknown-header-type", 4, Some(1)),
    ("unknown-option", 4, Some(2)),
    ("echo-request", 128, None),
    ("ping", 128, None),
    ("echo-reply", 129, None),
    ("pong", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-advertisement", 136, None),
    ("neighbor-advertisement", 136, None),
    ("redirect", 137, None),
];
