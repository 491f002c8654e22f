//! Before the new flows of a batch: fetching what they need, and what is needed to turn away who knocks in vain.

use crate::base::{PortId, VlanId};
use crate::dataplane::buffer::{BURST, Buffer};
use crate::dataplane::family::Ip;
use crate::dataplane::fast::BY_HAND;
use crate::dataplane::shard::Shard;
use crate::nat::knock::Knock;
use crate::nat::policy::Policy;
use crate::wire::{ETHERTYPE_VLAN, read_u16};

/// What is known of the packets that wait for [`Shard::new_flows`], by their order: those that are knocks.
pub(super) type Knocks = [Option<Knock>; BURST];

/// Packets ahead of the one being judged for which what their headers lead to is fetched; all at once, the processor would drop
/// some of the prefetches.
pub(super) const LOOK_FAR: usize = 8;

/// Packets between fetching that and fetching what is found there.
pub(super) const LOOK_NEAR: usize = LOOK_FAR / 2;

impl<B: Buffer> Shard<B> {
    /// Fetches what a packet that no session claimed needs first: a knock the holder of its port and its mapping, another one
    /// what opening a session reads. `at` is its position among those packets.
    #[inline]
    pub(super) fn look_ahead<A: Ip>(
        &mut self,
        policy: &Policy,
        port: PortId,
        at: usize,
        buffer: &B,
    ) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let at = at % BURST;
        batch.knocks[at] = None;
        let lane = batch.later[at];
        if lane & BY_HAND != 0 {
            return;
        }
        let key = batch.keys[usize::from(lane) % BURST];
        let on = || policy.receiving(port, tag(buffer.bytes()));
        match A::knock(nat, policy, on, key) {
            None => nat.prefetch_new(key, LOOK_FAR as u32),
            knock => batch.knocks[at] = knock,
        }
    }

    /// After [`Shard::look_ahead`]: fetches what it has led to.
    #[inline]
    pub(super) fn look_closer<A: Ip>(&mut self, at: usize) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let at = at % BURST;
        let lane = usize::from(batch.later[at]);
        match batch.knocks[at] {
            Some(knock) => knock.fetch_session(&self.nat),
            None if lane & usize::from(BY_HAND) != 0 => {}
            None => nat.prefetch_room(batch.keys[lane % BURST], batch.hashes[lane % BURST]),
        }
    }
}

/// The 802.1Q tag of a plain packet's frame.
fn tag(frame: &[u8]) -> Option<VlanId> {
    (read_u16(frame, 12) == ETHERTYPE_VLAN).then(|| VlanId(read_u16(frame, 14) & 0x0fff))
}
