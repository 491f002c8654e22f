//! IPv6 prefixes translated packet by packet (RFC 6296), where nothing else about IPv6 needs sessions.
//!
//! Addresses alone change and no checksum does, so fragments, extension headers and protocols of any kind pass, and so does
//! the packet an ICMPv6 error quotes. Where IPv6 flows are tracked anyway, the same rules make sessions.

use crate::base::{InterfaceId, RuleId};
use crate::gateway::lpm::Address;
use crate::nat::policy::Policy;
use crate::nat::rules::StaticRule;
use crate::nat::trace::{DestinationStep, SourceStep, Trace};
use crate::wire::parse::{Parsed, Transport};
use crate::wire::{icmp, ipv6};

/// What becomes of a packet's addresses.
pub(super) struct Crossing<'a> {
    source: u128,
    /// Its destination, translated.
    pub(super) destination: u128,
    inward: Option<&'a StaticRule<u128>>,
    outward: Option<&'a StaticRule<u128>>,
    hairpin: bool,
}

/// No address stands for the source outside (RFC 6296 section 3.4).
pub(super) struct Unmapped;

impl<'a> Crossing<'a> {
    /// Translates the destination, before the route is known. An inside host that calls the outside prefix goes out and
    /// comes back in one step (section 4.2).
    pub(super) fn inward(
        policy: &'a Policy,
        ingress: InterfaceId,
        (source, destination): (u128, u128),
    ) -> Crossing<'a> {
        let inside = policy.is_inside(ingress, source);
        let rules = policy.nat.v6.statics.iter().filter(|rule| rule.inbound);
        let mut there = rules.filter(|rule| inside || rule.interface.is_none_or(|i| i == ingress));
        let found = there.find_map(|rule| Some((rule, rule.to_internal(destination)?)));
        Crossing {
            source,
            destination: found.map_or(destination, |(_, internal)| internal),
            inward: found.map(|(rule, _)| rule),
            outward: None,
            hairpin: inside && found.is_some(),
        }
    }

    /// Translates the source of a packet that leaves by `egress`.
    ///
    /// # Errors
    /// [`Unmapped`] for an address without a counterpart.
    // Implements: NP4, NP6.
    pub(super) fn outward(
        &mut self,
        policy: &'a Policy,
        egress: InterfaceId,
    ) -> Result<(), Unmapped> {
        let rules = policy.nat.v6.statics.iter().filter(|rule| rule.outbound);
        let mut there =
            rules.filter(|rule| self.hairpin || rule.interface.is_none_or(|i| i == egress));
        self.outward = there.find(|rule| rule.holds_internal(self.source));
        if let Some(rule) = self.outward {
            self.source = rule.to_external(self.source).ok_or(Unmapped)?;
        }
        Ok(())
    }

    /// The rules that translate, to be counted.
    pub(super) fn rules(&self) -> impl Iterator<Item = RuleId> + use<> {
        let ids = [self.inward, self.outward].map(|rule| rule.map(|rule| rule.id));
        ids.into_iter().flatten()
    }

    /// What it comes to, stage by stage.
    pub(super) fn trace(&self, egress: InterfaceId, port: u16) -> Trace {
        let translated = |rule: &StaticRule<u128>| DestinationStep::Translated {
            address: self.destination.to_ip(),
            port,
            rule: rule.id,
            allowed: false,
        };
        let (destination, source) = (self.inward.map(translated), self.outward);
        Trace {
            destination: Some(destination.unwrap_or(DestinationStep::Kept)),
            egress: Some(egress),
            verdict: None,
            source: Some(source.map_or(SourceStep::Kept(None), |rule| SourceStep::Static(rule.id))),
        }
    }

    /// Writes the addresses into the packet, and into the one it quotes: what comes in is about what an inside host sent,
    /// what goes out about what it received.
    pub(super) fn write(&self, frame: &mut [u8], packet: &Parsed) {
        if self.inward.is_none() && self.outward.is_none() {
            return;
        }
        let l3 = usize::from(packet.l3);
        ipv6::set_source(frame, l3, self.source);
        ipv6::set_destination(frame, l3, self.destination);
        let quote = usize::from(packet.l4) + icmp::HEADER;
        let whole = quote + ipv6::HEADER <= packet.end();
        if packet.transport != Transport::IcmpError || !whole {
            return;
        }
        let sent = self
            .inward
            .and_then(|rule| rule.to_internal(ipv6::source(frame, quote)));
        if let Some(internal) = sent {
            ipv6::set_source(frame, quote, internal);
        }
        let received = ipv6::destination(frame, quote);
        let received = self
            .outward
            .filter(|rule| rule.holds_internal(received))
            .and_then(|rule| rule.to_external(received));
        if let Some(external) = received {
            ipv6::set_destination(frame, quote, external);
        }
    }
}
