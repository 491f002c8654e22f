//! What a shard does besides packets, a bounded slice at a time.

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId};
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::journal::Outlet;
use crate::dataplane::shard::{Parked, Shard, WAITING_PER_NEIGHBOUR};
use crate::gateway::errors::ErrorKind;
use crate::gateway::neighbour::{Event, NeighbourId};
use crate::nat::expiry::SweepBudget;
use crate::nat::policy::Policy;
use crate::nat::revalidate::still_valid;
use crate::wire::parse::{Network, parse};

/// Bounds of one slice.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// Of the translation state of IPv4.
    pub sweep: SweepBudget,
    /// Of the translation state of IPv6.
    pub sweep_v6: SweepBudget,
    /// Neighbours to look at.
    pub neighbours: usize,
    /// Fragmented datagrams, and unsolicited SYNs, to let go.
    pub datagrams: usize,
}

impl<B: Buffer> Shard<B> {
    /// Expires sessions, datagrams and neighbours, and asks again for those that have not answered.
    pub fn maintain(&mut self, policy: &Policy, now: Now, slice: Slice, sink: &mut impl Sink<B>) {
        self.nat.sweep(policy, now, slice.sweep, |session| {
            still_valid(policy, session)
        });
        self.nat_v6.sweep(policy, now, slice.sweep_v6, |session| {
            still_valid(policy, session)
        });
        let counters = &mut self.counters;
        self.fragments.expire(now.millis, slice.datagrams, |held| {
            counters.drop(DropReason::FragmentTimeout);
            sink.discard(held.buffer);
        });
        self.waited(policy, now, slice.datagrams, sink);
        let mut events = arrayvec::ArrayVec::<Event, 64>::new();
        self.neighbours
            .sweep(now, slice.neighbours.min(events.capacity()), &mut |event| {
                events.push(event)
            });
        for event in events {
            match event {
                Event::Solicit {
                    interface,
                    address,
                    unicast_to,
                    ..
                } => {
                    self.solicit(policy, interface, address, unicast_to, sink);
                }
                Event::Failed { id } => self.let_go(policy, now, id, sink),
            }
        }
        self.run_loops(policy, now, sink);
    }

    /// Carries off what has to be logged.
    pub fn carry_log(&mut self, to: &mut Outlet) {
        to.carry(&mut self.nat.journal);
        to.carry(&mut self.nat_v6.journal);
    }

    /// Brings the neighbour table in line with a new policy.
    pub fn policy_changed(&mut self, policy: &Policy, now: Now, sink: &mut impl Sink<B>) {
        let (waiting, counters) = (&mut self.waiting, &mut self.counters);
        self.neighbours.rebind(&policy.interfaces, now, &mut |id| {
            waiting.drain(id, |packet| {
                counters.drop(DropReason::ConfigChanged);
                sink.discard(packet.buffer);
            });
        });
        let configured = |interface, address| {
            policy
                .static_neighbours
                .iter()
                .any(|n| (n.0, n.1) == (interface, address))
        };
        self.neighbours.retain_static(configured);
        for (interface, address, mac) in &policy.static_neighbours {
            if let Some(on) = policy.interfaces.get(*interface) {
                // A full table leaves the neighbour to be asked for like any other.
                let _ = self.neighbours.set_static(on, *address, *mac, now);
            }
        }
    }

    /// Drops what waited for a neighbour that does not answer, and tells the senders. The packets are translated already,
    /// so an error about one goes to an external address and back through the translator.
    fn let_go(&mut self, policy: &Policy, now: Now, id: NeighbourId, sink: &mut impl Sink<B>) {
        let ingress = self.neighbours.get(id).map(|n| n.interface);
        let mut waited = arrayvec::ArrayVec::<Parked<B>, WAITING_PER_NEIGHBOUR>::new();
        self.waiting.drain(id, |packet| waited.push(packet));
        for Parked { buffer, .. } in waited {
            let parsed = parse(buffer.bytes()).ok();
            let incoming = Incoming {
                buffer,
                ingress: ingress.unwrap_or_default(),
                looped: false,
                shown: None,
                not_a_reply: false,
                no_call: false,
                waited: false,
                hops: 0,
            };
            if let Some(packet) = parsed.filter(|p| p.network != Network::Arp) {
                self.send_error(
                    policy,
                    now,
                    ErrorKind::HostUnreachable,
                    &incoming,
                    &packet,
                    sink,
                );
            }
            self.discard(incoming.buffer, DropReason::NeighbourUnresolved, sink);
        }
    }

    /// Lets go of everything held: the gateway stops.
    pub fn shut_down(&mut self, sink: &mut impl Sink<B>) {
        let counters = &mut self.counters;
        self.fragments.clear(|held| {
            counters.drop(DropReason::Shutdown);
            sink.discard(held.buffer);
        });
        for held in self.unsolicited.drain() {
            counters.drop(DropReason::Shutdown);
            sink.discard(held.buffer);
        }
        self.waiting.drain_all(|packet| {
            counters.drop(DropReason::Shutdown);
            sink.discard(packet.buffer);
        });
    }

    /// Forgets what was learned on an interface whose link went down.
    pub fn link_down(&mut self, interface: InterfaceId, sink: &mut impl Sink<B>) {
        let (waiting, counters) = (&mut self.waiting, &mut self.counters);
        self.neighbours.flush_interface(interface, &mut |id| {
            waiting.drain(id, |packet| {
                counters.drop(DropReason::LinkDown);
                sink.discard(packet.buffer);
            });
        });
    }
}
