//! What a worker does with the packets of a DHCP client and its server, and with an interface without an address.

use natgate::base::{DropReason, WorkerId};
use natgate::config;
use natgate::config::validated::Grant;
use natgate::dataplane::buffer::Heard;
use natgate::dataplane::rack::Rack;
use natgate::dataplane::shard::ShardSize;
use natgate::nat::policy::Policy;
use natgate::wire::{MacAddr, arp};

use crate::common::*;
use crate::*;

/// The lab with an outside interface whose address is leased: `10.0.0.0/24` behind it, a forward of port 10022.
fn text(workers: u8) -> String {
    let start = LAB.find("[[route]]").unwrap();
    let links = LAB[..start].replace("[\"203.0.113.1/24\", \"2001:db8::1/64\"]", "\"dhcp\"");
    assert!(links.contains("\"dhcp\""));
    format!(
        "{links}[[neighbour]]\ninterface = \"lan0\"\naddress = \"10.0.0.2\"\nmac = \"02:00:00:00:00:09\"\n\
         {MASQUERADE}[[port-forward]]\ndst = \"interface:wan0\"\nproto = \"tcp\"\ndport = 10022\nto = \"10.0.0.2:22\"\n\
         [system]\nworkers = {workers}\n"
    )
}

/// The policy with a lease laid over the configuration.
fn policy(workers: u8, grant: Option<Grant>, previous: Option<&Policy>) -> Policy {
    let mut loaded = config::parse_str("test", &text(workers)).unwrap();
    let wan = loaded.validated.interface("wan0").unwrap();
    loaded.validated.interfaces[wan.index()].grant = grant;
    assert_eq!(loaded.validated.conflicts(), Vec::<String>::new());
    config::compile::compile(&loaded.validated, &[], previous, 1).unwrap()
}

fn grant(net: &str) -> Grant {
    Grant {
        net: net.parse().unwrap(),
        routes: vec![("0.0.0.0/0".parse().unwrap(), Some(ip("203.0.113.9")))],
        mtu: Some(1400),
    }
}

fn rack_with(workers: u8, grant: Option<Grant>) -> Rack {
    Rack::new(policy(workers, grant, None).into(), ShardSize::small(), 1).unwrap()
}

