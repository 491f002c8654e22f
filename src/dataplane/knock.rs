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

impl<B: Buffer> Shard<B> {
    /// Fetches what the packets that no session claimed need: knocks the holder of their port and its mapping, the others
    /// what opening a session reads first.
    pub(super) fn prefetch_later<A: Ip>(&mut self, policy: &Policy, port: PortId, later: &[B]) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let lanes = &batch.later[..later.len().min(BURST)];
        for ((lane, buffer), knock) in lanes.iter().zip(later).zip(&mut batch.knocks) {
            let on = || policy.receiving(port, tag(buffer.bytes()));
            *knock = match lane & BY_HAND {
                0 => A::knock(nat, policy, on, batch.keys[usize::from(*lane) % BURST]),
                _ => None,
            };
        }
        let knocks = &batch.knocks[..lanes.len()];
        for knock in knocks.iter().flatten() {
            knock.fetch_session(&self.nat);
        }
        let new = lanes.iter().zip(knocks);
        let new = new.filter(|(lane, knock)| *lane & BY_HAND == 0 && knock.is_none());
        nat.prefetch_new(new.map(|(lane, _)| batch.keys[usize::from(*lane) % BURST]));
    }
}

/// The 802.1Q tag of a plain packet's frame.
fn tag(frame: &[u8]) -> Option<VlanId> {
    (read_u16(frame, 12) == ETHERTYPE_VLAN).then(|| VlanId(read_u16(frame, 14) & 0x0fff))
}
