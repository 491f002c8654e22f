//! Fragments on their way to the translator: each gets the ports of its datagram, and waits for them if need be.

use arrayvec::ArrayVec;

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::family::Ip;
use crate::dataplane::shard::Shard;
use crate::dataplane::steering;
use crate::nat::fragments::{DatagramKey, HELD_PER_DATAGRAM, Shown, Span, Upper};
use crate::nat::policy::Policy;
use crate::wire::parse::Parsed;

impl<B: Buffer> Shard<B> {
    /// A fragment: learn or look up its datagram's ports, then treat it like any packet with these ports.
    // Implements: U14.
    pub(super) fn fragment<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        sink: &mut impl Sink<B>,
    ) {
        let mut with_ports = *packet;
        if let Some(Shown { upper, length, .. }) = incoming.shown {
            with_ports.protocol = upper.protocol;
            (with_ports.source_port, with_ports.destination_port) = upper.ports;
            with_ports.fragment.datagram = length;
            return self.lookup::<A>(policy, now, incoming, &with_ports, sink);
        }
        let realm = policy.realm_of(incoming.ingress);
        let key = DatagramKey::of(packet, A::ends(incoming.buffer.bytes(), packet), realm);
        if let Some(tracker) = steering::fragment_tracker(policy, &key)
            && tracker != self.id
        {
            return self.hand_over(tracker, incoming, sink);
        }
        if packet.fragment.offset == 0 {
            return self.first_fragment(policy, now, incoming, packet, &key, sink);
        }
        self.later_fragment(policy, now, incoming, Span::of(packet), &key, sink);
    }

    fn later_fragment(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        span: Span,
        key: &DatagramKey,
        sink: &mut impl Sink<B>,
    ) {
        let refused = match self.fragments.later(key, span) {
            Ok(Some(shown)) => {
                if shown.length.is_some() {
                    self.release(policy, now, key, shown, sink);
                }
                return self.with_first(policy, now, incoming, shown, sink);
            }
            Ok(None) => self.fragments.hold(key, span, incoming, now.millis).err(),
            Err(reason) => Some((incoming, reason)),
        };
        if let Some((incoming, reason)) = refused {
            self.refuse_piece(key, incoming, reason, sink);
        }
    }

    /// Drops a piece; if it overlaps another, with those that wait with it.
    fn refuse_piece(
        &mut self,
        key: &DatagramKey,
        incoming: Incoming<B>,
        reason: DropReason,
        sink: &mut impl Sink<B>,
    ) {
        self.discard(incoming.buffer, reason, sink);
        if reason == DropReason::FragmentOverlap {
            for held in self.waited_for(key) {
                self.discard(held.buffer, reason, sink);
            }
        }
    }

    /// The pieces that wait for another one of their datagram.
    fn waited_for(&mut self, key: &DatagramKey) -> ArrayVec<Incoming<B>, HELD_PER_DATAGRAM> {
        let mut waited = ArrayVec::new();
        self.fragments.release(key, |held| waited.push(held));
        waited
    }

    fn first_fragment(
        &mut self,
        policy: &Policy,
        now: Now,
        incoming: Incoming<B>,
        packet: &Parsed,
        key: &DatagramKey,
        sink: &mut impl Sink<B>,
    ) {
        let upper = Upper {
            protocol: packet.protocol,
            ports: (packet.source_port, packet.destination_port),
        };
        let number = || self.identification.next(policy);
        let span = Span::of(packet);
        let learned = self.fragments.learn(key, span, upper, number, now.millis);
        let refused = match learned {
            Ok(Some(shown)) => {
                self.with_first(policy, now, incoming, shown, sink);
                return self.release(policy, now, key, shown, sink);
            }
            Ok(None) => self.fragments.hold(key, span, incoming, now.millis).err(),
            Err(reason) => Some((incoming, reason)),
        };
        if let Some((incoming, reason)) = refused {
            self.refuse_piece(key, incoming, reason, sink);
        }
    }

    /// Forwards the pieces that waited.
    fn release(
        &mut self,
        policy: &Policy,
        now: Now,
        key: &DatagramKey,
        shown: Shown,
        sink: &mut impl Sink<B>,
    ) {
        for held in self.waited_for(key) {
            self.with_first(policy, now, held, shown, sink);
        }
    }

    /// A piece whose datagram's first one is known.
    fn with_first(
        &mut self,
        policy: &Policy,
        now: Now,
        mut incoming: Incoming<B>,
        shown: Shown,
        sink: &mut impl Sink<B>,
    ) {
        incoming.shown = Some(shown);
        self.process(policy, now, incoming, sink);
    }
}
