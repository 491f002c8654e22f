//! The port of a new mapping on an address that is settled: a single one, or one of the subscriber's blocks.

use super::allocator::{Allocator, Request, own_place};
use super::chain::Chain;
use super::shared::{SharedPorts, View};
use super::sharing::{BlockSearch, SingleSearch};
use super::{
    Allowed, BlockIndex, BlockLink, BlockPolicy, Claim, ExternalIndex, ExternalRef, Externals,
    PortRange, PortSpace, Select, SinglePorts,
};
use crate::base::{DropReason, Random};
use crate::nat::subscriber::Subscribers;

impl Allocator {
    /// A port of an address with single ports: of the source port's class first, of the whole range then.
    // Implements: U3a, P9.
    pub(super) fn single_port(
        &mut self,
        single: &SinglePorts,
        external: &ExternalRef,
        request: &Request<'_>,
        random: &mut Random,
    ) -> Option<u16> {
        let policy = request.pool.policy();
        let whole = request.of_parity(Allowed::new(
            request.ports.unwrap_or(&policy.ports),
            &external.reserved,
            request.space,
        ));
        let index = external.index;
        let classed = policy.low_ports && request.ports.is_none();
        if !classed {
            return self.pick(single, index, &whole, request, random);
        }
        let anywhere = request.of_parity(Allowed::all(&external.reserved, request.space));
        let class = match (request.space, request.inside_port) {
            (PortSpace::Icmp, _) => return self.pick(single, index, &anywhere, request, random),
            (_, 1..512) => anywhere.clip(PortRange::new(1, 511)),
            (_, 512..1024) => anywhere.clip(PortRange::new(512, 1023)),
            _ => whole.clip(PortRange::new(1024, u16::MAX)),
        };
        self.pick(single, index, &class, request, random)
            .or_else(|| self.pick(single, index, &whole, request, random))
    }

    /// An allowed free port by the pool's `select`.
    fn pick(
        &mut self,
        single: &SinglePorts,
        external: ExternalIndex,
        allowed: &Allowed<'_>,
        request: &Request<'_>,
        random: &mut Random,
    ) -> Option<u16> {
        let (space, wanted) = (request.space, request.inside_port);
        if let Some(port) = request.exactly {
            let free = allowed.contains(port) && single.claim(space, port, self.worker);
            return free.then_some(port);
        }
        if let Some(share) = request.share {
            let view = View {
                external,
                space,
                share,
            };
            return self.pick_shared(single, &view, allowed, request, random);
        }
        match request.select() {
            Select::Preserve => {
                let keep = request.may_keep()
                    && allowed.contains(wanted)
                    && single.claim(space, wanted, self.worker);
                if keep {
                    return Some(wanted);
                }
                single.claim_random(self.worker, allowed, self.preference, random)
            }
            Select::Random => single.claim_random(self.worker, allowed, self.preference, random),
            Select::Sequential => {
                let latest = &mut self.latest[space.index()];
                let port = single.claim_sequential(self.worker, allowed, *latest)?;
                *latest = port;
                Some(port)
            }
        }
    }

    /// The same where mappings share ports: an allowed one that is free for the remote.
    fn pick_shared(
        &mut self,
        single: &SinglePorts,
        view: &View,
        allowed: &Allowed<'_>,
        request: &Request<'_>,
        random: &mut Random,
    ) -> Option<u16> {
        let search = SingleSearch {
            single,
            worker: self.worker,
            preference: self.preference,
            allowed,
            view,
        };
        let wanted = request.inside_port;
        let latest = &mut self.latest[request.space.index()];
        let start = match request.select() {
            Select::Preserve
                if request.may_keep() && search.take_port(&mut self.shared, wanted) =>
            {
                return Some(wanted);
            }
            Select::Sequential => latest.wrapping_add(1),
            Select::Preserve | Select::Random => {
                self.preference.start(self.worker, allowed, random)?
            }
        };
        let port = search.take_from(&mut self.shared, start)?;
        if request.select() == Select::Sequential {
            *latest = port;
        }
        Some(port)
    }

