//! PPTP: where control messages number calls (RFC 2637 section 2).
//!
//! Either end of a call gives it a number, and the packets it is to receive carry that. A message tells the number its sender
//! gave (the call id), or repeats the one its receiver gave (the peer's call id):
//!
//! | type | message | call id | peer's |
//! |---|---|---|---|
//! | 7 | Outgoing-Call-Request | begins | |
//! | 8 | Outgoing-Call-Reply | begins | yes |
//! | 9 | Incoming-Call-Request | begins | |
//! | 10 | Incoming-Call-Reply | begins | yes |
//! | 11 | Incoming-Call-Connected | | yes |
//! | 12 | Call-Clear-Request | ends | |
//! | 13 | Call-Disconnect-Notify | ends | |
//! | 14 | WAN-Error-Notify | | yes |
//! | 15 | Set-Link-Info | | yes |

use crate::wire::{read_u8, read_u16, read_u32};

/// What a message does to its sender's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// The sender has a call of this number from now on.
    Begins,
    /// It has it no more.
    Ends,
}

/// What a message says about calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's call, and where in the payload its number is.
    pub own: Option<(Own, usize)>,
    /// Where in the payload the number of the receiver's call is.
    pub peer: Option<usize>,
}

/// Length of what every control message begins with: length, kind, magic cookie, type, reserved.
const HEADER: usize = 12;
/// The magic cookie.
const COOKIE: u32 = 0x1a2b_3c4d;
/// The longest message, Outgoing-Call-Request (2.7) or Start-Control-Connection-Request (2.1), is shorter.
const LONGEST: usize = 256;
/// The result code of replies that says a call was made.
const CONNECTED: u8 = 1;

/// The control messages of a payload that begins with one, in order.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    payload: &'a [u8],
    at: usize,
}

/// The rest of the payload is the beginning of a message about calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial;

