//! Realms: hosts with the same addresses behind different VLANs, each with rules and pools of its own (RFC 4787 REQ-7).

use natgate::base::DropReason;
use natgate::nat::ports::PortSpace;

use crate::common::*;
use crate::*;

const RED: u16 = 10;
const BLUE: u16 = 20;
const HOST: End = ("10.0.0.2", 4000);

/// Two VLANs with the same addresses, and one way out. `first` stands before the interfaces.
fn text(workers: u8, first: &str, rules: &str) -> String {
    let mut text = format!(
        r#"
schema = 1
[[port]]
name = "p-lan"
device = "null:"
mac = "02:00:00:00:01:00"
[[port]]
name = "p-wan"
device = "null:"
mac = "02:00:00:00:01:01"
{first}
[[interface]]
name = "red"
port = "p-lan"
vlan = {RED}
vrf = "red"
address = ["10.0.0.1/24"]
[[interface]]
name = "blue"
port = "p-lan"
vlan = {BLUE}
vrf = "blue"
address = ["10.0.0.1/24"]
[[interface]]
name = "wan0"
port = "p-wan"
address = ["203.0.113.1/24"]
[[route]]
prefix = "0.0.0.0/0"
via = "203.0.113.9"
[[route]]
vrf = "red"
prefix = "0.0.0.0/0"
via = "203.0.113.9"
interface = "wan0"
[[route]]
vrf = "blue"
prefix = "0.0.0.0/0"
via = "203.0.113.10"
interface = "wan0"
"#
    );
    for (interface, hosts) in [("red", 2..5), ("blue", 2..5), ("wan0", 9..12)] {
        for host in hosts {
            let network = if interface == "wan0" {
                "203.0.113"
            } else {
                "10.0.0"
            };
            text += &format!(
                "[[neighbour]]\ninterface = \"{interface}\"\naddress = \"{network}.{host}\"\nmac = \"02:00:00:00:00:09\"\n"
            );
        }
    }
    format!("{text}{rules}\n[system]\nworkers = {workers}\n")
}

/// A pool for each.
const POOLS: &str = r#"
[[pool]]
name = "red"
addresses = ["203.0.113.20"]
filtering = "endpoint"
[[pool]]
name = "blue"
addresses = ["203.0.113.21"]
filtering = "endpoint"
[[source-nat]]
in = "red"
via = "pool:red"
[[source-nat]]
in = "blue"
via = "pool:blue"
"#;

const SHARED: &str =
    "[[source-nat]]\nin = [\"red\", \"blue\"]\nout = \"wan0\"\nvia = \"interface\"\n";

/// The frame with a VLAN tag.
fn on(vlan: u16, mut frame: Vec<u8>) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
    frame
}

