//! Several shards in one thread, wired by queues: the whole data plane without devices, threads or time of its own.
//!
//! Tests, fuzz targets and golden rows drive it packet by packet. Where a frame is received is the caller's choice, so
//! the worst steering a network card could do is tried as easily as the best.

use std::sync::Arc;

use crate::arch::OutOfMemory;
use crate::base::time::Now;
use crate::base::{DropReason, PortId, WorkerId};
use crate::dataplane::accounts::RuleCount;
use crate::dataplane::buffer::{Burst, Heard, Message};
use crate::dataplane::counters::Counters;
use crate::dataplane::maintain::Slice;
use crate::dataplane::memory::{MemoryBuffer, MemorySink};
use crate::dataplane::originate::{Consignment, Original, Originals, Sent};
use crate::dataplane::shard::{Shard, ShardSize};
use crate::nat::expiry::SweepBudget;
use crate::nat::policy::Policy;

/// Where a rack's time begins, in milliseconds.
const START: u64 = 1_000_000;

/// A data plane in memory.
pub struct Rack {
    /// The shards, by worker.
    pub shards: Vec<Shard<MemoryBuffer>>,
    /// What they run.
    pub policy: Arc<Policy>,
    /// The time they believe in.
    pub now: Now,
    sinks: Vec<MemorySink>,
    /// What [`Rack::announce`] announced last.
    announced: Option<Arc<Policy>>,
}