/// A server's message: to a MAC and an IP address, from and to these ports.
fn message(mac: [u8; 6], to: &str, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(HOST_MAC, mac)
        .ipv4([203, 0, 113, 254], ip(to).octets(), 64)
        .udp(ports.0, ports.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

const OURS: [u8; 6] = [2, 0, 0, 0, 1, 1];
const ALL: [u8; 6] = [0xff; 6];

#[test]
fn servers_are_heard_by_the_client_and_nobody_else_is() {
    everywhere(|workers, at| {
        let mut rack = rack_with(workers, None);
        let wan = rack.policy.interfaces.by_name("wan0").unwrap().id;
        let hears = |rack: &mut Rack, frame: &[u8], yes: bool| {
            let consumed = rack.totals().consumed;
            assert!(send(rack, at, WAN, frame).is_empty());
            let heard = rack.heard();
            assert_eq!(
                rack.totals().consumed - consumed,
                u64::from(yes),
                "{}",
                drops(rack)
            );
            assert_eq!(heard.len(), usize::from(yes), "{heard:?}");
            if let [Heard::Dhcp { interface, message }] = &heard[..] {
                assert_eq!((*interface, &message[..]), (wan, &b"offer"[..]));
            }
        };
        // Before there is an address: to everybody, and to the one that is offered.
        for (mac, to, ports, yes) in [
            (ALL, "255.255.255.255", (67, 68), true),
            (OURS, "203.0.113.7", (67, 68), true),
            (OURS, "203.0.113.7", (66, 68), false),
            (ALL, "255.255.255.255", (67, 69), false),
        ] {
            hears(&mut rack, &message(mac, to, ports, b"offer"), yes);
        }
        let leased = policy(workers, Some(grant("203.0.113.7/24")), Some(&rack.policy));
        rack.reload(leased.into());
        for (mac, to, ports, yes) in [
            (OURS, "203.0.113.7", (67, 68), true),
            (ALL, "203.0.113.255", (67, 68), true),
        ] {
            hears(&mut rack, &message(mac, to, ports, b"offer"), yes);
        }
        let through = send(
            &mut rack,
            at,
            WAN,
            &message(OURS, "10.0.0.2", (67, 68), b"offer"),
        );
        assert_eq!(
            (through[0].0, rack.heard().len()),
            (LAN, 0),
            "not for the gateway"
        );
        // On an interface with an address of its own it is a broadcast like any other.
        let before = rack.drops(DropReason::Multicast);
        let mut frame = message(ALL, "255.255.255.255", (67, 68), b"offer");
        frame[6] = 2;
        assert!(send(&mut rack, at, LAN, &frame).is_empty());
        assert_eq!(rack.drops(DropReason::Multicast), before + 1);
        assert!(rack.heard().is_empty());
    });
}

#[test]
fn a_flood_is_dropped_for_a_reason_of_its_own() {
    let mut rack = rack_with(1, None);
    rack.limit_hearing(WorkerId(0), Some(2));
    let frame = message(ALL, "255.255.255.255", (67, 68), b"offer");
    for _ in 0..5 {
        send(&mut rack, 0, WAN, &frame);
    }
    assert_eq!(
        (rack.heard().len(), rack.drops(DropReason::ControlFull)),
        (2, 3)
    );
    rack.limit_hearing(WorkerId(0), None);
    let long = message(ALL, "255.255.255.255", (67, 68), &[0; 1473]);
    dropped(&mut rack, 0, WAN, &long, DropReason::OwnService);
}

#[test]
fn an_answer_to_a_probe_is_heard_before_there_is_an_address() {
    let answer = |target: u32| {
        let mut frame = vec![0; 14 + arp::LENGTH];
        frame[..6].copy_from_slice(&OURS);
        frame[6..12].copy_from_slice(&HOST_MAC);
        frame[12..14].copy_from_slice(&[8, 6]);
        let message = arp::Arp {
            operation: arp::REPLY,
            sender_mac: MacAddr(HOST_MAC),
            sender_ip: ip("203.0.113.7").into(),
            target_mac: MacAddr(OURS),
            target_ip: target,
        };
        message.write(&mut frame[14..]);
        frame
    };
    let mut rack = rack_with(1, None);
    let wan = rack.policy.interfaces.by_name("wan0").unwrap().id;
    send(&mut rack, 0, WAN, &answer(0));
    let expected = Heard::Arp {
        interface: wan,
        address: ip("203.0.113.7").into(),
        mac: MacAddr(HOST_MAC),
    };
    assert_eq!(rack.heard(), [expected]);
    send(&mut rack, 0, WAN, &answer(ip("203.0.113.8").into()));
    assert!(rack.heard().is_empty());
}

#[test]
fn flows_follow_the_lease() {
    everywhere(|workers, at| {
        let mut rack = rack_with(workers, None);
        let call = udp(LAN, ("10.0.0.2", 4000), ("198.51.100.5", 53), b"call");
        send(&mut rack, at, LAN, &call);
        assert_eq!(rack.drops(DropReason::NoRoute), 1, "{}", drops(&rack));
        for own in ["203.0.113.7", "203.0.113.8"] {
            let leased = policy(
                workers,
                Some(grant(&format!("{own}/24"))),
                Some(&rack.policy),
            );
            rack.reload(leased.into());
            rack.announce();
            send(&mut rack, at, LAN, &call);
            send(
                &mut rack,
                at,
                WAN,
                &neighbours::arp_reply(WAN, "203.0.113.9"),
            );
            let out = one(&mut rack, at, LAN, &call);
            assert_eq!((out.port, out.source.0), (WAN, ip(own)));
            let syn = tcp(WAN, ("203.0.113.9", 5000), (own, 10022), "S");
            let inside = one(&mut rack, at, WAN, &syn);
            assert_eq!(inside.destination, (ip("10.0.0.2"), 22));
            // The server lowered the MTU.
            let on = rack.policy.interfaces.by_name("wan0").unwrap();
            assert_eq!(on.mtu, 1400);
        }
        let gone = policy(workers, None, Some(&rack.policy));
        rack.reload(gone.into());
        rack.maintain();
        assert!(
            send(&mut rack, at, LAN, &call)
                .iter()
                .all(|(port, _)| *port == LAN)
        );
        let late = tcp(WAN, ("203.0.113.9", 5001), ("203.0.113.8", 10022), "S");
        assert!(send(&mut rack, at, WAN, &late).is_empty());
    });
}

#[test]
fn what_the_file_says_counts_more_than_the_server() {
    let own = text(1).replace(
        "[[port-forward]]",
        "[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"10.0.0.2\"\n[[port-forward]]",
    );
    let mut loaded = config::parse_str("test", &own).unwrap();
    loaded.validated.interfaces[1].grant = Some(grant("203.0.113.7/24"));
    assert_eq!(loaded.validated.learned_routes(), []);
    // A subnet that another interface has cannot be taken.
    loaded.validated.interfaces[1].grant = Some(grant("10.0.0.77/16"));
    let conflicts = loaded.validated.conflicts();
    assert!(conflicts[0].contains("overlaps"), "{conflicts:?}");
    assert_eq!(
        loaded
            .validated
            .own_ports
            .iter()
            .copied()
            .collect::<Vec<_>>(),
        [68]
    );
    let both = own.replace("\"dhcp\"", "[\"dhcp\", \"203.0.113.1/24\"]");
    let error = config::parse_str("test", &both).unwrap_err().to_string();
    assert!(error.contains("beside \"dhcp\""), "{error}");
    let six = own.replace("\"dhcp\"", "[\"dhcp\", \"2001:db8::2/64\"]");
    let loaded = config::parse_str("test", &six).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].ends_with("the address of interface wan0 is unknown until a lease"));
}