    /// A port of the subscriber's blocks on this address, if need be of a new one.
    // Implements: G13, G15.
    pub(super) fn block_port(
        &mut self,
        external: &ExternalRef,
        externals: &Externals,
        subscribers: &mut Subscribers,
        request: &Request<'_>,
        block: BlockPolicy,
        random: &mut Random,
    ) -> Result<(u16, Option<BlockIndex>), DropReason> {
        let blocks = external.external.blocks().ok_or(DropReason::Internal)?;
        let policy = request.pool.policy();
        let allowed = match request.ports {
            Some(ports) => Allowed::new(ports, &external.reserved, request.space),
            None => Allowed::all(&external.reserved, request.space),
        };
        let mut allowed = request.of_parity(allowed);
        if let Some(port) = request.exactly {
            allowed = allowed.clip(PortRange::new(port, port));
        }
        let wanted = (request.select() == Select::Preserve && request.inside_port != 0)
            .then_some(request.inside_port);
        let view = request.share.map(|share| View {
            external: external.index,
            space: request.space,
            share,
        });
        let search = view.as_ref().map(|view| BlockSearch {
            blocks,
            allowed: &allowed,
            view,
            now: request.now,
            hold: policy.hold,
        });
        let shared = &mut self.shared;
        let take = |shared: &mut SharedPorts, index: BlockIndex, random: &mut Random| {
            let port = match &search {
                Some(search) => search.take(shared, index, wanted, random),
                None => blocks.allocate(index, wanted, &allowed, random, request.now, policy.hold),
            };
            blocks.set_idle(index, block.idle.max(policy.hold));
            port
        };
        let inside = subscribers.address(request.subscriber).unwrap_or(0);
        let claim = Claim {
            worker: self.worker,
            subscriber: inside,
            pool: policy.id,
            preference: self.preference,
            now: request.now,
        };
        let mut held = Chain::of(externals, subscribers, request, external.index);
        let mut add = |opened: BlockIndex, first: BlockLink| {
            blocks.set_next(opened, first);
            let link = BlockLink::new(external.index, opened);
            subscribers.block_added(request.subscriber, policy.id, external.index, link);
            link
        };
        if let Some((_, own)) = own_place(request.pool, inside) {
            if !held.has(own) && blocks.claim_own(own, &claim).is_some() {
                held.first = add(own, held.first);
            }
            // Another host may still hold it under an earlier configuration.
            if held.has(own)
                && let Some(port) = take(shared, own, random)
            {
                return Ok((port, None));
            }
            held = held.overflow(blocks.first_open());
        }
        // Most hosts have one block: there is nothing to choose.
        if let Some(only) = held.only()
            && let Some(port) = take(shared, only, random)
        {
            return Ok((port, None));
        }
        let has_room = |index: BlockIndex| match &search {
            Some(search) => search.has_room(shared, index),
            None => blocks.has_free(index, &allowed, request.now, policy.hold),
        };
        let has_wanted = |index: BlockIndex| {
            wanted.is_some_and(|port| match &search {
                Some(search) => search.has_port(shared, index, port),
                None => blocks.can_take(index, port, &allowed),
            })
        };
        if let Some(index) = held.choose(blocks, has_room, has_wanted, random) {
            let port = take(shared, index, random).ok_or(DropReason::Internal)?;
            return Ok((port, None));
        }
        if block.max_per_host == 0 || request.exactly.is_some() {
            return Err(DropReason::NoPort);
        }
        if held.count(policy.pairing) >= block.max_per_host {
            return Err(DropReason::QuotaBlocks);
        }
        let opened = blocks
            .claim_block(&claim, &allowed, random)
            .ok_or(DropReason::NoBlock)?;
        let port = take(shared, opened, random).ok_or(DropReason::Internal)?;
        add(opened, held.first);
        Ok((port, Some(opened)))
    }
}
