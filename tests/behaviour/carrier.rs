//! Worked example B, a carrier, with ten thousand subscribers on its fourteen workers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use natgate::base::DropReason;

use crate::common::*;
use crate::*;

const SUBSCRIBERS: u32 = 10_000;
/// Ports of a block.
const BLOCK: u16 = 512;
const REMOTE: End = ("192.0.2.9", 443);
const REMOTE_STRANGER: End = ("192.0.2.77", 5);

/// The example as it is shipped, on ports in memory, with more subscribers and as many more addresses.
fn example() -> Rack {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/example-b.toml");
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in [
        ("100.64.0.0/20", "100.64.0.0/18"),
        ("203.0.113.64-203.0.113.127", "203.0.113.0-203.0.113.127"),
        (
            "device = \"pci:0000:3b:00.0\"\nqueues = 14",
            "device = \"null:\"\nmac = \"02:00:00:00:01:00\"",
        ),
        (
            "device = \"pci:0000:3b:00.1\"\nqueues = 14",
            "device = \"null:\"\nmac = \"02:00:00:00:01:01\"",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    for (interface, address) in [("acc0", "100.127.255.0"), ("core0", "198.51.100.3")] {
        text += &format!(
            "[[neighbour]]\ninterface = \"{interface}\"\naddress = \"{address}\"\nmac = \"02:00:00:00:00:09\"\n"
        );
    }
    let policy = natgate::config::compile::compile_text("example-b", &text)
        .unwrap_or_else(|report| panic!("{report}"));
    let mut size = ShardSize::small();
    size.nat.sessions = 1 << 14;
    Rack::new(policy, size, 1).unwrap()
}

/// The n-th subscriber.
fn subscriber(n: u32) -> &'static str {
    let address = Ipv4Addr::from(u32::from(ip("100.64.0.1")) + n);
    Box::leak(address.to_string().into_boxed_str())
}

fn text(address: Ipv4Addr) -> &'static str {
    Box::leak(address.to_string().into_boxed_str())
}

// Proves: G2, G4, B1, U2, U3.
#[test]
fn ten_thousand_subscribers_get_a_block_each() {
    let mut rack = example();
    let workers = rack.policy.workers;
    assert_eq!(workers, 14);
    let at = |n: u32| (n % u32::from(workers)) as u8;
    let mut owners: BTreeMap<(Ipv4Addr, u16), u32> = BTreeMap::new();
    let mut flows = Vec::new();
    // One customer has an address, another's camera is forwarded to: neither is one of these.
    let ordinary = (0..)
        .filter(|n| !matches!(subscriber(*n), "100.64.15.250" | "100.64.3.9"))
        .take(SUBSCRIBERS as usize);
    for n in ordinary {
        let host = subscriber(n);
        let packets = [
            udp(LAN, (host, 5000), REMOTE, b"question"),
            tcp(LAN, (host, 5000), REMOTE, "S"),
            ping(LAN, host, REMOTE.0, 7),
        ];
        for (i, packet) in packets.iter().enumerate() {
            let out = one(&mut rack, at(n + i as u32), LAN, packet);
            let block = (out.source.0, (out.source.1 - 1024) / BLOCK);
            assert_eq!(*owners.entry(block).or_insert(n), n, "{block:?} serves two");
            assert!(out.source.0 != ip("203.0.113.100"), "somebody's own");
            if i == 0 {
                flows.push((host, out.source));
            }
        }
    }
    assert_eq!(owners.len(), SUBSCRIBERS as usize, "a block each");
    let subscribers: usize = rack.shards.iter().map(|s| s.nat.subscribers.len()).sum();
    assert_eq!(subscribers, SUBSCRIBERS as usize);
    assert_eq!(rack.sessions(), 3 * SUBSCRIBERS as usize);

    // Answers, and strangers (filtering = "endpoint"), find them from wherever they arrive.
    for (n, (host, public)) in (0..).zip(flows.iter().copied()) {
        for (shift, from) in [(3, REMOTE), (7, REMOTE_STRANGER)] {
            let packet = udp(WAN, from, (text(public.0), public.1), b"hello");
            let back = one(&mut rack, at(n + shift), WAN, &packet);
            assert_eq!((back.port, back.destination), (LAN, (ip(host), 5000)));
        }
    }

    // Neighbours call each other by their public addresses.
    for pair in flows.chunks(2).take(500) {
        let &[(caller, own), (callee, public)] = pair else {
            continue;
        };
        let call = udp(LAN, (caller, 5000), (text(public.0), public.1), b"call");
        let heard = one(&mut rack, 1, LAN, &call);
        assert_eq!((heard.source, heard.destination), (own, (ip(callee), 5000)));
    }

    // One of them wants everything and gets four blocks; nobody else notices.
    let (greedy, _) = flows[77];
    let mut ends = BTreeSet::new();
    let mut port = 10_000;
    let quota = loop {
        let sent = send(
            &mut rack,
            5,
            LAN,
            &udp(LAN, (greedy, port), REMOTE, b"more"),
        );
        if rack.drops(DropReason::QuotaBlocks) > 0 {
            break ends.len();
        }
        ends.insert(seen(&sent[0]).source);
        port += 1;
    };
    assert_eq!(quota, 4 * usize::from(BLOCK) - 1, "beside the first flow");
    for (host, public) in flows.iter().copied().take(200) {
        let out = one(&mut rack, 2, LAN, &udp(LAN, (host, 5000), REMOTE, b"on"));
        assert_eq!(out.source, public);
    }

    // When everybody is silent, everything comes back.
    for _ in 0..4 {
        rack.advance(6 * 60_000);
        rack.maintain();
    }
    assert_eq!(rack.sessions(), 0);
    let counted: u64 = rack.shards.iter().map(|s| s.nat.allocator.errors()).sum();
    assert_eq!(counted, 0);
    balanced(&rack);
}
