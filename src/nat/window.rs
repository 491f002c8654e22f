//! Which TCP segments may change the state of a session: those whose sequence number lies where the connection is.
//!
//! Somebody who can neither see nor stop the packets of a connection can still forge some. Endpoints ignore a forged reset
//! or FIN outside their window (RFC 5961 section 3); a translator that believes it would let the session die while both
//! ends go on (RFC 7857 section 2.2: it has to verify that a reset belongs to the connection). So a session knows, roughly,
//! where its connection is.
//!
//! **What is noted, and when.** Both sequence numbers of a segment: its own, and by its acknowledgment the other side's.
//! Not of every segment, which would cost every packet a cache line of its own (the session's is full), but of
//!
//! - the first in each tick (a quarter of a second): where `last_seen` is written anyway;
//! - those from inside that change the state: SYN, the ACK that ends the handshake, FIN, RST.
//!
//! A connection that has gone idle, the only kind a forged reset can harm since data restores the state, is then known up to
//! the bytes of one tick. That is what `AHEAD` is for. A connection that moves faster may end by a reset that is not believed;
//! its session then lives until its ordinary timeout, nothing worse.
//!
//! **Whom to believe.** The inside, always: uRPF looks after its addresses. Its segments note whatever they say, so a
//! connection picked up in the middle, or seen in one direction only, is known with the first of them. The outside only
//! where what it says lies close to what was noted; its segments move the note only as far. A segment that is not
//! believed is translated and sent on like any other (RFC 7857 section 2.2: MUST), only the session stays as it is. While
//! nothing is known of a connection, everything is believed.
//!
//! Of SCTP associations the same places hold verification tags, likewise by halves: see [`super::association`].
//!
//! A blind attacker hits with one forged segment in 500, for each outside port tried, as at an endpoint with a window of 8 MiB.

use crate::arch::{HugeVec, OutOfMemory, Pages};
use crate::flow::session::SessionIndex;
use crate::nat::tcp::{ACK, SYN};
use crate::wire::sctp::{Event, Told};
use crate::wire::tcp;

/// Bits of a number that are not noted: what is believed is a matter of megabytes, and half a number is half the memory.
const COARSE: u32 = 16;
/// Units of 64 KiB behind the noted one that are believed: retransmissions, segments that overtook each other; the second
/// because 0 is noted as 1.
const BEHIND: u16 = 2;
/// Units ahead that are believed, 8 MiB: a tick of a connection at 268 Mbit/s.
const AHEAD: u16 = 128;

/// The numbers of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number, meaningful with ACK.
    pub acknowledgment: u32,
}

impl Numbers {
    /// Reads them from the TCP header at `l4`.
    #[inline]
    pub fn read(frame: &[u8], l4: usize) -> Numbers {
        Numbers {
            sequence: tcp::sequence(frame, l4),
            acknowledgment: tcp::acknowledgment(frame, l4),
        }
    }
}

/// Where a number is, in units of 64 KiB. 0 is "not known"; a number in unit 0 is noted as in unit 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
struct Place(u16);

impl Place {
    const UNKNOWN: Place = Place(0);

    fn of(number: u32) -> Place {
        Place(((number >> COARSE) as u16).max(1))
    }

    /// Whether `number` is close enough to be believed.
    fn is_near(self, number: u32) -> bool {
        let unit = (number >> COARSE) as u16;
        unit.wrapping_sub(self.0).wrapping_add(BEHIND) < BEHIND + AHEAD
    }
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Noted {
    inside: Place,
    outside: Place,
}

/// The notes of one worker's sessions, by session: 4 bytes each, read and written off the fast path.
pub struct Windows {
    notes: HugeVec<Noted>,
}

impl Windows {
    /// Notes for `capacity` sessions.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(capacity: usize, pages: Pages) -> Result<Windows, OutOfMemory> {
        Ok(Windows {
            notes: HugeVec::new(capacity, pages)?,
        })
    }

    /// Forgets what an earlier session at `index` left, and notes the segment that opens the new one.
    pub fn begin(&mut self, index: SessionIndex, from_inside: bool, flags: u8, numbers: Numbers) {
        self.forget(index);
        self.set(index, from_inside, flags, numbers);
    }

    /// Notes an ordinary segment, if it may be believed.
    #[inline]
    pub fn note(&mut self, index: SessionIndex, from_inside: bool, flags: u8, numbers: Numbers) {
        if from_inside || self.believes(index, flags, numbers) {
            self.set(index, from_inside, flags, numbers);
        }
    }

    /// Whether a segment from outside lies where the connection is, so that its flags may change the session's state.
    // Implements: P2.2, T12.
    pub fn believes(&self, index: SessionIndex, flags: u8, numbers: Numbers) -> bool {
        let Some(noted) = self.notes.get(index.0 as usize) else {
            return true;
        };
        if noted.outside != Place::UNKNOWN {
            return noted.outside.is_near(numbers.sequence);
        }
        // The outside has not been acknowledged yet: it has to acknowledge what the inside sent (RFC 9293 section 3.10.7.3),
        // unless it opens the connection itself, which shortens nothing.
        match flags & (SYN | ACK) {
            SYN => true,
            0 => noted.inside == Place::UNKNOWN,
            _ => noted.inside == Place::UNKNOWN || noted.inside.is_near(numbers.acknowledgment),
        }
    }

