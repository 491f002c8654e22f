//! What management asks of a worker, between its batches.

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::WorkerId;
use crate::base::time::Now;
use crate::dataplane::accounts::Accounts;
use crate::dataplane::counters::Counters;
use crate::dataplane::originate::{Consignment, Original, Originals};
use crate::gateway::neighbour::Neighbours;
use crate::nat::policy::Policy;
use crate::nat::state::Nat;

/// What a question may look at and change.
pub struct JobContext<'a> {
    /// The worker.
    pub worker: WorkerId,
    /// Current policy.
    pub policy: &'a Policy,
    /// Now.
    pub now: Now,
    /// Translation state of IPv4.
    pub nat: &'a mut Nat<u32>,
    /// Translation state of IPv6.
    pub nat_v6: &'a mut Nat<u128>,
    /// Next hops.
    pub neighbours: &'a mut Neighbours,
    /// Counters.
    pub counters: &'a mut Counters,
    /// Counters of rules.
    pub accounts: &'a Accounts,
    /// Packets held: waiting for neighbours, first fragments, or the transmit queue.
    pub held: u64,
}

/// Whether a question wants another slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Call again in the next loop.
    Again,
    /// Finished.
    Done,
}

/// Work that management asks a worker to do between batches, one small slice per loop: listings, counters, clearing. It
/// must stay short (some hundred entries) and must not block.
pub type Question = Box<dyn FnMut(&mut JobContext<'_>) -> Progress + Send>;

/// Something for a worker to do between batches.
pub enum Job {
    /// To look at its state, or change it.
    Ask(Question),
    /// To send packets of the gateway's own.
    Send(Consignment),
}

/// Has the worker whose jobs these are send packets of the gateway's own, in order; the batch comes back through the returned
/// channel with what became of each, some microseconds per hundred packets later. Nobody needs to wait for it. `None`, and
/// nothing is sent, when the worker has not run its last jobs; it can be tried again.
pub fn consign(jobs: &Sender<Job>, packets: Vec<Original>) -> Option<Receiver<Originals>> {
    let (back, receiver) = bounded(1);
    let batch = Originals::new(packets);
    let job = Job::Send(Consignment { batch, back });
    jobs.try_send(job).ok().map(|()| receiver)
}
