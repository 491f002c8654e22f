//! The TCP life of a session: the state machine of RFC 7857 §2 (figure 1), driven by flags; which segments are believed
//! is the business of [`super::window`].
//!
//! ```text
//!   SYN          SYN+ACK         ACK of the opener
//!   ──▶ Opening ──▶ Answered ──▶ Established ──FIN──▶ ClientFin / ServerFin ──FIN──▶ Closing
//!                                     ▲  │RST (any state)
//!                                     │  ▼
//!                              data ── Reset
//! ```
//!
//! Opening, Closing and Reset run on timers of their own (RFC 5382 REQ-5, RFC 7857 §2.1); a half-closed connection keeps the
//! established one, because the other side may still send for hours. A segment without RST after a reset shows that the
//! reset was not the end and restores the connection (RFC 7857 §2.2).

use crate::flow::session::{Direction, State};

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// ACK.
pub const ACK: u8 = 0x10;

/// The state of a new session from its first segment. A segment in mid-connection (after a restart of the gateway, or of
/// a flow that is only routed) counts as established.
pub fn opening(flags: u8) -> State {
    if flags & RST != 0 {
        State::TcpReset
    } else if flags & (SYN | ACK) == SYN {
        State::TcpOpening
    } else {
        State::TcpEstablished
    }
}

/// The state after a segment with `flags` travelled in `direction`.
///
/// An outside host must not be able to shorten the life of a connection with one forged packet: a reset only leads to
/// [`State::TcpReset`], whose timer is the transitory one, and any later segment leads back.
#[inline(always)]
pub fn advance(state: State, flags: u8, direction: Direction) -> State {
    if state == State::TcpEstablished && flags & (FIN | SYN | RST) == 0 {
        return state;
    }
    step(state, flags, direction)
}

/// [`advance`] for what is not data of an established connection.
// Implements: T2, T2a, P2, T11.
fn step(state: State, flags: u8, direction: Direction) -> State {
    use State::*;
    if state == Expected {
        return state;
    }
    if flags & RST != 0 {
        return TcpReset;
    }
    match (state, direction) {
        // With an ACK, or without one in a simultaneous open (RFC 5382 REQ-2a), which the next ACK completes.
        (TcpOpening, Direction::Reverse) if flags & SYN != 0 => TcpAnswered,
        // An answer that is no SYN: the state was lost or the opener's path is asymmetric.
        (TcpOpening, Direction::Reverse) if flags & ACK != 0 => TcpEstablished,
        (TcpOpening, _) => TcpOpening,
        (TcpAnswered, Direction::Forward) if flags & (SYN | ACK) == ACK => {
            with_fin(TcpEstablished, flags, direction)
        }
        (TcpAnswered, Direction::Forward) if flags & (SYN | ACK) == SYN | ACK => TcpEstablished,
        (TcpAnswered, _) => TcpAnswered,
        // A fresh SYN of the client after both sides closed opens the same tuple anew.
        (TcpClosing | TcpReset, Direction::Forward) if flags & (SYN | ACK) == SYN => TcpOpening,
        // The same from a client whose SYN cannot be judged: the server's answer shows that it took it.
        (TcpClosing | TcpReset, Direction::Reverse) if flags & (SYN | ACK) == SYN | ACK => {
            TcpAnswered
        }
        (TcpReset, _) => with_fin(TcpEstablished, flags, direction),
        (other, _) => with_fin(other, flags, direction),
    }
}