    /// Forgets what an earlier session at `index` left.
    pub fn forget(&mut self, index: SessionIndex) {
        if let Some(noted) = self.notes.get_mut(index.0 as usize) {
            *noted = Noted::default();
        }
    }

    /// Notes the verification tags an SCTP packet of the inside shows: the one it calls by, and the one it wants to be
    /// called by.
    pub fn note_tags(&mut self, index: SessionIndex, told: Told) {
        let Some(noted) = self.notes.get_mut(index.0 as usize) else {
            return;
        };
        match told.event {
            // The packet has no tag yet, and what was known of the other side is over.
            Event::Init(own) => {
                *noted = Noted {
                    inside: Place::of(own),
                    outside: Place::UNKNOWN,
                };
                return;
            }
            Event::InitAck(own) => noted.inside = Place::of(own),
            Event::End { reflected: true } => return,
            Event::End { reflected: false } | Event::None => {}
        }
        noted.outside = Place::of(told.tag);
    }

    /// Whether an SCTP packet from outside may change the session's state: it ends nothing, or it has the tag it should.
    pub fn believes_end(&self, index: SessionIndex, told: Told) -> bool {
        let (Event::End { reflected }, Some(noted)) =
            (told.event, self.notes.get(index.0 as usize))
        else {
            return true;
        };
        let expected = if reflected {
            noted.outside
        } else {
            noted.inside
        };
        expected == Place::UNKNOWN || expected == Place::of(told.tag)
    }

    fn set(&mut self, index: SessionIndex, from_inside: bool, flags: u8, numbers: Numbers) {
        let Some(noted) = self.notes.get_mut(index.0 as usize) else {
            return;
        };
        let own = Place::of(numbers.sequence);
        let other = match (flags & ACK, flags & SYN) {
            // A new connection: what was known of the other side is over.
            (0, SYN) if from_inside => Some(Place::UNKNOWN),
            (0, _) => None,
            _ => Some(Place::of(numbers.acknowledgment)),
        };
        let (mine, theirs) = if from_inside {
            (&mut noted.inside, &mut noted.outside)
        } else {
            (&mut noted.outside, &mut noted.inside)
        };
        *mine = own;
        *theirs = other.unwrap_or(*theirs);
    }

    /// Bytes taken.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::tcp::{FIN, RST};

    const AT: SessionIndex = SessionIndex(3);

    fn numbers(sequence: u32, acknowledgment: u32) -> Numbers {
        Numbers {
            sequence,
            acknowledgment,
        }
    }

    fn bytes(units: u16) -> u32 {
        u32::from(units) << COARSE
    }

    fn opened(inside: u32, outside: u32) -> Windows {
        let mut windows = Windows::new(8, Pages::Transparent).unwrap();
        windows.begin(AT, true, SYN, numbers(inside, 0));
        windows.note(AT, true, ACK, numbers(inside.wrapping_add(1), outside));
        windows
    }

    #[test]
    fn a_reset_is_believed_near_the_window_only() {
        for outside in [5000, 0, u32::MAX - 100, 1 << 31] {
            let windows = opened(77, outside);
            let believed =
                |offset: u32| windows.believes(AT, RST, numbers(outside.wrapping_add(offset), 0));
            let far = bytes(AHEAD) - bytes(1);
            assert!(believed(0) && believed(1460) && believed(far), "{outside}");
            assert!(believed(0u32.wrapping_sub(bytes(1))), "{outside}");
            let beyond = bytes(AHEAD) + bytes(1);
            assert!(!believed(beyond) && !believed(1 << 31), "{outside}");
            assert!(!believed(0u32.wrapping_sub(bytes(4))), "{outside}");
        }
    }

    #[test]
    fn the_answer_to_a_syn_acknowledges_it() {
        let mut windows = Windows::new(8, Pages::Transparent).unwrap();
        windows.begin(AT, true, SYN, numbers(9000, 0));
        assert!(windows.believes(AT, RST | ACK, numbers(0, 9001)));
        assert!(windows.believes(AT, SYN | ACK, numbers(1 << 30, 9001)));
        assert!(!windows.believes(AT, RST | ACK, numbers(0, 1 << 30)));
        assert!(!windows.believes(AT, RST, numbers(9001, 9001)), "no ACK");
    }

    #[test]
    fn an_outside_that_opens_is_believed_whatever_it_acknowledges() {
        let mut windows = Windows::new(8, Pages::Transparent).unwrap();
        windows.begin(AT, true, SYN, numbers(9000, 0));
        assert!(windows.believes(AT, SYN, numbers(1 << 30, 1 << 30)));
    }

    #[test]
    fn a_segment_without_syn_and_ack_leaves_what_is_known_of_the_other_side() {
        let mut windows = opened(77, 5000);
        windows.note(AT, true, FIN, numbers(99, 0));
        assert!(!windows.believes(AT, RST, numbers(1 << 31, 0)));
    }

