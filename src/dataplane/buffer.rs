//! Packet buffers and the outside world of a shard, as traits: DPDK's mbufs in service, plain memory in tests.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::base::{InterfaceId, PortId, WorkerId};
use crate::gateway::neighbour::Learned;
use crate::nat::fragments::Shown;
use crate::wire::MacAddr;

/// Packets handled at a time. 64 keep one core's outstanding cache lines busy; more gains nothing.
pub const BURST: usize = 64;

/// A batch of packets.
pub type Burst<B> = ArrayVec<B, BURST>;

/// One packet in one contiguous piece of memory, owned by whoever holds it.
pub trait Buffer: Sized + Send + 'static {
    /// The frame, from its Ethernet header on.
    fn bytes(&self) -> &[u8];
    /// The frame, to be changed in place.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Adds `count` bytes in front; false (and unchanged) when there is no headroom.
    fn prepend(&mut self, count: usize) -> bool;
    /// Takes `count` bytes off the front; false (and unchanged) when it is shorter.
    fn trim_front(&mut self, count: usize) -> bool;
    /// Makes the frame `length` bytes long, cutting or growing at the end; false (and unchanged) when it does not fit.
    fn set_len(&mut self, length: usize) -> bool;
    /// Whether all of the frame is here. False when the device spread a frame too long for a buffer over several.
    fn is_whole(&self) -> bool {
        true
    }
    /// Whether the device found a wrong checksum on receive. False where it does not look.
    fn checksum_bad(&self) -> bool {
        false
    }
}

/// A packet on its way to, or back to, the translator.
#[derive(Debug)]
pub struct Incoming<B> {
    /// The packet.
    pub buffer: B,
    /// Interface it came in on; for the second half of a hairpin the interface its public address belongs to.
    pub ingress: InterfaceId,
    /// Second half of a hairpin.
    pub looped: bool,
    /// What a fragment's first piece has shown of its datagram.
    pub shown: Option<Shown>,
    /// The worker that holds the destination port found no flow: the sender's worker opens one.
    pub not_a_reply: bool,
    /// The worker that would have the call of a packet of GRE knows no such call.
    pub no_call: bool,
    /// An unsolicited SYN whose answer has waited long enough.
    pub waited: bool,
    /// Times it was handed on or looped.
    pub hops: u8,
}

/// What workers tell each other.
#[derive(Debug)]
pub enum Message<B> {
    /// A packet for its owner.
    Packet(Incoming<B>),
    /// A neighbour's address became known.
    Neighbour {
        /// Interface it lives on.
        interface: InterfaceId,
        /// Its IP address.
        address: IpAddr,
        /// Its MAC address.
        mac: MacAddr,
        /// On what occasion.
        how: Learned,
    },
}

/// Longest DHCP message passed on: what fits the usual frame.
pub const HEARD: usize = 1472;

/// What management wants to hear of, on an interface whose address is leased. One that is not taken ends on the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a worker fills places of a queue that was allocated once"
)]
pub enum Heard {
    /// A message of a DHCP server.
    Dhcp {
        /// Where it came in.
        interface: InterfaceId,
        /// The datagram's payload.
        message: ArrayVec<u8, HEARD>,
    },
    /// An answer to an ARP probe.
    Arp {
        /// Where it came in.
        interface: InterfaceId,
        /// The address that is in use.
        address: u32,
        /// By whom.
        mac: MacAddr,
    },
}

/// Where a shard's packets go.
pub trait Sink<B> {
    /// An empty buffer for a packet of the gateway's own; `None` when memory ran out.
    fn allocate(&mut self) -> Option<B>;
    /// Queues a finished frame for a port.
    fn transmit(&mut self, port: PortId, buffer: B);
    /// Lets a buffer go.
    fn discard(&mut self, buffer: B);
    /// Hands something to another worker; it comes back when the ring is full.
    ///
    /// # Errors
    /// The message itself.
    fn hand_over(&mut self, to: WorkerId, message: Message<B>) -> Result<(), Message<B>>;
    /// Tells management what it wants to hear; false when it has not taken the last ones, or there is none.
    fn tell_control(&mut self, _: Heard) -> bool {
        false
    }
}
