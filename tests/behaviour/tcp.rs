//! TCP as RFC 5382 and RFC 7857 want it: who may end a session, when, and what is answered.

use etherparse::PacketBuilder;
use natgate::base::DropReason;
use natgate::wire::tcp::{ACK, FIN, RST, SYN};

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);
const WEB: End = ("203.0.113.9", 80);
const PUBLIC: End = ("203.0.113.1", 40000);

const MINUTE: u64 = 60_000;
/// Beyond every transitory timer.
const TRANSITORY: u64 = 4 * MINUTE + 1_000;

/// First sequence numbers of client and server, one of them about to wrap.
const CLIENT_START: u32 = u32::MAX - 10;
const SERVER_START: u32 = 700_000_000;

/// A segment with sequence and acknowledgment number.
fn segment(port: PortId, from: End, to: End, flags: u8, sequence: u32, ack: u32) -> Vec<u8> {
    let mut builder = PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, port.0 as u8])
        .ipv4(ip(from.0).octets(), ip(to.0).octets(), 64)
        .tcp(from.1, to.1, sequence, 1024);
    builder = if flags & SYN != 0 {
        builder.syn()
    } else {
        builder
    };
    builder = if flags & FIN != 0 {
        builder.fin()
    } else {
        builder
    };
    builder = if flags & RST != 0 {
        builder.rst()
    } else {
        builder
    };
    builder = if flags & ACK != 0 {
        builder.ack(ack)
    } else {
        builder
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// The client's segment `offset` bytes into the connection, acknowledging `acked` bytes.
fn client(flags: u8, offset: u32, acked: u32) -> Vec<u8> {
    let sequence = CLIENT_START.wrapping_add(offset);
    segment(
        LAN,
        CLIENT,
        WEB,
        flags,
        sequence,
        SERVER_START.wrapping_add(acked),
    )
}

fn server(flags: u8, offset: u32, acked: u32) -> Vec<u8> {
    let sequence = SERVER_START.wrapping_add(offset);
    segment(
        WAN,
        WEB,
        PUBLIC,
        flags,
        sequence,
        CLIENT_START.wrapping_add(acked),
    )
}

/// A lab with one established connection.
fn established(workers: u8, at: u8) -> Rack {
    let mut rack = lab(workers, MASQUERADE);
    one(&mut rack, at, LAN, &client(SYN, 0, 0));
    one(&mut rack, at, WAN, &server(SYN | ACK, 0, 1));
    one(&mut rack, at, LAN, &client(ACK, 1, 1));
    rack
}

fn disbelieved(rack: &Rack) -> u64 {
    rack.shards
        .iter()
        .map(|s| s.nat.counts.tcp_disbelieved)
        .sum()
}

/// Lets time pass, and says whether the session is still there.
fn lives(rack: &mut Rack, millis: u64) -> bool {
    rack.advance(millis);
    rack.maintain();
    rack.sessions() == 1
}

// Proves: P2.2, T12.
#[test]
fn a_forged_reset_passes_and_changes_nothing() {
    everywhere(|workers, at| {
        for offset in [1 << 31, 1 << 24, 0u32.wrapping_sub(1 << 20)] {
            let mut rack = established(workers, at);
            one(&mut rack, at, WAN, &server(RST, offset, 0));
            one(&mut rack, at, WAN, &server(RST | ACK, offset, 1));
            assert_eq!(disbelieved(&rack), 2, "RFC 7857 section 2.2");
            assert!(lives(&mut rack, 60 * MINUTE));
            // Nor may it prepare its ground: a segment from afar moves nothing.
            one(&mut rack, at, WAN, &server(ACK, offset, 1));
            one(&mut rack, at, WAN, &server(RST, offset, 0));
            assert!(lives(&mut rack, 60 * MINUTE));
        }
    });
}

// Proves: P2.2, P7.1.
#[test]
fn a_real_reset_ends_the_session_after_four_minutes_of_silence() {
    everywhere(|workers, at| {
        for (port, reset) in [(WAN, server(RST, 1, 0)), (LAN, client(RST | ACK, 1, 1))] {
            let mut rack = established(workers, at);
            rack.advance(MINUTE);
            one(&mut rack, at, port, &reset);
            // More resets do not put off its end.
            assert!(lives(&mut rack, 3 * MINUTE));
            one(&mut rack, at, port, &reset);
            assert!(!lives(&mut rack, MINUTE + 1_000));
        }
    });
}

// Proves: P2, P2.2.
#[test]
fn data_after_a_reset_restores_the_session() {
    everywhere(|workers, at| {
        for (port, data) in [(LAN, client(ACK, 1, 1)), (WAN, server(ACK, 1, 1))] {
            let mut rack = established(workers, at);
            one(&mut rack, at, WAN, &server(RST, 1, 0));
            assert!(lives(&mut rack, 3 * MINUTE));
            one(&mut rack, at, port, &data);
            assert!(lives(&mut rack, 60 * MINUTE));
        }
    });
}

// Proves: T12.
#[test]
fn the_window_moves_with_the_connection() {
    everywhere(|workers, at| {
        let mut rack = established(workers, at);
        // 200 MB from the server, a few megabytes between acknowledgments; its segments come first in each tick.
        for step in 1..=50u32 {
            rack.advance(1_000);
            one(&mut rack, at, WAN, &server(ACK, step * 4_000_000, 1));
            one(&mut rack, at, LAN, &client(ACK, 1, step * 4_000_000));
        }
        one(&mut rack, at, WAN, &server(RST, 1, 0));
        assert_eq!(disbelieved(&rack), 1, "where the connection was long ago");
        one(&mut rack, at, WAN, &server(RST, 200_000_500, 0));
        assert!(!lives(&mut rack, TRANSITORY));
    });
}

// Proves: T2, T12.
#[test]
fn a_forged_fin_does_not_close_the_other_half() {
    everywhere(|workers, at| {
        let mut rack = established(workers, at);
        one(&mut rack, at, LAN, &client(FIN | ACK, 1, 1));
        one(&mut rack, at, WAN, &server(FIN | ACK, 1 << 30, 2));
        // Half-closed: the server may go on sending for hours.
        assert!(lives(&mut rack, 60 * MINUTE));
        one(&mut rack, at, WAN, &server(FIN | ACK, 1000, 2));
        assert!(!lives(&mut rack, TRANSITORY));
    });
}

// Proves: T2a.
#[test]
fn both_may_open_at_once() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        one(&mut rack, at, LAN, &client(SYN, 0, 0));
        one(&mut rack, at, WAN, &server(SYN, 0, 0));
        one(&mut rack, at, LAN, &client(SYN | ACK, 0, 1));
        one(&mut rack, at, WAN, &server(SYN | ACK, 0, 1));
        assert!(lives(&mut rack, 60 * MINUTE), "RFC 5382 REQ-2a");
    });
}