/// Applies a FIN, if there is one.
fn with_fin(state: State, flags: u8, direction: Direction) -> State {
    use State::*;
    if flags & FIN == 0 {
        return state;
    }
    match (state, direction) {
        (TcpEstablished, Direction::Forward) => TcpClientFin,
        (TcpEstablished, Direction::Reverse) => TcpServerFin,
        (TcpClientFin, Direction::Reverse) | (TcpServerFin, Direction::Forward) => TcpClosing,
        (other, _) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Forward, Reverse};
    use State::*;

    /// Runs a list of segments and returns the states passed through.
    fn run(segments: &[(u8, Direction)]) -> Vec<State> {
        let mut states = vec![opening(segments[0].0)];
        for &(flags, direction) in &segments[1..] {
            let last = states[states.len() - 1];
            states.push(advance(last, flags, direction));
        }
        states
    }

    // Proves: P2.
    #[test]
    fn ordinary_connection() {
        assert_eq!(
            run(&[
                (SYN, Forward),
                (SYN | ACK, Reverse),
                (ACK, Forward),
                (ACK, Reverse),
                (FIN | ACK, Forward),
                (ACK, Reverse),
                (FIN | ACK, Reverse),
                (ACK, Forward),
            ]),
            [
                TcpOpening,
                TcpAnswered,
                TcpEstablished,
                TcpEstablished,
                TcpClientFin,
                TcpClientFin,
                TcpClosing,
                TcpClosing
            ]
        );
    }

    #[test]
    fn simultaneous_open_establishes() {
        assert_eq!(
            run(&[
                (SYN, Forward),
                (SYN, Reverse),
                (SYN | ACK, Forward),
                (ACK, Reverse)
            ]),
            [TcpOpening, TcpAnswered, TcpEstablished, TcpEstablished]
        );
    }

    #[test]
    fn reset_is_survived_by_data() {
        assert_eq!(
            run(&[
                (SYN, Forward),
                (SYN | ACK, Reverse),
                (ACK, Forward),
                (RST, Reverse),
                (ACK, Reverse)
            ]),
            [
                TcpOpening,
                TcpAnswered,
                TcpEstablished,
                TcpReset,
                TcpEstablished
            ]
        );
    }

    #[test]
    fn tuple_reused_after_close_opens_again() {
        assert_eq!(advance(TcpClosing, SYN, Forward), TcpOpening);
        assert_eq!(
            advance(TcpClosing, SYN, Reverse),
            TcpClosing,
            "only the client may reopen"
        );
    }

    #[test]
    fn server_closing_first() {
        assert_eq!(advance(TcpEstablished, FIN | ACK, Reverse), TcpServerFin);
        assert_eq!(
            advance(TcpServerFin, FIN | ACK, Reverse),
            TcpServerFin,
            "a retransmitted FIN counts once"
        );
        assert_eq!(advance(TcpServerFin, FIN | ACK, Forward), TcpClosing);
    }

    // Proves: P2, T2a.
    #[test]
    fn every_segment_leads_where_the_state_machine_says() {
        const NONE: u8 = 0;
        for (state, flags, forward, reverse) in [
            (TcpOpening, SYN, TcpOpening, TcpAnswered),
            (TcpOpening, SYN | ACK, TcpOpening, TcpAnswered),
            (TcpOpening, ACK, TcpOpening, TcpEstablished),
            (TcpOpening, FIN, TcpOpening, TcpOpening),
            (TcpOpening, NONE, TcpOpening, TcpOpening),
            (TcpAnswered, SYN, TcpAnswered, TcpAnswered),
            (TcpAnswered, SYN | ACK, TcpEstablished, TcpAnswered),
            (TcpAnswered, ACK, TcpEstablished, TcpAnswered),
            (TcpAnswered, FIN | ACK, TcpClientFin, TcpAnswered),
            (TcpAnswered, FIN, TcpAnswered, TcpAnswered),
            (TcpEstablished, SYN, TcpEstablished, TcpEstablished),
            (TcpEstablished, ACK, TcpEstablished, TcpEstablished),
            (TcpEstablished, FIN, TcpClientFin, TcpServerFin),
            (TcpClientFin, ACK, TcpClientFin, TcpClientFin),
            (TcpClientFin, FIN, TcpClientFin, TcpClosing),
            (TcpServerFin, FIN, TcpClosing, TcpServerFin),
            (TcpClosing, ACK, TcpClosing, TcpClosing),
            (TcpClosing, FIN, TcpClosing, TcpClosing),
            (TcpClosing, SYN, TcpOpening, TcpClosing),
            (TcpClosing, SYN | ACK, TcpClosing, TcpAnswered),
            (TcpReset, ACK, TcpEstablished, TcpEstablished),
            (TcpReset, FIN | ACK, TcpClientFin, TcpServerFin),
            (TcpReset, SYN, TcpOpening, TcpEstablished),
            (TcpReset, SYN | ACK, TcpEstablished, TcpAnswered),
            (Expected, SYN, Expected, Expected),
            (Expected, RST, Expected, Expected),
        ] {
            let led = [Forward, Reverse].map(|way| advance(state, flags, way));
            assert_eq!(led, [forward, reverse], "{state:?} {flags:#x}");
        }
        for state in State::LIVE.into_iter().filter(|s| *s != Expected) {
            for flags in [RST, RST | ACK, RST | SYN, RST | SYN | FIN] {
                let led = [Forward, Reverse].map(|way| advance(state, flags, way));
                assert_eq!(led, [TcpReset, TcpReset], "{state:?}");
            }
        }
    }

    #[test]
    fn the_first_segment_says_how_far_a_connection_is() {
        for (flags, state) in [
            (SYN, TcpOpening),
            (SYN | FIN, TcpOpening),
            (SYN | ACK, TcpEstablished),
            (ACK, TcpEstablished),
            (0, TcpEstablished),
            (RST, TcpReset),
            (RST | SYN, TcpReset),
            (RST | ACK, TcpReset),
        ] {
            assert_eq!(opening(flags), state, "{flags:#x}");
        }
    }
}
