//! A shard: everything one worker owns, and the entry points that drive it.

use std::collections::VecDeque;

use crate::arch::{OutOfMemory, Pages};
use crate::base::time::Now;
use crate::base::{DropReason, InterfaceId, PortId, Random, WorkerId};
use crate::dataplane::accounts::Accounts;
use crate::dataplane::buffer::{Buffer, Burst, Incoming, Message, Sink};
use crate::dataplane::counters::Counters;
use crate::dataplane::fast::Batch;
use crate::dataplane::identification::Identification;
use crate::dataplane::unsolicited::Unsolicited;
use crate::flow::hash::Hasher;
use crate::gateway::limiter::{IcmpLimiter, TokenBucket};
use crate::gateway::neighbour::{NeighbourId, Neighbours};
use crate::gateway::wait::WaitQueue;
use crate::nat::fragments::Fragments;
use crate::nat::policy::Policy;
use crate::nat::state::{Capacity, Nat};
use crate::nat::trace::Trace;

/// Sizes of a shard, fixed at start.
#[derive(Clone, Copy, Debug)]
pub struct ShardSize {
    /// Translation tables of IPv4.
    pub nat: Capacity,
    /// Translation tables of IPv6.
    pub nat_v6: Capacity,
    /// Neighbours known at a time.
    pub neighbours: u32,
    /// Packets that may wait for neighbours.
    pub waiting: u32,
    /// Fragmented datagrams at a time, and fragments that may wait.
    pub fragments: u32,
}

impl ShardSize {
    /// A size for tests: small, but nothing fills up by accident.
    pub fn small() -> ShardSize {
        let nat = Capacity {
            sessions: 4096,
            subscribers: 1024,
            held_ports: 1024,
            contacts: 0,
            shared: 0,
            workers: 1,
            pages: Pages::Transparent,
        };
        ShardSize {
            nat,
            nat_v6: Capacity {
                sessions: 1024,
                ..nat
            },
            neighbours: 1024,
            waiting: 256,
            fragments: 256,
        }
    }
}

/// A packet that waits for its next hop's MAC address: everything but the Ethernet header is final.
#[derive(Debug)]
pub(super) struct Parked<B> {
    pub buffer: B,
    pub l3: u16,
    pub ip_length: u16,
    pub ethertype: u16,
}

/// Times a packet may be handed on or looped before it counts as lost. A hairpin between two workers takes four.
pub(super) const MAX_HOPS: u8 = 8;

/// Packets that may wait for the same neighbour.
pub(super) const WAITING_PER_NEIGHBOUR: usize = 16;

/// Echo requests to the gateway answered per second, by one worker.
const ECHO_RATE: u32 = 10_000;

/// Packets that wait to be looped within one call: a batch whose packets all hairpin.
const LOOP_CAPACITY: usize = 2 * crate::dataplane::buffer::BURST;

/// Everything one worker owns.
pub struct Shard<B> {
    /// Which worker this is.
    pub id: WorkerId,
    /// Translation state of IPv4.
    pub nat: Nat<u32>,
    /// Translation state of IPv6.
    pub nat_v6: Nat<u128>,
    /// Next hops.
    pub neighbours: Neighbours,
    /// What the worker counts.
    pub counters: Counters,
    /// What it counts by rule.
    pub accounts: Accounts,
    pub(super) waiting: WaitQueue<Parked<B>>,
    pub(super) fragments: Fragments<Incoming<B>>,
    /// What was decided about the latest new flow, and about the second half of the latest hairpin.
    pub traces: [Trace; 2],
    /// ICMP errors.
    pub(super) limiter: IcmpLimiter,
    /// Echo replies: generous, because people measure with them.
    pub(super) echo_limiter: IcmpLimiter,
    pub(super) random: Random,
    pub(super) identification: Identification,
    pub(super) unsolicited: Unsolicited<B>,
    /// The next hop of the latest new flow.
    pub(super) latest_hop: NeighbourId,
    pub(super) loops: VecDeque<Incoming<B>>,
    /// What the stages of a batch leave for each other, by family.
    pub(super) batch: Box<Batch<u32>>,
    pub(super) batch_v6: Box<Batch<u128>>,
}

