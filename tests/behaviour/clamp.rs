//! `clamp_mss` lowers what SYNs announce, in both directions, and touches nothing else.

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);
const WEB: End = ("203.0.113.9", 80);

/// A segment with an MSS option.
fn segment(port: PortId, from: End, to: End, flags: &str, mss: u16) -> Vec<u8> {
    let gateway = [2, 0, 0, 0, 1, port.0 as u8];
    let mut builder = PacketBuilder::ethernet2(HOST_MAC, gateway)
        .ipv4(ip(from.0).octets(), ip(to.0).octets(), 64)
        .tcp(from.1, to.1, 1000, 1024);
    if flags.contains('S') {
        builder = builder.syn();
    }
    if flags.contains('A') {
        builder = builder.ack(7);
    }
    let options = [
        TcpOptionElement::Noop,
        TcpOptionElement::MaximumSegmentSize(mss),
        TcpOptionElement::WindowScale(7),
    ];
    let mut frame = Vec::new();
    let builder = builder.options(&options).unwrap();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// The MSS the frame announces; every checksum in it is right.
fn announced(frame: &(PortId, Vec<u8>)) -> u16 {
    seen(frame);
    mss_of(&frame.1)
}

fn mss_of(frame: &[u8]) -> u16 {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP");
    };
    let mss = tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    });
    mss.unwrap()
}

fn clamped(workers: u8, interface: &str, rules: &str) -> Rack {
    let name = format!("name = \"{interface}\"\n");
    let text = lab_text(workers, rules, "");
    rack(&text.replacen(&name, &format!("{name}clamp_mss = 1400\n"), 1))
}

// Proves: F12.
#[test]
fn syns_are_clamped_both_ways() {
    // On either interface: leaving or arriving makes no difference. With no rule the packets are only routed.
    for interface in ["lan0", "wan0"] {
        for rules in [MASQUERADE, ""] {
            everywhere(|workers, at| {
                let mut rack = clamped(workers, interface, rules);
                let out = send(&mut rack, at, LAN, &segment(LAN, CLIENT, WEB, "S", 1460));
                assert_eq!(announced(&out[0]), 1400);
                let public = seen(&out[0]).source;
                let to = if rules.is_empty() {
                    CLIENT
                } else {
                    ("203.0.113.1", public.1)
                };
                let back = send(&mut rack, at, WAN, &segment(WAN, WEB, to, "SA", 9000));
                assert_eq!((back[0].0, announced(&back[0])), (LAN, 1400));
            });
        }
    }
}

#[test]
fn smaller_values_other_segments_and_other_interfaces_stay() {
    let mut rack = clamped(1, "wan0", MASQUERADE);
    let small = send(&mut rack, 0, LAN, &segment(LAN, CLIENT, WEB, "S", 1200));
    assert_eq!(announced(&small[0]), 1200, "never raised");
    let data = send(&mut rack, 0, LAN, &segment(LAN, CLIENT, WEB, "A", 1460));
    assert_eq!(announced(&data[0]), 1460, "only a SYN announces anything");
    let mut free = lab(1, MASQUERADE);
    let plain = send(&mut free, 0, LAN, &segment(LAN, CLIENT, WEB, "S", 1460));
    assert_eq!(announced(&plain[0]), 1460, "0 leaves it alone");
}

#[test]
fn a_syn_that_waits_for_its_next_hop_is_clamped() {
    let mut rack = clamped(1, "wan0", MASQUERADE);
    let far = ("203.0.113.50", 80);
    send(&mut rack, 0, LAN, &segment(LAN, CLIENT, far, "S", 1460));
    let reply = crate::neighbours::arp_reply(WAN, far.0);
    let released = send(&mut rack, 0, WAN, &reply);
    assert_eq!(announced(&released[0]), 1400);
}

#[test]
fn a_hairpin_meets_the_inside_interface_only() {
    let rules = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\ndst = \"203.0.113.1\"\nproto = \"tcp\"\ndport = \"8022\"\nto = \"10.0.0.2:22\"\n"
    );
    for (interface, mss) in [("lan0", 1400), ("wan0", 1460)] {
        let mut rack = clamped(1, interface, &rules);
        let syn = segment(LAN, ("10.0.0.3", 5), ("203.0.113.1", 8022), "S", 1460);
        let out = send(&mut rack, 0, LAN, &syn);
        assert_eq!((out[0].0, announced(&out[0])), (LAN, mss), "{interface}");
    }
}

#[test]
fn ipv6_is_clamped_too() {
    let mut rack = clamped(1, "wan0", MASQUERADE);
    let from: std::net::Ipv6Addr = "fd00:1::2".parse().unwrap();
    let to: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
    let gateway: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, 0])
        .ipv6(from.octets(), to.octets(), 64)
        .tcp(1, 2, 3, 4)
        .syn()
        .options(&[TcpOptionElement::MaximumSegmentSize(1440)])
        .unwrap()
        .write(&mut frame, b"")
        .unwrap();
    let out = send(&mut rack, 0, LAN, &frame);
    assert_eq!(out.len(), 1, "drops: {}", drops(&rack));
    assert_eq!(mss_of(&out[0].1), 1400);
    let sliced = SlicedPacket::from_ethernet(&out[0].1).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("no TCP");
    };
    let sum = tcp
        .to_header()
        .calc_checksum_ipv6_raw(gateway.octets(), to.octets(), b"")
        .unwrap();
    assert_eq!(tcp.checksum(), sum);
}