impl Rack {
    /// As many shards as the policy has workers.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(policy: Arc<Policy>, size: ShardSize, seed: u64) -> Result<Rack, OutOfMemory> {
        let mut shards = Vec::new();
        let mut sinks = Vec::new();
        for worker in 0..policy.workers {
            let seed = seed.wrapping_add(u64::from(worker));
            let mut size = size;
            for nat in [&mut size.nat, &mut size.nat_v6] {
                let sessions = |needed: bool| if needed { nat.sessions } else { 0 };
                nat.contacts = sessions(policy.tracks_contacts);
                nat.shared = sessions(policy.shares_ports);
                nat.workers = policy.workers;
            }
            let mut shard = Shard::new(WorkerId(worker), size, seed, [seed ^ 0x5eed, !seed])?;
            let mut sink = MemorySink::default();
            shard.policy_changed(&policy, Now::at(START), &mut sink);
            shards.push(shard);
            sinks.push(sink);
        }
        Ok(Rack {
            shards,
            policy,
            now: Now::at(START),
            sinks,
            announced: None,
        })
    }

    /// Lets time pass.
    pub fn advance(&mut self, millis: u64) {
        self.now = Now::at(self.now.millis + millis);
    }

    /// Receives frames on a port of one worker and returns all that is sent in consequence, by any worker.
    pub fn receive(
        &mut self,
        worker: WorkerId,
        port: PortId,
        frames: &[&[u8]],
    ) -> Vec<(PortId, Vec<u8>)> {
        let mut sent = Vec::new();
        for chunk in frames.chunks(crate::dataplane::buffer::BURST) {
            let mut burst: Burst<MemoryBuffer> =
                chunk.iter().map(|f| MemoryBuffer::from_frame(f)).collect();
            let at = worker.index();
            self.shards[at].receive(
                &self.policy,
                self.now,
                port,
                &mut burst,
                &mut self.sinks[at],
            );
            self.deliver();
            sent.extend(self.collect());
        }
        sent
    }

    /// Runs maintenance over everything and returns what is sent in consequence.
    pub fn maintain(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let everything = Slice {
            sweep: SweepBudget::ALL,
            sweep_v6: SweepBudget::ALL,
            neighbours: usize::MAX,
            datagrams: usize::MAX,
        };
        for (shard, sink) in self.shards.iter_mut().zip(&mut self.sinks) {
            shard.maintain(&self.policy, self.now, everything, sink);
        }
        self.deliver();
        self.collect()
    }

    /// Announces the gateway's addresses, as worker 0 does: all of them at first, later what is new since the last time.
    pub fn announce(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let before = self.announced.replace(self.policy.clone());
        self.shards[0].announce(&self.policy, before.as_deref(), &mut self.sinks[0]);
        self.collect()
    }

    /// Has a worker send a batch of the gateway's own packets; returns what became of each, and the frames.
    pub fn originate(
        &mut self,
        worker: WorkerId,
        packets: Vec<Original>,
    ) -> (Vec<Sent>, Vec<(PortId, Vec<u8>)>) {
        let (back, receiver) = crossbeam_channel::bounded(1);
        let batch = Originals::new(packets);
        let mut consignment = Consignment { batch, back };
        let at = worker.index();
        let (shard, sink) = (&mut self.shards[at], &mut self.sinks[at]);
        while !shard.send_consignment(&self.policy, self.now, &mut consignment, sink) {}
        let results = receiver
            .try_recv()
            .map_or_else(|_| Vec::new(), |b| b.results);
        (results, self.collect())
    }

    /// Swaps the policy, as a reload does.
    pub fn reload(&mut self, policy: Arc<Policy>) {
        self.policy = policy;
        for (shard, sink) in self.shards.iter_mut().zip(&mut self.sinks) {
            shard.policy_changed(&self.policy, self.now, sink);
        }
    }

    /// Limits how many buffers worker `worker` may still allocate.
    pub fn limit_buffers(&mut self, worker: WorkerId, left: Option<u64>) {
        self.sinks[worker.index()].allocations_left = left;
    }

    /// What management was told since the last time, by all workers.
    pub fn heard(&mut self) -> Vec<Heard> {
        let heard = self.sinks.iter_mut().map(|s| std::mem::take(&mut s.heard));
        heard.flatten().collect()
    }

    /// Limits how much worker `worker` may still tell management.
    pub fn limit_hearing(&mut self, worker: WorkerId, left: Option<u64>) {
        self.sinks[worker.index()].hearing_left = left;
    }

    /// Counters of all workers together.
    pub fn totals(&self) -> Counters {
        let mut total = Counters::default();
        for shard in &self.shards {
            total.add(&shard.counters);
        }
        total
    }

    /// Counts of all workers together by rule, as far as anything was counted.
    pub fn rules(&self) -> Vec<RuleCount> {
        let mut total: Vec<RuleCount> = Vec::new();
        let mut sums = Vec::new();
        for shard in &self.shards {
            shard.accounts.sums(&mut sums);
            total.resize(total.len().max(sums.len()), RuleCount::default());
            total
                .iter_mut()
                .zip(&sums)
                .for_each(|(sum, count)| sum.add(count));
        }
        total
    }

    /// Drops for one reason, over all workers.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.shards
            .iter()
            .map(|s| s.counters.drops[reason.index()])
            .sum()
    }

    /// Packets in minus packets out, dropped, consumed or held, per worker; all zero unless one was lost.
    pub fn imbalances(&self) -> Vec<i64> {
        self.shards
            .iter()
            .map(|s| s.counters.imbalance(s.held()))
            .collect()
    }

    /// Live sessions of all workers.
    pub fn sessions(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.nat.sessions.len() + s.nat_v6.sessions.len())
            .sum()
    }

    /// Passes messages on until none is under way.
    fn deliver(&mut self) {
        loop {
            let mut quiet = true;
            for from in 0..self.sinks.len() {
                while let Some((to, message)) = self.sinks[from].messages.pop_front() {
                    quiet = false;
                    self.hand(to, message);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn hand(&mut self, to: WorkerId, message: Message<MemoryBuffer>) {
        let at = to.index();
        self.shards[at].receive_message(&self.policy, self.now, message, &mut self.sinks[at]);
    }

    fn collect(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut sent = Vec::new();
        for (shard, sink) in self.shards.iter_mut().zip(&mut self.sinks) {
            shard.counters.sent += sink.sent.len() as u64;
            sent.append(&mut sink.sent);
        }
        sent
    }
}
