//! The filter over IPv6, which has no sessions: flows are tracked only so that their answers can pass.

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, RuleId, WorkerId};
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::judge::icmp_kind;
use crate::dataplane::shard::Shard;
use crate::dataplane::steering;
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::Direction;
use crate::nat::filter::Verdict;
use crate::nat::filter::conditions::{Crossing, States};
use crate::nat::filter::flows::{has_ports, opens_tcp};
use crate::nat::fragments::DatagramKey;
use crate::nat::policy::Policy;
use crate::nat::trace::Trace;
use crate::wire::parse::{Parsed, Transport, parse_quoted_v6};
use crate::wire::{icmp, ipv6};

/// What the filter says of an IPv6 packet.
pub(super) enum Judged {
    /// It passes.
    Pass,
    /// The filter refuses it.
    Refused(Verdict),
    /// It is dropped for another reason.
    Dropped(DropReason),
}

impl<B: Buffer> Shard<B> {
    /// Brings a packet to the worker that tracks its flow, and fragments to their ports. Gives it back when it is to be
    /// handled here and now.
    pub(super) fn gather_v6(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) -> Option<Incoming<B>> {
        let ends = flow_ends(incoming.buffer.bytes(), packet);
        let owner = steering::owner_v6(policy, ends.0, ends.1);
        if let Some(owner) = owner.filter(|owner: &WorkerId| *owner != self.id) {
            self.hand_over(owner, incoming, sink);
            return None;
        }
        if !packet.fragment.is_fragment() || incoming.ports.is_some() {
            return Some(incoming);
        }
        let realm = policy.realm_of(incoming.ingress);
        let key = DatagramKey::of_v6(packet, ends, realm);
        if packet.fragment.offset == 0 {
            self.first_fragment(policy, now, incoming, packet, &key, sink);
        } else {
            self.later_fragment(policy, now, incoming, &key, sink);
        }
        None
    }

    /// Judges a packet that is to be forwarded through `egress`, and records its flow.
    pub(super) fn judge_v6(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: &Incoming<B>,
        packet: &Parsed,
        egress: InterfaceId,
    ) -> Judged {
        let frame = incoming.buffer.bytes();
        let crossing = crossing(incoming, packet, egress);
        if packet.transport == Transport::IcmpError {
            return self.judge_error_v6(policy, now, frame, packet, crossing);
        }
        let realm = policy.realm_of(incoming.ingress);
        let key = FlowKey::new(crossing.tuple, crossing.protocol, realm);
        if let Some(known) = self.tracker.find(&policy.timeouts, &key, now) {
            if known.direction == Direction::Reverse && policy.filter.judges_answers() {
                let verdict = judge(policy, crossing, States::ESTABLISHED);
                if !verdict.passes() {
                    return Judged::Refused(verdict);
                }
            }
            self.tracker
                .touch(&known, packet.transport, packet.tcp_flags, now);
            self.accounts.packet(known.rule, packet.ip_length);
            return Judged::Pass;
        }
        if packet.transport == Transport::LaterFragment {
            return Judged::Dropped(DropReason::FragmentNoFirst);
        }
        let opens = may_open(packet);
        let first = if opens { States::NEW } else { States::INVALID };
        let verdict = judge(policy, crossing, first);
        self.traces[0] = Trace {
            egress: Some(egress),
            verdict: Some(verdict),
            ..Trace::default()
        };
        if !verdict.passes() {
            return Judged::Refused(verdict);
        }
        let what = (packet.transport, packet.tcp_flags);
        if opens
            && !self
                .tracker
                .open(&policy.timeouts, &key, what, verdict.rule, now)
        {
            return Judged::Dropped(DropReason::TableFull);
        }
        let account = self.accounts.open(RuleId::NONE, verdict.rule);
        self.accounts.packet(account, packet.ip_length);
        Judged::Pass
    }

    /// An ICMPv6 error: related to a flow that was let through, or to nothing.
    fn judge_error_v6(
        &mut self,
        policy: &Policy,
        now: Now,
        frame: &[u8],
        packet: &Parsed,
        crossing: Crossing<u128>,
    ) -> Judged {
        let realm = policy.realm_of(crossing.ingress);
        let known = quoted_key(frame, packet)
            // An error goes to the sender of the packet it is about.
            .filter(|(tuple, _)| tuple.source == crossing.tuple.destination)
            .and_then(|(tuple, protocol)| {
                let key = FlowKey::new(tuple, protocol, realm);
                self.tracker.find(&policy.timeouts, &key, now)
            });
        let states = match known {
            Some(known) if !policy.filter.judges_answers() => {
                self.accounts.packet(known.rule, packet.ip_length);
                return Judged::Pass;
            }
            Some(_) => States::RELATED,
            None => States::INVALID,
        };
        let verdict = judge(policy, crossing, states);
        if !verdict.passes() {
            return Judged::Refused(verdict);
        }
        let account = self.accounts.open(RuleId::NONE, verdict.rule);
        self.accounts.packet(account, packet.ip_length);
        Judged::Pass
    }
}

fn judge(policy: &Policy, crossing: Crossing<u128>, states: States) -> Verdict {
    policy.filter.judge_v6(&Crossing { states, ..crossing })
}

/// Whether a packet can be the first of a flow.
fn may_open(packet: &Parsed) -> bool {
    match packet.transport {
        Transport::Tcp => opens_tcp(packet.tcp_flags),
        Transport::IcmpReply | Transport::IcmpError => false,
        _ => true,
    }
}

fn crossing<B: Buffer>(
    incoming: &Incoming<B>,
    packet: &Parsed,
    egress: InterfaceId,
) -> Crossing<u128> {
    let (frame, l3) = (incoming.buffer.bytes(), usize::from(packet.l3));
    // What a fragment's first piece has shown counts for all of them.
    let shown = (packet.source_port, packet.destination_port);
    let (source_port, destination_port) = incoming.ports.unwrap_or(shown);
    let tuple = Tuple {
        source: ipv6::source(frame, l3),
        destination: ipv6::destination(frame, l3),
        source_port,
        destination_port,
    };
    Crossing {
        ingress: incoming.ingress,
        egress,
        tuple,
        original: (tuple.destination, tuple.destination_port),
        protocol: packet.protocol,
        has_ports: has_ports(packet.protocol),
        icmp: icmp_kind(frame, packet),
        states: States::NEW,
    }
}

/// The endpoints and protocol of the packet an ICMPv6 error quotes.
fn quoted_key(frame: &[u8], packet: &Parsed) -> Option<(Tuple<u128>, u8)> {
    let quote = frame.get(usize::from(packet.l4) + icmp::HEADER..packet.end())?;
    let quoted = parse_quoted_v6(quote).ok()?;
    let tuple = Tuple {
        source: ipv6::source(quote, 0),
        destination: ipv6::destination(quote, 0),
        source_port: quoted.source_port,
        destination_port: quoted.destination_port,
    };
    Some((tuple, quoted.protocol))
}

/// The ends of the flow a packet belongs to: its own, or those of the packet it complains about.
fn flow_ends(frame: &[u8], packet: &Parsed) -> (u128, u128) {
    let about = (packet.transport == Transport::IcmpError)
        .then(|| quoted_key(frame, packet))
        .flatten();
    let l3 = usize::from(packet.l3);
    about.map_or(
        (ipv6::source(frame, l3), ipv6::destination(frame, l3)),
        |(tuple, _)| (tuple.source, tuple.destination),
    )
}