/// The VLAN of a frame, if it has one.
fn vlan(sent: &(PortId, Vec<u8>)) -> Option<u16> {
    (sent.1[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([sent.1[14], sent.1[15]]))
}

/// Sends one frame and expects one, on this VLAN.
fn one_on(rack: &mut Rack, at: u8, port: PortId, frame: &[u8], tag: Option<u16>) -> Seen {
    let sent = send(rack, at, port, frame);
    assert_eq!(sent.len(), 1, "drops: {}", drops(rack));
    assert_eq!(vlan(&sent[0]), tag);
    seen(&sent[0])
}

// Proves: U7, G2.
#[test]
fn hosts_with_one_address_are_two_subscribers() {
    for rules in [POOLS, SHARED] {
        everywhere(|workers, at| {
            let mut rack = rack(&text(workers, "", rules));
            let mut publics = Vec::new();
            for tag in [RED, BLUE] {
                let frame = on(tag, call(HOST));
                let out = one_on(&mut rack, at, LAN, &frame, None);
                assert_eq!(out.destination, (ip(SERVER.0), SERVER.1));
                publics.push(out.source);
            }
            assert_ne!(publics[0], publics[1]);
            for (tag, public) in [RED, BLUE].into_iter().zip(&publics) {
                let address = public.0.to_string().leak();
                let answer = udp(WAN, SERVER, (address, public.1), b"answer");
                let back = one_on(&mut rack, at, WAN, &answer, Some(tag));
                assert_eq!((back.port, back.destination), (LAN, (ip(HOST.0), HOST.1)));
                let again = one_on(&mut rack, at, LAN, &on(tag, call(HOST)), None);
                assert_eq!(again.source, *public);
            }
            assert_eq!(rack.sessions(), 2);
            let hosts = rack.shards.iter().map(|s| s.nat.subscribers.len());
            assert_eq!(hosts.sum::<usize>(), 2);
        });
    }
}

#[test]
fn limits_and_blocks_are_each_hosts_own() {
    let rules = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nports = \"2000-2019\"\nblock = { size = 5 }\n\
                 [[source-nat]]\nin = [\"red\", \"blue\"]\nvia = \"pool:p\"\n";
    everywhere(|workers, at| {
        let mut rack = rack(&text(workers, "", rules));
        for n in 0..5 {
            for tag in [RED, BLUE] {
                let from = (HOST.0, 5000 + n);
                one_on(&mut rack, at, LAN, &on(tag, call(from)), None);
            }
        }
        for tag in [RED, BLUE] {
            let frame = on(tag, call((HOST.0, 6000)));
            dropped(&mut rack, at, LAN, &frame, DropReason::QuotaBlocks);
        }
        let mut externals = rack.policy.nat.externals.iter();
        let used = externals.find_map(|(_, e)| Some(e).filter(|e| e.block_usage().used > 0));
        let used = used.unwrap();
        assert_eq!(
            (used.block_usage().used, used.usage(PortSpace::Udp).in_use),
            (2, 10)
        );
    });
}

#[test]
fn servers_of_a_realm_are_reached_and_answer() {
    let rules = format!(
        "{POOLS}[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"udp\"\ndport = \"53\"\nto = \"10.0.0.2:5353\"\nvrf = \"blue\"\n\
         [[static-nat]]\nexternal = \"203.0.113.30\"\ninternal = \"10.0.0.3\"\nvrf = \"red\"\ninterface = \"wan0\"\n"
    );
    everywhere(|workers, at| {
        let mut rack = rack(&text(workers, "", &rules));
        let client: End = ("203.0.113.11", 777);
        for (public, tag, server) in [
            (("203.0.113.1", 53), BLUE, ("10.0.0.2", 5353)),
            (("203.0.113.30", 80), RED, ("10.0.0.3", 80)),
        ] {
            let asked = one_on(
                &mut rack,
                at,
                WAN,
                &udp(WAN, client, public, b"?"),
                Some(tag),
            );
            assert_eq!(asked.destination, (ip(server.0), server.1));
            let answer = on(tag, udp(LAN, server, client, b"!"));
            let answered = one_on(&mut rack, at, LAN, &answer, None);
            assert_eq!(answered.source, (ip(public.0), public.1));
            assert_eq!(answered.destination, (ip(client.0), client.1));
        }
        // The other realm's host of the same address has the address of its own pool.
        let other = on(BLUE, call(("10.0.0.3", 1)));
        let out = one_on(&mut rack, at, LAN, &other, None);
        assert_eq!(out.source.0, ip("203.0.113.21"));
        let owner = on(RED, call(("10.0.0.3", 1)));
        let out = one_on(&mut rack, at, LAN, &owner, None);
        assert_eq!(out.source.0, ip("203.0.113.30"));
    });
}

// Proves: U7, U9.
#[test]
fn realms_meet_at_their_public_addresses() {
    everywhere(|workers, at| {
        let mut rack = rack(&text(workers, "", POOLS));
        let mut public = |tag| {
            one_on(&mut rack, at, LAN, &on(tag, call(HOST)), None)
                .source
                .1
        };
        let (red, blue) = (public(RED), public(BLUE));
        let hi = on(RED, udp(LAN, HOST, ("203.0.113.21", blue), b"hi"));
        let heard = one_on(&mut rack, at, LAN, &hi, Some(BLUE));
        assert_eq!(heard.source, (ip("203.0.113.20"), red));
        assert_eq!(heard.destination, (ip(HOST.0), HOST.1));
        let ho = on(BLUE, udp(LAN, HOST, ("203.0.113.20", red), b"ho"));
        let back = one_on(&mut rack, at, LAN, &ho, Some(RED));
        assert_eq!(back.source, (ip("203.0.113.21"), blue));
    });
}

#[test]
fn errors_find_their_realm() {
    everywhere(|workers, at| {
        let mut rack = rack(&text(workers, "", SHARED));
        for tag in [RED, BLUE] {
            let sent = send(&mut rack, at, LAN, &on(tag, call(HOST)));
            let router = "203.0.113.10";
            let error = icmp_error(WAN, router, "203.0.113.1", (3, 1), &sent[0].1);
            let told = send(&mut rack, at, WAN, &error);
            assert_eq!((told.len(), vlan(&told[0])), (1, Some(tag)));
            assert_eq!(told[0].1[34..38], [10, 0, 0, 2], "to the host");
            assert_eq!(told[0].1[58..62], [10, 0, 0, 2], "about what it sent");
        }
        let mut old = udp_ttl(LAN, ("10.0.0.4", 1), SERVER, 1);
        old = on(BLUE, old);
        let told = send(&mut rack, at, LAN, &old);
        assert_eq!((told.len(), vlan(&told[0])), (1, Some(BLUE)));
        assert_eq!(told[0].1[30..38], [10, 0, 0, 1, 10, 0, 0, 4]);
    });
}

#[test]
fn a_realm_keeps_its_flows_when_others_come_and_goes_nowhere_without_a_route() {
    let green = "[[interface]]\nname = \"green\"\nport = \"p-lan\"\nvlan = 30\nvrf = \"green\"\naddress = [\"10.0.0.1/24\"]\n";
    everywhere(|workers, at| {
        let mut rack = rack(&text(workers, "", POOLS));
        let publics =
            [RED, BLUE].map(|tag| one_on(&mut rack, at, LAN, &on(tag, call(HOST)), None).source);
        reload(&mut rack, &text(workers, green, POOLS));
        for (tag, public) in [RED, BLUE].into_iter().zip(publics) {
            let again = one_on(&mut rack, at, LAN, &on(tag, call(HOST)), None);
            assert_eq!(again.source, public);
            let answer = udp(
                WAN,
                SERVER,
                (public.0.to_string().leak(), public.1),
                b"answer",
            );
            one_on(&mut rack, at, WAN, &answer, Some(tag));
        }
        assert_eq!(rack.sessions(), 2);
        let before = rack.drops(DropReason::NoRoute);
        send(&mut rack, at, LAN, &on(30, call(HOST)));
        assert_eq!(rack.drops(DropReason::NoRoute), before + 1);
        let ping = on(30, ping(LAN, "10.0.0.2", "10.0.0.1", 7));
        send(&mut rack, at, LAN, &ping);
        assert_eq!(rack.totals().consumed, 1, "the gateway is there too");
    });
}

/// What was the remote's address becomes the gateway's own, where the flow comes from or where it leads to.
#[test]
fn a_flow_ends_when_the_gateway_becomes_its_remote_in_either_realm() {
    let before = text(1, "", POOLS);
    for (old, new) in [
        (
            "[\"203.0.113.1/24\"]",
            "[\"203.0.113.1/24\", \"203.0.113.50/24\"]",
        ),
        (
            "vrf = \"red\"\naddress = [\"10.0.0.1/24\"]",
            "vrf = \"red\"\naddress = [\"10.0.0.1/24\", \"203.0.113.50/32\"]",
        ),
    ] {
        let mut rack = rack(&before);
        let asked = on(RED, udp(LAN, HOST, ("203.0.113.50", 53), b"?"));
        one_on(&mut rack, 0, LAN, &asked, None);
        let with_a_route =
            format!("{before}[[route]]\nprefix = \"192.0.2.0/24\"\nvia = \"203.0.113.9\"\n");
        reload(&mut rack, &with_a_route);
        rack.maintain();
        assert_eq!(rack.sessions(), 1, "another change ends nothing");
        let after = before.replacen(old, new, 1);
        assert_ne!(after, before);
        reload(&mut rack, &after);
        rack.maintain();
        assert_eq!(rack.sessions(), 0, "{new}");
    }
}
