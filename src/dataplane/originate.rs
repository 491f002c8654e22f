//! Packets that management wants sent: frames for a link as they are, and datagrams that go where the routes say.
//!
//! Management owns no queue and no neighbour, so it asks a worker, which sends in between its batches like for itself: from
//! its buffers, through its own next hops, counted as generated. A worker looks at [`SLICE`] of them in a loop; a batch of
//! many ([`Originals`]) is one job, costs no allocation on the worker, and comes back whole with what became of each packet.
//!
//! A datagram leaves from the address of its interface, which translation may share: the ports that the gateway sends from
//! are never given to anybody, see [`Validated::own_ports`](crate::config::validated::Validated::own_ports).

use std::net::{IpAddr, SocketAddr};

use crossbeam_channel::Sender;

use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, RealmId};
use crate::dataplane::buffer::{Buffer, Sink};
use crate::dataplane::egress::{NextHop, parked};
use crate::dataplane::family::Ip;
use crate::dataplane::generate::L3;
use crate::dataplane::shard::{Parked, Shard};
use crate::gateway::Interface;
use crate::nat::policy::Policy;
use crate::wire::{MacAddr, ethernet, udp};

/// Packets of one batch that a worker sends in a loop.
pub const SLICE: usize = 64;

/// A packet that management wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Original {
    /// A frame for a link, whatever addresses there are: the Ethernet header is put in front, with the interface's tag.
    Frame {
        /// Where it leaves.
        interface: InterfaceId,
        /// For whom.
        to: MacAddr,
        /// What it carries.
        ethertype: u16,
        /// From the network header on, at most the interface's MTU.
        payload: Vec<u8>,
    },
    /// A UDP datagram. Its source is the address of the interface it leaves by (RFC 1812 section 4.3.2.4); it must fit the
    /// MTU there, but may be fragmented further on if it is IPv4.
    Datagram {
        /// Whose routes count.
        realm: RealmId,
        /// Port it comes from.
        source_port: u16,
        /// Where it goes.
        to: SocketAddr,
        /// What it says.
        payload: Vec<u8>,
    },
}

/// Why a packet could not be sent. Nothing was counted, except that a packet which had to wait and found no room was dropped
/// as `neighbour_queue_full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The policy has no such interface.
    #[error("there is no such interface")]
    NoInterface,
    /// The interface's port has no link.
    #[error("the port has no link")]
    LinkDown,
    /// No route leads there.
    #[error("there is no route to it")]
    NoRoute,
    /// The destination is an address of the gateway itself, or one that it translates.
    #[error("it is an address of the gateway itself")]
    Ourselves,
    /// The interface towards it has no address of its family.
    #[error("the interface towards it has no address of that family")]
    NoAddress,
    /// The next hop does not answer.
    #[error("the next hop does not answer")]
    NeighbourUnresolved,
    /// The next hop was just asked for, and enough packets wait for its answer: some milliseconds later it can be tried again.
    #[error("too many packets wait for the next hop to answer")]
    NeighbourQueueFull,
    /// It exceeds the MTU.
    #[error("it is longer than the interface's mtu")]
    TooLong,
    /// No packet buffer was free.
    #[error("no packet buffer was free")]
    NoBuffer,
}

/// Whether a packet is on its way: handed to the transmit queue, or waiting for its next hop to answer.
pub type Sent = Result<(), NotSent>;

/// A batch to be sent by one worker.
#[derive(Debug, Default)]
pub struct Originals {
    /// What is to be sent, in order.
    pub packets: Vec<Original>,
    /// What became of it, in the same order, as far as the worker has come.
    pub results: Vec<Sent>,
}

impl Originals {
    /// A batch of which nothing has been sent.
    pub fn new(packets: Vec<Original>) -> Originals {
        Originals {
            results: Vec::with_capacity(packets.len()),
            packets,
        }
    }

    /// Whether there is a result for every packet.
    pub fn is_done(&self) -> bool {
        self.results.len() == self.packets.len()
    }
}

/// A batch, and where it goes when the worker is through with it. Nobody needs to wait for it.
pub struct Consignment {
    /// The batch.
    pub batch: Originals,
    /// Its way back.
    pub back: Sender<Originals>,
}

/// Where a datagram goes and what it says.
struct Datagram<'a, A> {
    to: (A, u16),
    source_port: u16,
    payload: &'a [u8],
}

impl<B: Buffer> Shard<B> {
    /// Sends the next slice of a batch; gives the batch back when all of it has been tried.
    pub fn send_consignment(
        &mut self,
        policy: &Policy,
        now: Now,
        consignment: &mut Consignment,
        sink: &mut impl Sink<B>,
    ) -> bool {
        let batch = &mut consignment.batch;
        let from = batch.results.len();
        for packet in batch.packets[from..].iter().take(SLICE) {
            let sent = self.originate(policy, now, packet, sink);
            batch.results.push(sent);
        }
        let done = batch.is_done();
        if done {
            // If nobody waits for it any more it ends here.
            let _ = consignment.back.try_send(std::mem::take(batch));
        }
        done
    }

