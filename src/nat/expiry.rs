//! Expiry: a slice of the sessions at a time, in bounded steps.
//!
//! A slice reads its sessions in order, which costs little; ending one touches lines all over the tables, which costs
//! much when nothing is in the caches. So those to be ended are collected first and their lines fetched together, and
//! one slice ends only so many: when millions of sessions expire in the same tick, each batch of packets waits for tens
//! of microseconds, not for all of them.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::base::time::Now;
use crate::flow::session::{Direction, Session, SessionIndex, State};
use crate::nat::family::Family;
use crate::nat::policy::Policy;
use crate::nat::state::{EndCause, Nat};

/// Sessions whose lines are fetched together.
const GROUP: usize = 32;

/// How much one call of [`Nat::sweep`] may do.
#[derive(Clone, Copy, Debug)]
pub struct SweepBudget {
    /// Sessions to look at.
    pub sessions: u32,
    /// Sessions to end, rounded up to a group of 32.
    pub ended: u32,
    /// Subscribers to look at for blocks to give back; resting ports to free.
    pub subscribers: u32,
}

impl SweepBudget {
    /// Everything there is, at once: for tests.
    pub const ALL: SweepBudget = SweepBudget {
        sessions: u32::MAX,
        ended: u32::MAX,
        subscribers: u32::MAX,
    };
}

impl<A: Family> Nat<A> {
    /// Looks at the next slice of sessions and ends those that are idle too long or no longer allowed; frees ports and
    /// blocks that have rested. `valid` judges a session made under an older policy. Returns how many were ended.
    pub fn sweep(
        &mut self,
        policy: &Policy,
        now: Now,
        budget: SweepBudget,
        valid: impl Fn(&Session<A>) -> bool,
    ) -> u32 {
        let limit = self.sessions.high_water();
        let mut slice = self.hand.next_slice(limit, budget.sessions);
        let mut ended = 0;
        while !slice.is_empty() && ended < budget.ended {
            let group = self.group(policy, now, &mut slice, &valid);
            for &(index, cause) in &group {
                self.end(policy, index, cause, now);
            }
            ended += group.len() as u32;
        }
        if !slice.is_empty() {
            self.hand.put_back(slice);
        }
        self.at_limit.sweep(now.tick);
        let externals = &policy.nat.externals;
        let subscribers = budget.subscribers as usize;
        self.allocator
            .release_due(externals, now.tick, subscribers.saturating_mul(4));
        self.allocator.sweep(
            externals,
            &mut self.subscribers,
            now.tick,
            subscribers,
            |block| self.journal.returned::<A>(policy, block, now),
        );
        ended
    }

    /// The next sessions of the slice that are to be ended, with their lines on the way.
    fn group(
        &self,
        policy: &Policy,
        now: Now,
        slice: &mut Range<u32>,
        valid: &impl Fn(&Session<A>) -> bool,
    ) -> ArrayVec<(SessionIndex, EndCause), GROUP> {
        let mut group = ArrayVec::new();
        while !group.is_full()
            && let Some(index) = slice.next()
        {
            let Some(session) = self.sessions.get(index).filter(|s| s.state != State::Free) else {
                continue;
            };
            let expired = policy
                .timeouts
                .expired(session.state, session.seen(), now.tick);
            let cause = if expired {
                EndCause::Expired
            } else if session.generation != policy.epoch && !valid(session) {
                EndCause::ConfigChanged
            } else {
                continue;
            };
            for direction in [Direction::Forward, Direction::Reverse] {
                self.table.prefetch(self.hash(&session.key(direction)));
            }
            self.mappings.prefetch(session);
            group.push((SessionIndex(index), cause));
        }
        group
    }
}
