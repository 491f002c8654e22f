//! A new flow that cannot be had is dropped with its own reason; nobody else notices (RFC 6888 REQ-11d).

use natgate::base::DropReason;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;

use crate::common::*;
use crate::*;

const CLIENTS: [End; 4] = [
    ("10.0.0.2", 40000),
    ("10.0.0.3", 40000),
    ("10.0.0.4", 40000),
    ("10.0.0.5", 40000),
];

// Proves: G11a, G11d, P4.
#[test]
fn a_full_pool_refuses_and_existing_flows_go_on() {
    let mut rack = lab(1, &pool("ports = \"2000-2001\"\nhold = \"10s\""));
    let first = one(&mut rack, 0, LAN, &call(CLIENTS[0])).source;
    let second = one(&mut rack, 0, LAN, &call(CLIENTS[1])).source;
    let mut ports = [first.1, second.1];
    ports.sort_unstable();
    assert_eq!(ports, [2000, 2001]);
    for late in &CLIENTS[2..] {
        dropped(&mut rack, 0, LAN, &call(*late), DropReason::NoPort);
        works(&mut rack, 0, CLIENTS[0], first);
        works(&mut rack, 0, CLIENTS[1], second);
    }
    assert_eq!(rack.sessions(), 2, "a refusal leaves nothing behind");
    let again = udp(LAN, CLIENTS[0], ("203.0.113.10", 7), b"same mapping");
    assert_eq!(
        one(&mut rack, 0, LAN, &again).source,
        first,
        "a mapping needs no second port"
    );
}

// Proves: G8.
#[test]
fn ports_return_after_expiry_and_rest() {
    let mut rack = lab(1, &pool("ports = \"2000-2001\"\nhold = \"10s\""));
    one(&mut rack, 0, LAN, &call(CLIENTS[0]));
    let kept = one(&mut rack, 0, LAN, &call(CLIENTS[1])).source;
    rack.advance(100_000);
    works(&mut rack, 0, CLIENTS[1], kept);
    rack.advance(25_000);
    rack.maintain();
    assert_eq!(rack.sessions(), 1, "unanswered UDP lives for two minutes");
    dropped(&mut rack, 0, LAN, &call(CLIENTS[2]), DropReason::NoPort);
    rack.advance(11_000);
    rack.maintain();
    let reused = one(&mut rack, 0, LAN, &call(CLIENTS[2])).source;
    assert_ne!(reused, kept);
    works(&mut rack, 0, CLIENTS[1], kept);
}

// Proves: G11b.
#[test]
fn exhaustion_tells_the_client_where_asked_to() {
    let mut rack = lab(1, &pool("ports = \"2000-2000\"\nexhaustion = \"icmp\""));
    let first = one(&mut rack, 0, LAN, &call(CLIENTS[0])).source;
    let refused = call(CLIENTS[1]);
    let error = one(&mut rack, 0, LAN, &refused);
    assert_eq!(
        (error.port, error.source.0, error.destination.0),
        (LAN, ip("10.0.0.1"), ip("10.0.0.3"))
    );
    assert_eq!(
        error.payload[..2],
        [3, 1],
        "host unreachable (RFC 6888 REQ-11b)"
    );
    assert_eq!(
        error.payload[8..],
        refused[14..],
        "quoting the packet as sent"
    );
    assert_eq!(rack.drops(DropReason::NoPort), 1);
    works(&mut rack, 0, CLIENTS[0], first);
}

// Proves: G4, G4a.
#[test]
fn block_quota_binds_one_host_only() {
    let keys = "ports = \"2048-2063\"\nblock = { size = 4, max_per_host = 2 }";
    let mut rack = lab(1, &pool(keys));
    let mut taken = Vec::new();
    for port in 0..8 {
        taken.push(one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000 + port))).source);
    }
    dropped(
        &mut rack,
        0,
        LAN,
        &call(("10.0.0.2", 5008)),
        DropReason::QuotaBlocks,
    );
    for port in 0..8 {
        taken.push(one(&mut rack, 0, LAN, &call(("10.0.0.3", 5000 + port))).source);
    }
    dropped(
        &mut rack,
        0,
        LAN,
        &call(("10.0.0.4", 5000)),
        DropReason::NoBlock,
    );
    for (i, public) in taken.iter().enumerate() {
        let host = ["10.0.0.2", "10.0.0.3"][i / 8];
        works(&mut rack, 0, (host, 5000 + (i % 8) as u16), *public);
    }
    let distinct: std::collections::BTreeSet<_> = taken.iter().collect();
    assert_eq!(distinct.len(), 16, "no endpoint serves two");
    assert_eq!(rack.sessions(), 16);
}

// Proves: G5, G5a.
#[test]
fn sessions_per_host_bind_one_host_only() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(workers, MASQUERADE, "sessions_per_host = 2"));
        let first = one(&mut rack, at, LAN, &call(("10.0.0.2", 5000))).source;
        one(&mut rack, at, LAN, &call(("10.0.0.2", 5001)));
        dropped(
            &mut rack,
            at,
            LAN,
            &call(("10.0.0.2", 5002)),
            DropReason::SessionLimit,
        );
        one(&mut rack, at, LAN, &call(("10.0.0.3", 5000)));
        works(&mut rack, at, ("10.0.0.2", 5000), first);
        assert_eq!(rack.sessions(), 3);
        rack.advance(301_000);
        rack.maintain();
        assert_eq!(rack.sessions(), 0);
        one(&mut rack, at, LAN, &call(("10.0.0.2", 5002)));
    });
}

// Proves: G11d.
#[test]
fn a_full_session_table_evicts_nobody() {
    let policy = lab_policy(1, MASQUERADE);
    let mut size = ShardSize::small();
    size.nat.sessions = 4;
    let mut rack = Rack::new(policy, size, 1).unwrap();
    let ports = 5000..5004;
    let public: Vec<_> = ports
        .clone()
        .map(|port| one(&mut rack, 0, LAN, &call(("10.0.0.2", port))).source)
        .collect();
    for late in 6000..6020 {
        dropped(
            &mut rack,
            0,
            LAN,
            &call(("10.0.0.3", late)),
            DropReason::TableFull,
        );
    }
    assert_eq!(rack.sessions(), 4);
    for (port, public) in ports.zip(public) {
        works(&mut rack, 0, ("10.0.0.2", port), public);
    }
    rack.advance(301_000);
    rack.maintain();
    one(&mut rack, 0, LAN, &call(("10.0.0.3", 6000)));
    assert_eq!(rack.sessions(), 1);
}
