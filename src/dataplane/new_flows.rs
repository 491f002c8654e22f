//! The packets of a batch that no session claimed: each opens a flow, or is turned away because it knocks in vain. What
//! either needs is fetched a few packets ahead.

use crate::base::time::Now;
use crate::base::{PortId, VlanId};
use crate::dataplane::buffer::{BURST, Buffer, Burst, Sink};
use crate::dataplane::family::Ip;
use crate::dataplane::fast::{self, BY_HAND};
use crate::dataplane::shard::Shard;
use crate::flow::key::FlowKey;
use crate::flow::session::{Direction, FlowEntry, NONE};
use crate::nat::ahead::Hashes;
use crate::nat::knock::Knock;
use crate::nat::policy::Policy;
use crate::wire::parse::parse;
use crate::wire::{ETHERTYPE_VLAN, read_u16};

/// What is known of the packets that wait for [`Shard::new_flows`], by their order: those that are knocks.
pub(super) type Knocks = [Option<Knock>; BURST];

/// Packets ahead of the one being judged for which what their headers lead to is fetched; all at once, the processor would drop
/// some of the prefetches.
const LOOK_FAR: usize = 8;

/// Packets between fetching that and fetching what is found there.
const LOOK_NEAR: usize = LOOK_FAR / 2;

impl<B: Buffer> Shard<B> {
    /// Plain packets that no session claimed, and the unusual ones between them, as a batch of their own: in order, so that
    /// the packets of a flow stay in theirs. The first of a flow opens it for the others.
    #[inline(never)]
    pub(super) fn new_flows<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        port: PortId,
        later: Burst<B>,
        sink: &mut impl Sink<B>,
    ) {
        A::nat_mut(&mut self.nat, &mut self.nat_v6).newest.clear();
        let count = later.len();
        let mut later = later.into_iter();
        for step in 0..count + LOOK_FAR {
            if let Some(far) = later.as_slice().get(step + later.len() - count) {
                self.look_ahead::<A>(policy, port, step, far);
            }
            if let Some(near) = step.checked_sub(LOOK_NEAR).filter(|near| *near < count) {
                self.look_closer::<A>(near);
            }
            let Some(at) = step.checked_sub(LOOK_FAR) else {
                continue;
            };
            if let Some(buffer) = later.next() {
                self.new_flow::<A>(policy, now, port, at, buffer, sink);
            }
        }
    }

    /// The packet that is at position `at` of those for [`Shard::new_flows`].
    #[inline]
    fn new_flow<A: Ip>(
        &mut self,
        policy: &Policy,
        now: Now,
        port: PortId,
        at: usize,
        buffer: B,
        sink: &mut impl Sink<B>,
    ) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let (lane, by_hand) = (batch.later[at], batch.later[at] & BY_HAND != 0);
        let lane = usize::from(lane) % BURST;
        let (hash, key) = (batch.hashes[lane], batch.keys[lane]);
        let (knock, hashes) = (batch.knocks[at], batch.ahead[at]);
        // The first packet of a flow may have opened it for this one.
        let known =
            by_hand || nat.newest.may_hold(hash) && nat.find_block(NONE, hash, key).is_some();
        let refusal = || knock?.refusal(&self.nat, policy, now);
        if !known && let Some(reason) = refusal() {
            return self.discard(buffer, reason, sink);
        }
        let parsed = parse(buffer.bytes()).ok().filter(|_| !known);
        let ingress = parsed.and_then(|packet| policy.receiving(port, packet.vlan));
        let (Some(packet), Some(ingress)) = (parsed, ingress) else {
            return self.by_hand(policy, now, port, buffer, sink);
        };
        let incoming = fast::incoming(buffer, ingress.id);
        let realm = policy.realm_of(incoming.ingress);
        let tuple = A::tuple(incoming.buffer.bytes(), &packet);
        let key = FlowKey::new(tuple, packet.protocol, realm);
        let of = (&key, hashes);
        let Some((incoming, index)) = self.admit(policy, now, incoming, &packet, of, sink) else {
            return;
        };
        let entry = FlowEntry::new(index, Direction::Forward);
        let ingress = incoming.ingress;
        let first = self.express_first::<A>(policy, now, (lane, entry), incoming.buffer, sink);
        if let Some(buffer) = first {
            let incoming = fast::incoming(buffer, ingress);
            self.hit::<A>(policy, now, entry, incoming, &packet, sink);
        }
    }

    /// Fetches what a packet that no session claimed needs first: a knock the holder of its port and its mapping, another one
    /// what opening a session reads. `at` is its position among those packets.
    #[inline]
    fn look_ahead<A: Ip>(&mut self, policy: &Policy, port: PortId, at: usize, buffer: &B) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let at = at % BURST;
        batch.knocks[at] = None;
        let lane = batch.later[at];
        if lane & BY_HAND != 0 {
            return;
        }
        let lane = usize::from(lane) % BURST;
        let (key, hash) = (batch.keys[lane], batch.hashes[lane]);
        let on = || policy.receiving(port, tag(buffer.bytes()));
        match A::knock(nat, policy, on, key) {
            None => batch.ahead[at] = nat.prefetch_new(key, hash, LOOK_FAR as u32),
            knock => {
                batch.knocks[at] = knock;
                batch.ahead[at] = Hashes::of_forward(hash);
            }
        }
    }

    /// After [`Shard::look_ahead`]: fetches what it has led to.
    #[inline]
    fn look_closer<A: Ip>(&mut self, at: usize) {
        let nat = A::nat(&self.nat, &self.nat_v6);
        let batch = A::batch(&mut self.batch, &mut self.batch_v6);
        let at = at % BURST;
        let lane = usize::from(batch.later[at]);
        match batch.knocks[at] {
            Some(knock) => knock.fetch_session(&self.nat),
            None if lane & usize::from(BY_HAND) != 0 => {}
            None => nat.prefetch_room(batch.keys[lane % BURST], &batch.ahead[at]),
        }
    }
}

/// The 802.1Q tag of a plain packet's frame.
fn tag(frame: &[u8]) -> Option<VlanId> {
    (read_u16(frame, 12) == ETHERTYPE_VLAN).then(|| VlanId(read_u16(frame, 14) & 0x0fff))
}
