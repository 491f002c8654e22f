//! Sequence numbers of a connection in which a helper has changed the length of a text (RFC 5382 section 6: an ALG that does
//! has to adjust SACK as well).
//!
//! The sender counts the bytes it sent, the receiver those it got. So what the sender's segments say of their own place is
//! moved by the difference, and what the receiver says of it is moved back: acknowledgment numbers and SACK blocks
//! (RFC 2018). The difference before the latest change may still be asked for, when something is sent again or acknowledged
//! late; anything older has long been acknowledged.

use crate::wire::checksum::Delta;
use crate::wire::tcp::{self, ACK};
use crate::wire::{read_u8, read_u32, write_u32};

/// By how much one direction of a connection is moved.
// Implements: T12.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// The sender's number of the first byte of the text changed last.
    pub position: u32,
    /// What is added up to there.
    pub before: u32,
    /// What is added behind it.
    pub after: u32,
}

impl Shift {
    /// The shift after another text changed: at `position`, `more` bytes longer (modulo 2³²).
    pub fn then(self, position: u32, more: u32) -> Shift {
        Shift {
            position,
            before: self.after,
            after: self.after.wrapping_add(more),
        }
    }

    /// What the receiver is told instead of the sender's number.
    pub fn forth(&self, number: u32) -> u32 {
        let behind = number.wrapping_sub(self.position) as i32 > 0;
        number.wrapping_add(if behind { self.after } else { self.before })
    }

    /// The sender's number instead of what the receiver was told.
    pub fn back(&self, number: u32) -> u32 {
        let unmoved = number.wrapping_sub(self.before);
        let behind = unmoved.wrapping_sub(self.position) as i32 > 0;
        if behind {
            number.wrapping_sub(self.after)
        } else {
            unmoved
        }
    }

    /// Moves the sequence number of a segment of the sender.
    pub fn move_sequence(&self, frame: &mut [u8], l4: usize) {
        let old = tcp::sequence(frame, l4);
        change(frame, l4, l4 + 4, self.forth(old));
    }

    /// Moves back what a segment of the receiver acknowledges. `frame` ends with the IP packet.
    pub fn move_acknowledgment(&self, frame: &mut [u8], l4: usize) {
        if tcp::flags(frame, l4) & ACK == 0 {
            return;
        }
        let old = tcp::acknowledgment(frame, l4);
        change(frame, l4, l4 + 8, self.back(old));
        self.move_sack(frame, l4);
    }

    /// Moves back the edges of SACK blocks (option 5).
    fn move_sack(&self, frame: &mut [u8], l4: usize) {
        const END: u8 = 0;
        const NOP: u8 = 1;
        const SACK: u8 = 5;
        let end = (l4 + tcp::header_length(frame, l4)).min(frame.len());
        let mut at = l4 + tcp::HEADER;
        while at + 1 < end {
            let (kind, length) = (read_u8(frame, at), usize::from(read_u8(frame, at + 1)));
            let length = match kind {
                END => return,
                NOP => 1,
                _ if length < 2 || at + length > end => return,
                _ => length,
            };
            if kind == SACK {
                for edge in (at + 2..at + length).step_by(4) {
                    if edge + 4 <= at + length {
                        let old = read_u32(frame, edge);
                        change(frame, l4, edge, self.back(old));
                    }
                }
            }
            at += length;
        }
    }
}

