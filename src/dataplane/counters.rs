//! What a worker counts. One writer each, plain numbers; the worker loop publishes copies for readers.
//!
//! Conservation holds between batches, exactly:
//!
//! ```text
//! received + generated + handoff_in = sent + handoff_out + Σ drops + consumed + held
//! ```

use crate::base::DropReason;

/// Everything one worker counts.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Packets taken from receive queues.
    pub received: u64,
    /// Packets handed to transmit queues and accepted.
    pub sent: u64,
    /// Packets made here: ICMP, ARP, ND, extra fragments, and what management sends.
    pub generated: u64,
    /// Packets meant for the gateway itself.
    pub consumed: u64,
    /// Packets taken over from other workers.
    pub handoff_in: u64,
    /// Packets handed to other workers.
    pub handoff_out: u64,
    /// Hairpin packets that went through the translator twice.
    pub looped: u64,
    /// ICMP errors sent.
    pub icmp_errors: u64,
    /// ICMP errors not sent because of the rate limit.
    pub icmp_suppressed: u64,
    /// Drops by reason.
    pub drops: [u64; DropReason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            received: 0,
            sent: 0,
            generated: 0,
            consumed: 0,
            handoff_in: 0,
            handoff_out: 0,
            looped: 0,
            icmp_errors: 0,
            icmp_suppressed: 0,
            drops: [0; DropReason::COUNT],
        }
    }
}

impl Counters {
    /// Counts a drop.
    #[inline]
    pub fn drop(&mut self, reason: DropReason) {
        self.drops[reason.index()] += 1;
    }

    /// Drops of all reasons together.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Counters) {
        self.received += other.received;
        self.sent += other.sent;
        self.generated += other.generated;
        self.consumed += other.consumed;
        self.handoff_in += other.handoff_in;
        self.handoff_out += other.handoff_out;
        self.looped += other.looped;
        self.icmp_errors += other.icmp_errors;
        self.icmp_suppressed += other.icmp_suppressed;
        for (mine, theirs) in self.drops.iter_mut().zip(&other.drops) {
            *mine += theirs;
        }
    }

    /// Packets in minus packets out, with `held` ones added: 0 unless a packet was lost or made up.
    pub fn imbalance(&self, held: u64) -> i64 {
        let came = self.received + self.generated + self.handoff_in;
        let went = self.sent + self.handoff_out + self.dropped() + self.consumed + held;
        came as i64 - went as i64
    }
}