// Proves: T2, T11.
#[test]
fn ports_of_a_closed_connection_open_the_next_from_either_side() {
    let forward = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndport = \"80\"\nto = \"10.0.0.2:80\"\n"
    );
    let (caller, called, inside) = (("203.0.113.9", 5555), ("203.0.113.1", 80), ("10.0.0.2", 80));
    everywhere(|workers, at| {
        let mut rack = lab(workers, &forward);
        for start in [1_000u32, 3_000_000_000] {
            let theirs = |flags, at: u32, ack| segment(WAN, caller, called, flags, start + at, ack);
            let ours = |flags, at, ack: u32| segment(LAN, inside, caller, flags, at, start + ack);
            one(&mut rack, at, WAN, &theirs(SYN, 0, 0));
            one(&mut rack, at, LAN, &ours(SYN | ACK, 50, 1));
            one(&mut rack, at, WAN, &theirs(ACK, 1, 51));
            assert!(lives(&mut rack, 60 * MINUTE), "established");
            one(&mut rack, at, WAN, &theirs(FIN | ACK, 1, 51));
            one(&mut rack, at, LAN, &ours(FIN | ACK, 51, 2));
        }
        assert!(!lives(&mut rack, TRANSITORY), "closed");
    });
}

// Proves: T4.
#[test]
fn an_unsolicited_syn_is_answered_after_six_seconds() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        let sent = rack.receive(WorkerId(at), WAN, &[&server(SYN, 0, 0)]);
        assert!(sent.is_empty(), "RFC 5382 REQ-4");
        balanced(&rack);
        rack.advance(5_900);
        assert!(rack.maintain().is_empty());
        rack.advance(200);
        let answer = rack.maintain();
        assert_eq!(seen(&answer[0]).payload[..2], [3, 3], "port unreachable");
        assert_eq!((answer.len(), rack.drops(DropReason::OwnService)), (1, 1));
        balanced(&rack);
    });
}

