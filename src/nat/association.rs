//! The SCTP life of a session, driven by the chunks of [`crate::wire::sctp`].
//!
//! ```text
//!   any packet        any answer           ABORT, SHUTDOWN COMPLETE
//!   ──▶ SctpOpening ──▶ SctpEstablished ──▶ SctpClosing
//!            ▲                                   │ INIT
//!            └───────────────────────────────────┘
//! ```
//!
//! Opening and closing run on the transitory timer, an established association on `timeouts.sctp`, which its heartbeats (one
//! in 30 s, RFC 9260 section 16) keep it from. An association with several addresses is several flows, each by itself.
//!
//! **Whom to believe.** The inside, always. An end from outside has to carry the verification tag that packets to the inside
//! carry, or, reflected, the one that packets from there carry (RFC 9260 section 8.5.1). The first is noted from the
//! inside's INIT or INIT ACK, the second from any packet of its; while nothing is noted, everything is believed. What is not
//! believed is translated and sent on all the same.

use crate::base::Tick;
use crate::flow::session::{Direction, SessionIndex, State};
use crate::nat::family::Family;
use crate::nat::state::Nat;
use crate::nat::window::Numbers;
use crate::wire::parse::{Parsed, Transport};
use crate::wire::sctp::{Event, Told};

/// The state after a packet that tells `event` travelled in `direction`.
fn advance(state: State, event: Event, direction: Direction) -> State {
    use State::*;
    match (state, event) {
        (Expected, _) => Expected,
        (_, Event::End { .. }) => SctpClosing,
        (SctpClosing, Event::Init(_)) => SctpOpening,
        // Repeated, it is no answer either.
        (SctpOpening, Event::Init(_)) => SctpOpening,
        (SctpOpening, _) if direction == Direction::Reverse => SctpEstablished,
        _ => state,
    }
}

impl<A: Family> Nat<A> {
    /// [`Nat::touch`] for any packet: what is to be known of it is read from `frame`.
    #[inline]
    pub fn saw(
        &mut self,
        index: SessionIndex,
        direction: Direction,
        packet: &Parsed,
        frame: &[u8],
        tick: Tick,
    ) {
        if packet.transport == Transport::Sctp {
            let segment = frame.get(usize::from(packet.l4)..packet.end());
            let told = Told::read(segment.unwrap_or(&[]));
            return self.associate(index, direction, told, tick);
        }
        let numbers = || Numbers::read(frame, usize::from(packet.l4));
        self.touch(
            index,
            direction,
            packet.transport,
            packet.tcp_flags,
            tick,
            numbers,
        );
    }

    /// Records an SCTP packet in its session: state, tags, and activity, where the inside shows it or no port is held.
    fn associate(&mut self, index: SessionIndex, direction: Direction, told: Told, tick: Tick) {
        let Some(session) = self.sessions.get_mut(index.0) else {
            return;
        };
        if session.is_kept_alive(direction) {
            session.last_seen = tick.0;
        }
        let (state, from_inside) = (session.state, session.from_inside(direction));
        if from_inside {
            self.windows.note_tags(index, told);
        } else if !self.windows.believes_end(index, told) {
            return;
        }
        let next = advance(state, told.event, direction);
        if next != state {
            self.set_state(index, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reverse};
    use State::*;

    const END: Event = Event::End { reflected: false };

    #[test]
    fn ordinary_association() {
        let packets = [
            (Event::Init(1), Forward, SctpOpening),
            (Event::InitAck(2), Reverse, SctpEstablished),
            (Event::None, Forward, SctpEstablished),
            (Event::Init(1), Forward, SctpEstablished),
            (END, Forward, SctpClosing),
            (Event::None, Reverse, SctpClosing),
            (Event::Init(3), Forward, SctpOpening),
            (Event::Init(3), Forward, SctpOpening),
            (Event::InitAck(4), Reverse, SctpEstablished),
            (END, Reverse, SctpClosing),
            (Event::Init(5), Reverse, SctpOpening),
            (Event::Init(5), Reverse, SctpOpening),
            (Event::InitAck(6), Forward, SctpOpening),
            (Event::None, Reverse, SctpEstablished),
        ];
        let mut state = SctpOpening;
        for (n, (event, direction, expected)) in packets.into_iter().enumerate() {
            state = advance(state, event, direction);
            assert_eq!(state, expected, "packet {n}");
        }
        assert_eq!(advance(SctpOpening, END, Reverse), SctpClosing, "refused");
        assert_eq!(
            advance(Expected, END, Forward),
            Expected,
            "it has no packets"
        );
    }
}
