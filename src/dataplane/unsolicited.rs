//! SYNs from outside that nobody asked for, and that would be answered (RFC 5382 REQ-4).
//!
//! Both ends of a connection may open it at once, each through its own translator, and one SYN comes before the other has
//! left. An error in answer to it would end the attempt. So such a SYN waits for six seconds; then it is looked at anew:
//! if its connection exists by now, it is silently dropped, else it is answered.

use std::collections::VecDeque;

use crate::base::DropReason;
use crate::base::time::Now;
use crate::dataplane::buffer::{Buffer, Incoming, Sink};
use crate::dataplane::family::Ip;
use crate::dataplane::shard::Shard;
use crate::nat::policy::Policy;
use crate::wire::parse::{Network, Parsed, Transport};
use crate::wire::tcp;

/// How long a SYN waits: not below 6 s.
const WAIT_MILLIS: u64 = 6_000;

/// SYNs that may wait at a time, of one worker. What comes beyond is dropped without an answer.
const CAPACITY: usize = 256;

/// The SYNs that wait, in order.
pub(super) struct Unsolicited<B> {
    waiting: VecDeque<(u64, Incoming<B>)>,
}

impl<B> Unsolicited<B> {
    pub(super) fn new() -> Unsolicited<B> {
        Unsolicited {
            waiting: VecDeque::with_capacity(CAPACITY),
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The next whose time has come, marked as having waited.
    fn due(&mut self, millis: u64) -> Option<Incoming<B>> {
        self.waiting.front().filter(|(until, _)| *until <= millis)?;
        let (_, mut incoming) = self.waiting.pop_front()?;
        incoming.waited = true;
        Some(incoming)
    }

    /// All that wait.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Incoming<B>> + '_ {
        self.waiting.drain(..).map(|(_, incoming)| incoming)
    }
}

impl<B: Buffer> Shard<B> {
    /// Whether an answer to this packet has to wait.
    // Implements: T4.
    pub(super) fn is_unsolicited_syn(
        &self,
        policy: &Policy,
        incoming: &Incoming<B>,
        packet: &Parsed,
    ) -> bool {
        packet.transport == Transport::Tcp
            && packet.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
            && !incoming.waited
            && !incoming.looped
            && match packet.network {
                Network::Ipv6 => calls_translated::<u128, B>(policy, incoming, packet),
                _ => calls_translated::<u32, B>(policy, incoming, packet),
            }
    }

    /// Lets an unsolicited SYN wait; without room it is dropped for `reason`.
    // Implements: T4, T4a.
    pub(super) fn wait(
        &mut self,
        now: Now,
        incoming: Incoming<B>,
        reason: DropReason,
        sink: &mut impl Sink<B>,
    ) {
        if self.unsolicited.len() >= CAPACITY {
            return self.discard(incoming.buffer, reason, sink);
        }
        let until = now.millis + WAIT_MILLIS;
        self.unsolicited.waiting.push_back((until, incoming));
    }

    /// Looks again at SYNs that have waited, at most `most` of them.
    pub(super) fn waited(
        &mut self,
        policy: &Policy,
        now: Now,
        most: usize,
        sink: &mut impl Sink<B>,
    ) {
        for _ in 0..most {
            let Some(incoming) = self.unsolicited.due(now.millis) else {
                return;
            };
            self.process(policy, now, incoming, sink);
        }
    }
}

/// Whether an outside host calls an address of the translator's.
fn calls_translated<A: Ip, B: Buffer>(
    policy: &Policy,
    incoming: &Incoming<B>,
    packet: &Parsed,
) -> bool {
    let (source, destination) = A::ends(incoming.buffer.bytes(), packet);
    !policy.is_inside(incoming.ingress, source) && policy.is_translated_address(destination)
}
