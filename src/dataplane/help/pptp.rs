//! PPTP: control messages, whose call ids become outside ones and inside ones again. No length changes.

use crate::base::DropReason;
use crate::dataplane::buffer::Buffer;
use crate::dataplane::family::Ip;
use crate::dataplane::help::Helped;
use crate::dataplane::shard::Shard;
use crate::nat::helpers::pptp::{Message, Messages, Own, number};
use crate::nat::open::{begin_call, inside_call, join_call, leave_call, outside_call};
use crate::wire::checksum::Delta;
use crate::wire::{ETHERTYPE_IPV4, tcp, write_u16};

/// Messages of one segment that are looked at; the connection carries one now and then.
const MESSAGES: usize = 16;

impl<B: Buffer> Shard<B> {
    /// A segment of a control connection, in either direction.
    pub(super) fn pptp<A: Ip>(&mut self, helped: Helped<'_, A, B>) -> Result<(), DropReason> {
        if A::ETHERTYPE != ETHERTYPE_IPV4 {
            return Ok(());
        }
        let bytes = helped.buffer.bytes();
        let (l4, end) = (usize::from(helped.packet.l4), helped.packet.end());
        let start = l4 + tcp::header_length(bytes, l4);
        let whole = !helped.packet.fragment.is_fragment();
        let payload = bytes.get(start..end).filter(|_| whole).unwrap_or_default();
        let mut found = arrayvec::ArrayVec::<Message, MESSAGES>::new();
        for message in Messages::of(payload).take(MESSAGES) {
            found.push(message.map_err(|_| DropReason::HelperUnfit)?);
        }
        let from_inside = helped.session.from_inside(helped.direction);
        for message in &found {
            let payload = helped.buffer.bytes().get(start..end).unwrap_or_default();
            let change = match from_inside {
                true => self.call_from_inside(&helped, payload, message),
                false => self.call_from_outside(&helped, payload, message),
            };
            if let Some((at, old, new)) = change {
                let delta = Delta::u16(old, new);
                // A value at an odd offset sits across the words of the checksum.
                let even = (start + at - l4).is_multiple_of(2);
                let delta = if even { delta } else { delta.at_odd_offset() };
                let frame = helped.buffer.bytes_mut();
                write_u16(frame, start + at, new);
                tcp::apply_checksum(frame, l4, delta);
            }
        }
        Ok(())
    }

    /// What the inside host says of its calls: the number that changes, and to what.
    fn call_from_inside<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        payload: &[u8],
        message: &Message,
    ) -> Option<(usize, u16, u16)> {
        let (own, at) = message.own?;
        let call = number(payload, at)?;
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        let (policy, control, now) = (helped.policy, helped.session, helped.now);
        let outside = match own {
            Own::Begins => {
                let begun = begin_call(nat, policy, control, call, now, &mut self.random);
                nat.counts.expectations_refused += u64::from(begun.is_err());
                begun.ok()?
            }
            Own::Ends => outside_call(nat, control, call)?,
        };
        Some((at, call, outside))
    }

    /// What the remote says of its calls and repeats of the inside host's: the number that changes, and to what.
    fn call_from_outside<A: Ip>(
        &mut self,
        helped: &Helped<'_, A, B>,
        payload: &[u8],
        message: &Message,
    ) -> Option<(usize, u16, u16)> {
        let nat = A::nat_mut(&mut self.nat, &mut self.nat_v6);
        let (policy, control, now) = (helped.policy, helped.session, helped.now);
        if let Some((own, call)) = message
            .own
            .and_then(|(own, at)| Some((own, number(payload, at)?)))
        {
            match own {
                Own::Begins => {
                    let joined = join_call(nat, policy, control, call, now);
                    nat.counts.expectations_refused += u64::from(joined.is_err());
                }
                Own::Ends => leave_call(nat, policy, control, call, now),
            }
        }
        let at = message.peer?;
        let outside = number(payload, at)?;
        Some((at, outside, inside_call(nat, control, outside)?))
    }
}