    #[test]
    fn what_is_not_known_is_believed_and_the_inside_always_notes() {
        let mut windows = Windows::new(8, Pages::Transparent).unwrap();
        assert!(windows.believes(AT, RST, numbers(1, 2)));
        windows.note(AT, true, ACK, numbers(1 << 31, 1 << 30));
        assert!(!windows.believes(AT, RST, numbers(1, 2)));
        assert!(windows.believes(AT, FIN | ACK, numbers(1 << 30, 1 << 31)));
    }

    #[test]
    fn the_outside_moves_the_note_only_where_it_is_believed() {
        let mut windows = opened(77, 5000);
        windows.note(AT, false, ACK, numbers(1 << 31, 78));
        assert!(!windows.believes(AT, RST, numbers(1 << 31, 0)), "forged");
        windows.note(AT, false, ACK, numbers(5000 + bytes(AHEAD - 1), 78));
        assert!(
            windows.believes(AT, RST, numbers(5000 + bytes(AHEAD), 0)),
            "moved"
        );
    }

    #[test]
    fn an_end_from_outside_needs_the_tag() {
        let told = |tag, event| Told { tag, event };
        let end = |tag, reflected| told(tag, Event::End { reflected });
        let mut windows = Windows::new(8, Pages::Transparent).unwrap();
        let (mine, theirs) = (0x1234_0000, 0x9876_0000);
        assert!(windows.believes_end(AT, end(9, false)), "nothing is known");
        windows.note_tags(AT, told(0, Event::Init(mine)));
        assert!(windows.believes_end(AT, end(mine, false)));
        assert!(!windows.believes_end(AT, end(theirs, false)));
        assert!(windows.believes_end(AT, end(9, true)), "not known yet");
        windows.note_tags(AT, told(theirs, Event::None));
        assert!(windows.believes_end(AT, end(theirs, true)));
        assert!(!windows.believes_end(AT, end(mine, true)));
        assert!(windows.believes_end(AT, told(9, Event::None)), "no end");
        windows.note_tags(AT, end(mine, true));
        assert!(
            windows.believes_end(AT, end(theirs, true)),
            "no tag of theirs"
        );
        windows.note_tags(AT, told(theirs, Event::InitAck(mine / 2)));
        assert!(windows.believes_end(AT, end(mine / 2, false)), "answered");
        windows.forget(AT);
        assert!(windows.believes_end(AT, end(9, false)));
    }

    #[test]
    fn a_new_connection_on_old_ports_begins_anew() {
        let mut windows = opened(77, 5000);
        windows.note(AT, true, SYN, numbers(1 << 29, 0));
        assert!(windows.believes(AT, SYN | ACK, numbers(1 << 28, (1 << 29) + 1)));
    }

    #[test]
    fn two_units_behind_and_what_lies_within_8_mib_ahead_is_believed() {
        let noted = Place::of(bytes(1000));
        for (unit, believed) in [
            (997, false),
            (998, true),
            (1000, true),
            (1127, true),
            (1128, false),
        ] {
            for number in [bytes(unit), bytes(unit + 1) - 1] {
                assert_eq!(noted.is_near(number), believed, "{unit}");
            }
        }
        assert_eq!((Place::of(0), Place::of(bytes(1))), (Place(1), Place(1)));
    }

    #[test]
    fn a_segment_notes_its_own_place_and_the_one_it_acknowledges() {
        let (old, place) = (
            Noted {
                inside: Place(100),
                outside: Place(200),
            },
            |inside, outside| (Place(inside), Place(outside)),
        );
        let here = numbers(bytes(101), bytes(201));
        let there = numbers(bytes(202), bytes(102));
        for (from_inside, flags, numbers, noted) in [
            (true, ACK, here, place(101, 201)),
            (true, SYN | ACK, here, place(101, 201)),
            (true, FIN, here, place(101, 200)),
            (true, SYN, here, place(101, 0)),
            (false, ACK, there, place(102, 202)),
            (false, SYN | ACK, there, place(102, 202)),
            (false, FIN, there, place(100, 202)),
            (false, SYN, there, place(100, 202)),
        ] {
            let mut windows = Windows::new(8, Pages::Transparent).unwrap();
            windows.notes[AT.0 as usize] = old;
            windows.note(AT, from_inside, flags, numbers);
            let after = windows.notes[AT.0 as usize];
            let seen = (after.inside, after.outside);
            assert_eq!(seen, noted, "{from_inside} {flags:#x}");
        }
    }

    #[test]
    fn the_numbers_of_a_segment_are_read_where_they_are() {
        let mut frame = vec![0; 20];
        frame[6..14].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Numbers::read(&frame, 2), numbers(0x0102_0304, 0x0506_0708));
    }

    #[test]
    fn each_session_has_a_note_of_four_bytes() {
        let windows = Windows::new(1000, Pages::Transparent).unwrap();
        assert!((4_000..8_000).contains(&windows.memory_bytes()));
        assert!(windows.believes(SessionIndex(5000), RST, numbers(1, 2)));
    }
}
