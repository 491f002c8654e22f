//! The blocks of one subscriber: a list chained through the blocks themselves.

use super::{
    BlockIndex, BlockLink, BlockPorts, ExternalIndex, Externals, Pairing, Request, ReturnedBlock,
};
use crate::base::{PoolId, Random, RealmId, Tick};
use crate::nat::subscriber::{SubscriberIndex, Subscribers};

/// The blocks a subscriber holds, seen from an allocation from one address.
pub(super) struct Chain<'a> {
    externals: &'a Externals,
    /// The first block of the list.
    pub(super) first: BlockLink,
    request: &'a Request<'a>,
    external: ExternalIndex,
    /// Blocks below this one are hosts' own, and not chosen among.
    first_open: u16,
}

impl<'a> Chain<'a> {
    /// The blocks of the request's subscriber, with a port wanted on `external`.
    pub(super) fn of(
        externals: &'a Externals,
        subscribers: &Subscribers,
        request: &'a Request<'a>,
        external: ExternalIndex,
    ) -> Chain<'a> {
        Chain {
            externals,
            first: subscribers.first_block(request.subscriber),
            request,
            external,
            first_open: 0,
        }
    }

    /// The same, without the blocks below `first_open`.
    pub(super) fn overflow(self, first_open: u16) -> Chain<'a> {
        Chain { first_open, ..self }
    }

    /// Whether this block of the address is among them.
    pub(super) fn has(&self, block: BlockIndex) -> bool {
        self.here().any(|held| held == block)
    }

    /// Blocks that count against the quota: those of the pool, when paired only those of the address (others are
    /// draining).
    pub(super) fn count(&self, pairing: Pairing) -> u16 {
        let pool = self.request.pool;
        let counts = |&(external, block, of): &(ExternalIndex, BlockIndex, Option<PoolId>)| {
            let usable = match pairing {
                Pairing::Paired => external == self.external,
                Pairing::Spread => pool.find_active(external).is_some(),
            };
            usable && block.0 >= self.first_open && of == Some(pool.policy().id)
        };
        self.iter().filter(counts).count() as u16
    }

    /// The block of the pool on the address, if the subscriber holds no other at all.
    pub(super) fn only(&self) -> Option<BlockIndex> {
        let mut all = self.iter();
        let (external, block, of) = all.next()?;
        let usable = external == self.external
            && of == Some(self.request.pool.policy().id)
            && block.0 >= self.first_open;
        (usable && all.next().is_none()).then_some(block)
    }

    /// The block to take a port from: the one the port wanted is left in; else a random one with room, but the longest idle
    /// one only if the others are full, so that it can fall idle and go back (RFC 7768 §4).
    // Implements: B1.
    pub(super) fn choose(
        &self,
        blocks: &BlockPorts,
        has_room: impl Fn(BlockIndex) -> bool,
        has_wanted: impl Fn(BlockIndex) -> bool,
        random: &mut Random,
    ) -> Option<BlockIndex> {
        let mut usable = 0;
        let mut only = None;
        let mut rested: Option<(Tick, BlockIndex)> = None;
        for block in self.here() {
            let last_used = blocks.last_used(block);
            if rested.is_none_or(|(tick, _)| last_used < tick) {
                rested = Some((last_used, block));
            }
            if has_room(block) {
                usable += 1;
                only = Some(block);
                if has_wanted(block) {
                    return Some(block);
                }
            }
        }
        if usable < 2 {
            return only;
        }
        let (_, rested) = rested?;
        let spared = has_room(rested);
        let draw = random.below(usable - u32::from(spared));
        self.here()
            .filter(|&block| has_room(block))
            .filter(|&block| !(spared && block == rested))
            .nth(draw as usize)
    }

    /// The subscriber's blocks of the pool on the address.
    fn here(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        let pool = Some(self.request.pool.policy().id);
        self.iter()
            .filter(move |&(external, _, of)| external == self.external && of == pool)
            .map(|(_, block, _)| block)
            .filter(|block| block.0 >= self.first_open)
    }

    /// Every block of the subscriber with its address and pool.
    fn iter(&self) -> impl Iterator<Item = (ExternalIndex, BlockIndex, Option<PoolId>)> + '_ {
        let mut at = self.first;
        std::iter::from_fn(move || {
            let (external, block) = at.get()?;
            let blocks = self.externals.get(external)?.blocks()?;
            at = blocks.next(block);
            Some((external, block, blocks.pool(block)))
        })
    }
}

/// Gives back the blocks of a subscriber that have been idle long enough.
// Implements: B1.
pub(super) fn return_idle(
    externals: &Externals,
    subscribers: &mut Subscribers,
    subscriber: SubscriberIndex,
    now: Tick,
    returned: &mut impl FnMut(&ReturnedBlock),
) {
    let inside = subscribers.address(subscriber).unwrap_or(0);
    let realm = subscribers.realm(subscriber).unwrap_or(RealmId(0));
    let mut before: Option<(&BlockPorts, BlockIndex)> = None;
    let mut at = subscribers.first_block(subscriber);
    let mut any = false;
    while let Some((external, block)) = at.get() {
        let Some(blocks) = externals.get(external).and_then(|e| e.blocks()) else {
            break;
        };
        at = blocks.next(block);
        if !blocks.is_expired(block, now) {
            before = Some((blocks, block));
            continue;
        }
        if let Some((blocks, block)) = before {
            blocks.set_next(block, at);
        }
        let first = before.is_none().then_some(at);
        subscribers.block_removed(subscriber, external, first);
        any = true;
        if let Some(ports) = blocks.ports_of(block) {
            returned(&ReturnedBlock {
                external,
                block,
                ports,
                inside,
                realm,
                pool: blocks.pool(block),
            });
        }
        blocks.release_block(block);
    }
    if any {
        subscribers.free_if_idle(subscriber);
    }
}