// Proves: T4, T2a.
#[test]
fn an_unsolicited_syn_is_forgotten_when_the_inside_calls_meanwhile() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        rack.receive(WorkerId(at), WAN, &[&server(SYN, 0, 0)]);
        rack.advance(3_000);
        one(&mut rack, at, LAN, &client(SYN, 0, 0));
        rack.advance(4_000);
        assert!(rack.maintain().is_empty());
        assert_eq!(rack.drops(DropReason::TcpSynCrossed), 1);
        balanced(&rack);
        // The far end repeats its SYN: a simultaneous open.
        one(&mut rack, at, WAN, &server(SYN, 0, 0));
        one(&mut rack, at, LAN, &client(SYN | ACK, 0, 1));
        assert!(lives(&mut rack, 60 * MINUTE));
    });
}

// Proves: T4, T4a.
#[test]
fn a_filtered_syn_waits_where_the_policy_answers_and_a_flood_is_bounded() {
    let rules = format!(
        "{MASQUERADE}[filter]\ndefault = \"reject\"\n[[filter.rule]]\nin = \"lan0\"\naction = \"accept\"\n"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &rules);
        one(&mut rack, at, LAN, &client(SYN, 0, 0));
        for remote in 0..2_000u16 {
            let syn = segment(WAN, ("203.0.113.10", 1024 + remote), PUBLIC, SYN, 7, 0);
            assert!(rack.receive(WorkerId(at), WAN, &[&syn]).is_empty());
        }
        let held: u64 = rack.shards.iter().map(|s| s.held()).sum();
        assert_eq!(held, 256);
        assert_eq!(rack.drops(DropReason::Filtered), 2_000 - held, "silently");
        balanced(&rack);
        rack.advance(6_100);
        let answers = rack.maintain();
        assert!(answers.iter().all(|a| seen(a).payload[..2] == [3, 3]));
        assert!(!answers.is_empty());
        assert_eq!(rack.drops(DropReason::Filtered), 2_000);
        balanced(&rack);
    });
}

// Proves: T11.
#[test]
fn a_connection_is_picked_up_in_the_middle_where_that_is_wanted() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, MASQUERADE);
        dropped(
            &mut rack,
            at,
            LAN,
            &client(ACK, 1, 1),
            DropReason::TcpNoSession,
        );
        let mut rack = natgate_with(workers, "tcp_pickup = true");
        let out = one(&mut rack, at, LAN, &client(ACK, 1, 1));
        assert_eq!(out.source, (ip(PUBLIC.0), PUBLIC.1));
        one(&mut rack, at, WAN, &server(ACK, 1, 1));
        assert!(lives(&mut rack, 60 * MINUTE), "established");
        let stray = segment(LAN, ("10.0.0.3", 5), WEB, RST, 1, 0);
        dropped(&mut rack, at, LAN, &stray, DropReason::TcpNoSession);
    });
}

fn natgate_with(workers: u8, system: &str) -> Rack {
    rack(&lab_text(workers, MASQUERADE, system))
}

// Proves: P2.1, T5a.
#[test]
fn opening_closing_and_reset_have_timers_of_their_own() {
    let timers = format!(
        "{MASQUERADE}[timeouts]\ntcp_opening = \"20s\"\ntcp_closing = \"5m\"\ntcp_reset = \"6m\"\n"
    );
    everywhere(|workers, at| {
        let mut rack = lab(workers, &timers);
        one(&mut rack, at, LAN, &client(SYN, 0, 0));
        assert!(lives(&mut rack, 19_000));
        assert!(!lives(&mut rack, 2_000), "opening");

        let open = |rack: &mut Rack| {
            one(rack, at, LAN, &client(SYN, 0, 0));
            one(rack, at, WAN, &server(SYN | ACK, 0, 1));
            one(rack, at, LAN, &client(ACK, 1, 1));
        };
        let mut rack = lab(workers, &timers);
        open(&mut rack);
        one(&mut rack, at, LAN, &client(FIN | ACK, 1, 1));
        one(&mut rack, at, WAN, &server(FIN | ACK, 1, 2));
        assert!(lives(&mut rack, 5 * MINUTE - 1_000));
        assert!(!lives(&mut rack, 2_000), "closing");

        let mut rack = lab(workers, &timers);
        open(&mut rack);
        one(&mut rack, at, WAN, &server(RST, 1, 0));
        assert!(lives(&mut rack, 6 * MINUTE - 1_000));
        assert!(!lives(&mut rack, 2_000), "reset");
    });
}