impl<B: Buffer> Shard<B> {
    /// An empty shard. `seed` determines its random choices, `secret` its hashing.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(
        id: WorkerId,
        size: ShardSize,
        seed: u64,
        secret: [u64; 2],
    ) -> Result<Shard<B>, OutOfMemory> {
        let mut random = Random::from_seed(seed);
        Ok(Shard {
            id,
            nat: Nat::new(id, size.nat, secret)?,
            nat_v6: Nat::new(id, size.nat_v6, [!secret[1], secret[0]])?,
            neighbours: Neighbours::new(size.neighbours as usize, random.next_u64()),
            counters: Counters::default(),
            accounts: Accounts::default(),
            waiting: WaitQueue::new(
                size.waiting as usize,
                WAITING_PER_NEIGHBOUR,
                size.neighbours as usize,
            ),
            fragments: Fragments::new(size.fragments as usize, Hasher::new([secret[1], secret[0]])),
            traces: [Trace::default(); 2],
            limiter: IcmpLimiter::new(random.next_u64()),
            echo_limiter: IcmpLimiter::with_rates(
                TokenBucket::new(ECHO_RATE, ECHO_RATE),
                TokenBucket::new(ECHO_RATE / 10, ECHO_RATE / 10),
                random.next_u64(),
            ),
            identification: Identification::new(id, &mut random),
            random,
            unsolicited: Unsolicited::new(),
            latest_hop: NeighbourId::NONE,
            loops: VecDeque::with_capacity(LOOP_CAPACITY),
            batch: Box::new(Batch::new()),
            batch_v6: Box::new(Batch::new()),
        })
    }

    /// Handles a burst received on a port. The burst is empty afterwards.
    pub fn receive(
        &mut self,
        policy: &Policy,
        now: Now,
        port: PortId,
        burst: &mut Burst<B>,
        sink: &mut impl Sink<B>,
    ) {
        self.counters.received += burst.len() as u64;
        self.fast_path(policy, now, port, burst, sink);
        self.run_loops(policy, now, sink);
    }

    /// Handles what another worker handed over.
    pub fn receive_message(
        &mut self,
        policy: &Policy,
        now: Now,
        message: Message<B>,
        sink: &mut impl Sink<B>,
    ) {
        match message {
            Message::Packet(incoming) => {
                self.counters.handoff_in += 1;
                self.process(policy, now, incoming, sink);
                self.run_loops(policy, now, sink);
            }
            Message::Neighbour {
                interface,
                address,
                mac,
                how,
            } => {
                self.neighbour_heard(policy, now, (interface, address, mac, how), sink);
            }
        }
    }

    /// Packets this shard holds: waiting for neighbours, for a first fragment, or for their answer.
    pub fn held(&self) -> u64 {
        let queued = self.waiting.len() + self.unsolicited.len() + self.loops.len();
        queued as u64 + u64::from(self.fragments.held())
    }

    /// Drops a packet for a reason.
    pub(super) fn discard(&mut self, buffer: B, reason: DropReason, sink: &mut impl Sink<B>) {
        self.counters.drop(reason);
        sink.discard(buffer);
    }

    /// Puts a packet whose destination is one of our external addresses back before the translator.
    pub(super) fn loop_back(
        &mut self,
        policy: &Policy,
        mut incoming: Incoming<B>,
        home: InterfaceId,
        sink: &mut impl Sink<B>,
    ) {
        incoming.hops += 1;
        incoming.looped = true;
        incoming.ingress = home;
        incoming.not_a_reply = false;
        self.counters.looped += 1;
        if incoming.hops > MAX_HOPS || self.loops.len() == LOOP_CAPACITY {
            return self.discard(incoming.buffer, DropReason::HairpinLoop, sink);
        }
        debug_assert!(
            policy.interfaces.get(home).is_some(),
            "a public address belongs to an interface that exists"
        );
        self.loops.push_back(incoming);
    }

    /// Handles looped packets until none is left.
    pub(super) fn run_loops(&mut self, policy: &Policy, now: Now, sink: &mut impl Sink<B>) {
        while let Some(incoming) = self.loops.pop_front() {
            self.process(policy, now, incoming, sink);
        }
    }
}