/// Writes a number of the TCP header and repairs the checksum.
fn change(frame: &mut [u8], l4: usize, at: usize, new: u32) {
    let old = read_u32(frame, at);
    if old == new {
        return;
    }
    let delta = Delta::u32(old, new);
    write_u32(frame, at, new);
    // Options need not be aligned; a value at an odd offset sits across the words of the checksum.
    let even = (at - l4).is_multiple_of(2);
    let delta = if even { delta } else { delta.at_odd_offset() };
    tcp::apply_checksum(frame, l4, delta);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum::transport_v4;

    #[test]
    fn there_and_back_around_a_change() {
        for position in [1000, u32::MAX - 3, 0] {
            for more in [5u32, 0u32.wrapping_sub(7)] {
                let shift = Shift::default().then(position, more);
                let at = |offset: u32| position.wrapping_add(offset);
                assert_eq!(shift.forth(at(0)), at(0), "the text itself stays");
                assert_eq!(shift.forth(at(20)), at(20).wrapping_add(more));
                assert_eq!(shift.back(at(0)), at(0));
                for offset in [20, 21, 5000] {
                    assert_eq!(shift.back(shift.forth(at(offset))), at(offset));
                }
                let again = shift.then(at(100), 2);
                assert_eq!(again.forth(at(100)), at(100).wrapping_add(more));
                assert_eq!(again.forth(at(120)), at(122).wrapping_add(more));
            }
        }
    }

    fn segment(options: &[u8]) -> Vec<u8> {
        let mut out = vec![
            0, 7, 0, 8, 0, 0, 4, 0, 0, 0, 8, 0, 0, ACK, 0x10, 0x20, 0, 0, 0, 0,
        ];
        out[12] = (((20 + options.len()) / 4) << 4) as u8;
        out.extend(options);
        let field = transport_v4(1, 2, 6, &out);
        tcp::set_checksum(&mut out, 0, field);
        out
    }

    // Proves: T12.
    #[test]
    fn sack_blocks_follow_at_any_alignment() {
        let shift = Shift::default().then(1000, 3);
        let blocks = [0u32, 2100, 0, 2200];
        let edges: Vec<u8> = [2100u32, 2200]
            .iter()
            .flat_map(|edge| edge.to_be_bytes())
            .collect();
        for (padding, at) in [(&[1, 1][..], 24), (&[1], 23), (&[][..], 22)] {
            let mut options = padding.to_vec();
            options.extend([5, 10]);
            options.extend(&edges);
            options.resize(options.len().next_multiple_of(4), 0);
            let mut s = segment(&options);
            shift.move_acknowledgment(&mut s, 0);
            assert_eq!(read_u32(&s, 8), 2048 - 3);
            assert_eq!(
                (read_u32(&s, at), read_u32(&s, at + 4)),
                (blocks[1] - 3, blocks[3] - 3)
            );
            assert_eq!(transport_v4(1, 2, 6, &s), 0, "{options:?}");
            shift.move_sequence(&mut s, 0);
            assert_eq!((read_u32(&s, 4), transport_v4(1, 2, 6, &s)), (1027, 0));
        }
    }

    proptest! {
        #[test]
        fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 20..90)) {
            let before = bytes.clone();
            let shift = Shift::default().then(7, 9);
            shift.move_acknowledgment(&mut bytes, 0);
            shift.move_sequence(&mut bytes, 0);
            prop_assert_eq!(bytes.len(), before.len());
        }
    }

    #[test]
    fn sack_blocks_are_found_behind_other_options_and_changed_as_far_as_they_go() {
        let shift = Shift::default().then(1000, 3);
        let edge = |n: u32| n.to_be_bytes();
        let moved = |options: Vec<u8>| {
            let mut s = segment(&options);
            s.extend([9; 8]);
            shift.move_acknowledgment(&mut s, 0);
            assert_eq!(s[20 + options.len()..], [9; 8], "the payload stays");
            s[20..20 + options.len()].to_vec()
        };
        let (old, new) = (edge(2100), edge(2097));
        // SACK permitted, a time stamp and nothing at all come before.
        let before = [&[4, 2, 8, 10, 0, 0, 8, 52, 0, 0, 8, 52, 1][..]].concat();
        let options = |edges: &[[u8; 4]; 2], after: &[u8]| {
            [&before, &[5, 10][..], &edges.concat(), after].concat()
        };
        assert_eq!(
            moved(options(&[old, old], &[0])),
            options(&[new, new], &[0])
        );
        // Half an edge is none.
        let halved = |edge: [u8; 4]| [&[5, 8][..], &edge, &[0, 8], &[1, 1, 1, 0]].concat();
        assert_eq!(moved(halved(old)), halved(new));
        // What is cut short, and what follows the end of the options, is left alone.
        for kept in [
            [&[5, 18][..], &old, &old, &[1, 1]].concat(),
            [&[0, 1, 5, 10][..], &old, &old].concat(),
            [&[5, 1, 5, 10][..], &old, &old].concat(),
            [&[0, 2, 5, 10][..], &old, &old].concat(),
        ] {
            assert_eq!(moved(kept.clone()), kept);
        }
        // One that fills the header to its end.
        let full = |edge: [u8; 4]| [&[1, 1, 5, 10][..], &edge, &edge].concat();
        assert_eq!(moved(full(old)), full(new));
    }

    #[test]
    fn a_segment_that_acknowledges_nothing_keeps_its_number() {
        let shift = Shift::default().then(0, 3);
        let mut s = segment(&[]);
        s[13] = 2;
        let before = s.clone();
        shift.move_acknowledgment(&mut s, 0);
        assert_eq!(s, before);
    }
}