impl<'a> Messages<'a> {
    /// Those of a payload.
    pub fn of(payload: &'a [u8]) -> Messages<'a> {
        Messages { payload, at: 0 }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, Partial>;

    /// The next message that is about calls.
    fn next(&mut self) -> Option<Result<Message, Partial>> {
        loop {
            let at = self.at;
            let rest = self.payload.get(at..).filter(|rest| rest.len() >= HEADER)?;
            let length = usize::from(read_u16(rest, 0));
            let is_control = read_u16(rest, 2) == 1 && read_u32(rest, 4) == COOKIE;
            if !is_control || !(HEADER..=LONGEST).contains(&length) {
                self.at = self.payload.len();
                return None;
            }
            self.at += length;
            let kind = read_u16(rest, 8);
            if !(7..=15).contains(&kind) {
                continue;
            }
            let Some(message) = rest.get(..length) else {
                return Some(Err(Partial));
            };
            if let Some(found) = message_of(kind, message, at) {
                return Some(Ok(found));
            }
        }
    }
}

/// A whole message at `at`; `None` if it is too short for its kind.
fn message_of(kind: u16, message: &[u8], at: usize) -> Option<Message> {
    let (first, second) = (at + HEADER, at + HEADER + 2);
    let begins = Some((Own::Begins, first));
    let (own, peer, least) = match kind {
        7 | 9 => (begins, None, HEADER + 2),
        8 | 10 if message.get(16) == Some(&CONNECTED) => (begins, Some(second), HEADER + 5),
        8 | 10 => (None, Some(second), HEADER + 5),
        11 | 14 | 15 => (None, Some(first), HEADER + 2),
        _ => (Some((Own::Ends, first)), None, HEADER + 2),
    };
    (message.len() >= least).then_some(Message { own, peer })
}

/// A number in the payload; 0 stands for no call.
pub fn number(payload: &[u8], at: usize) -> Option<u16> {
    let [high, low] = [read_u8(payload, at), read_u8(payload, at + 1)];
    let number = u16::from_be_bytes([high, low]);
    (number != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, length: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(length.to_be_bytes());
        bytes.extend(1u16.to_be_bytes());
        bytes.extend(COOKIE.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(body);
        bytes.resize(usize::from(length), 0);
        bytes
    }

    fn read(payload: &[u8]) -> Vec<Result<Message, Partial>> {
        Messages::of(payload).collect()
    }

    #[test]
    fn every_kind_is_read() {
        use Own::*;
        let refused = [0, 0, 0, 9, 2];
        for (kind, length, body, own, peer) in [
            (7, 168, &[1, 2][..], Some((Begins, 12)), None),
            (8, 32, &[1, 2, 3, 4, 1], Some((Begins, 12)), Some(14)),
            (8, 32, &refused, None, Some(14)),
            (9, 220, &[1, 2], Some((Begins, 12)), None),
            (10, 24, &[1, 2, 3, 4, 1], Some((Begins, 12)), Some(14)),
            (11, 28, &[1, 2], None, Some(12)),
            (12, 16, &[1, 2], Some((Ends, 12)), None),
            (13, 148, &[1, 2], Some((Ends, 12)), None),
            (14, 40, &[1, 2], None, Some(12)),
            (15, 24, &[1, 2], None, Some(12)),
        ] {
            let bytes = message(kind, length, body);
            assert_eq!(read(&bytes), [Ok(Message { own, peer })], "{kind}");
            assert_eq!(read(&bytes[..bytes.len() - 1]), [Err(Partial)], "{kind}");
        }
        for kind in [1, 2, 3, 4, 5, 6, 16] {
            assert_eq!(read(&message(kind, 16, &[])), []);
        }
        assert_eq!(read(&message(8, 13, &[])), [], "too short for its kind");
        assert_eq!(number(&[0, 0, 7], 0), None);
        assert_eq!(number(&[0, 0, 7], 1), Some(7));
    }

    #[test]
    fn messages_follow_each_other() {
        let all = [
            message(5, 16, &[]),
            message(7, 168, &[0, 1]),
            message(12, 16, &[0, 1]),
        ]
        .concat();
        let at: Vec<_> = read(&all)
            .into_iter()
            .map(|m| m.unwrap().own.unwrap().1)
            .collect();
        assert_eq!(at, [16 + 12, 16 + 168 + 12]);
        let mut foreign = all.clone();
        foreign[4] ^= 1;
        assert_eq!(read(&foreign), [], "no cookie");
        assert_eq!(read(&all[3..]), [], "not the beginning");
    }

    proptest! {
        #[test]
        fn any_bytes(kinds in proptest::collection::vec((0u16..18, 0u16..40), 0..6), cut in 0usize..200) {
            let mut bytes: Vec<u8> = kinds.iter().flat_map(|(kind, length)| message(*kind, *length, &[])).collect();
            bytes.truncate(cut);
            for found in read(&bytes).into_iter().flatten() {
                for at in found.own.map(|own| own.1).into_iter().chain(found.peer) {
                    prop_assert!(at + 2 <= bytes.len());
                }
            }
        }
    }

    #[test]
    fn messages_have_a_length_that_their_kind_can_have() {
        for (kind, least) in [
            (7, 14),
            (8, 17),
            (9, 14),
            (10, 17),
            (11, 14),
            (12, 14),
            (15, 14),
        ] {
            let found = |length| read(&message(kind, length, &[])).len();
            assert_eq!((found(least - 1), found(least)), (0, 1), "{kind}");
        }
        // One that is shorter than any, or longer, ends what can be read.
        for (length, read_on) in [(11, false), (12, true), (256, true), (257, false)] {
            let mut bytes = message(1, length, &[]);
            bytes.extend(message(12, 16, &[0, 1]));
            let found = read(&bytes).len();
            assert_eq!(found, usize::from(read_on), "{length}");
        }
        let bytes = message(12, 16, &[0, 1]);
        assert_eq!(read(&bytes[..HEADER]), [Err(Partial)]);
        assert_eq!(read(&bytes[..HEADER - 1]), []);
        let mut reply = message(8, 32, &[0; 5]);
        reply[2..4].copy_from_slice(&2u16.to_be_bytes());
        assert_eq!(read(&reply), [], "no control message");
    }
}