    /// Sends one packet of the gateway's own; it counts as generated.
    ///
    /// # Errors
    /// [`NotSent`].
    pub fn originate(
        &mut self,
        policy: &Policy,
        now: Now,
        packet: &Original,
        sink: &mut impl Sink<B>,
    ) -> Sent {
        match packet {
            Original::Frame {
                interface,
                to,
                ethertype,
                payload,
            } => {
                let on = usable(policy, *interface)?;
                self.original_frame(on, *to, *ethertype, payload, sink)
            }
            Original::Datagram {
                realm,
                source_port,
                to,
                payload,
            } => match to.ip() {
                IpAddr::V4(address) => {
                    let datagram = Datagram {
                        to: (u32::from(address), to.port()),
                        source_port: *source_port,
                        payload,
                    };
                    self.original_datagram(policy, now, *realm, &datagram, sink)
                }
                IpAddr::V6(address) => {
                    let datagram = Datagram {
                        to: (u128::from(address), to.port()),
                        source_port: *source_port,
                        payload,
                    };
                    self.original_datagram(policy, now, *realm, &datagram, sink)
                }
            },
        }
    }

    fn original_frame(
        &mut self,
        on: &Interface,
        to: MacAddr,
        ethertype: u16,
        payload: &[u8],
        sink: &mut impl Sink<B>,
    ) -> Sent {
        if payload.len() > usize::from(on.mtu) {
            return Err(NotSent::TooLong);
        }
        let header = ethernet::header_length(on.vlan);
        let buffer = room(header + payload.len(), sink, |frame| {
            ethernet::header(frame, to, on.mac, on.vlan, ethertype);
            frame[header..].copy_from_slice(payload);
        })?;
        self.counters.generated += 1;
        sink.transmit(on.port, buffer);
        Ok(())
    }

    fn original_datagram<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        realm: RealmId,
        datagram: &Datagram<'_, A>,
        sink: &mut impl Sink<B>,
    ) -> Sent {
        let to = datagram.to.0;
        if A::local(&policy.routes, realm, to).is_some() || policy.is_translated_address(to) {
            return Err(NotSent::Ourselves);
        }
        let hop = A::route(&policy.routes, realm, to, 0).ok_or(NotSent::NoRoute)?;
        let on = usable(policy, hop.interface)?;
        let source = A::source(on, to).ok_or(NotSent::NoAddress)?;
        let length = A::HEADER + udp::HEADER + datagram.payload.len();
        if length > usize::from(on.mtu) {
            return Err(NotSent::TooLong);
        }
        let next_hop = self.next_hop(policy, now, on.id, hop.next_hop.to_ip(), sink);
        if matches!(next_hop, NextHop::Dead) {
            return Err(NotSent::NeighbourUnresolved);
        }
        let id = self.identification.next(policy);
        let buffer = room(L3 + length, sink, |frame| {
            let ends = [(source, datagram.source_port), datagram.to];
            A::write_datagram(&mut frame[L3..], ends, id, datagram.payload);
        })?;
        self.counters.generated += 1;
        let packet = parked::<A, B>(buffer, L3 as u16, length as u16);
        self.leave(next_hop, packet, sink)
    }

    /// Sends a finished packet to a next hop that is not dead.
    fn leave(&mut self, next_hop: NextHop, packet: Parked<B>, sink: &mut impl Sink<B>) -> Sent {
        let id = match next_hop {
            NextHop::Ready(id) => {
                self.emit_ready(id, packet, sink);
                return Ok(());
            }
            NextHop::Pending(id) => id,
            NextHop::Dead => {
                self.discard(packet.buffer, DropReason::NeighbourUnresolved, sink);
                return Err(NotSent::NeighbourUnresolved);
            }
        };
        self.waiting.push(id, packet).map_err(|packet| {
            self.discard(packet.buffer, DropReason::NeighbourQueueFull, sink);
            NotSent::NeighbourQueueFull
        })
    }
}

/// The interface with this number, if its link works.
fn usable(policy: &Policy, interface: InterfaceId) -> Result<&Interface, NotSent> {
    let on = policy
        .interfaces
        .get(interface)
        .ok_or(NotSent::NoInterface)?;
    if on.up {
        Ok(on)
    } else {
        Err(NotSent::LinkDown)
    }
}

/// A buffer of this length, filled.
fn room<B: Buffer>(
    length: usize,
    sink: &mut impl Sink<B>,
    fill: impl FnOnce(&mut [u8]),
) -> Result<B, NotSent> {
    let mut buffer = sink.allocate().ok_or(NotSent::NoBuffer)?;
    if !buffer.set_len(length) {
        sink.discard(buffer);
        return Err(NotSent::TooLong);
    }
    fill(buffer.bytes_mut());
    Ok(buffer)
}
