//! What a reload may change while traffic runs, one row a kind: new flows follow, living ones are left alone.

use natgate::base::DropReason;
use natgate::config::compile::recompile_text;

use crate::common::*;
use crate::*;

const CLIENT: End = ("10.0.0.2", 40000);

/// The lab with a masquerade and, before it, more of the configuration.
fn with(workers: u8, more: &str) -> String {
    lab_text(workers, &format!("{more}{MASQUERADE}"), "")
}

/// A pool `name` of `addresses` and the rule that sends the clients of `src` there.
fn named_pool(name: &str, addresses: &str, src: &str) -> [String; 2] {
    [
        format!("[[pool]]\nname = \"{name}\"\naddresses = [\"{addresses}\"]\n"),
        format!(
            "[[source-nat]]\nname = \"{name}\"\nsrc = \"{src}\"\nout = \"wan0\"\nvia = \"pool:{name}\"\n"
        ),
    ]
}

#[test]
fn pools_may_change_places_and_grow_and_clients_stay_paired() {
    everywhere(|workers, at| {
        let [small, small_rule] = named_pool("small", "203.0.113.40", "10.0.0.9/32");
        let [large, large_rule] = named_pool("large", "203.0.113.20-203.0.113.23", "10.0.0.0/24");
        let rules = format!("{small_rule}{large_rule}");
        let before = format!("{small}{large}{rules}");
        let mut rack = rack(&lab_text(workers, &before, ""));
        let clients = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        let paired = clients.map(|client| one(&mut rack, at, LAN, &call((client, 4000))).source.0);
        // More addresses: a client that nothing ties to its address would be hashed to another one.
        let [large, _] = named_pool("large", "203.0.113.20-203.0.113.30", "10.0.0.0/24");
        let after = format!("{large}{small}{rules}");
        for _ in 0..2 {
            reload(&mut rack, &lab_text(workers, &after, ""));
            rack.maintain();
            for (client, public) in clients.iter().zip(paired) {
                let next = one(&mut rack, at, LAN, &call((client, 4001))).source.0;
                assert_eq!(next, public, "{client} is paired");
            }
        }
        let other = one(&mut rack, at, LAN, &call(("10.0.0.9", 4000))).source.0;
        assert_eq!(other, ip("203.0.113.40"));
        let counted = rack.policy.nat.pools.iter();
        let counted = counted.map(|pool| {
            let created = pool.counts().created(natgate::nat::ports::PortSpace::Udp);
            (pool.policy().name.as_str(), created)
        });
        let counted: Vec<_> = counted.take(2).collect();
        assert_eq!(counted, [("large", 10), ("small", 1)], "counted by name");
    });
}

#[test]
fn a_pool_gets_addresses_and_ports_while_it_is_full() {
    everywhere(|workers, at| {
        let before = pool("ports = \"2000-2000\"");
        let mut rack = rack(&lab_text(workers, &before, ""));
        let first = one(&mut rack, at, LAN, &call(CLIENT)).source;
        let late = call(("10.0.0.3", 40000));
        dropped(&mut rack, at, LAN, &late, DropReason::NoPort);
        let ports = pool("ports = \"2000-2001\"");
        reload(&mut rack, &lab_text(workers, &ports, ""));
        assert_eq!(
            one(&mut rack, at, LAN, &late).source,
            (ip("203.0.113.20"), 2001)
        );
        let later = call(("10.0.0.4", 40000));
        dropped(&mut rack, at, LAN, &later, DropReason::NoPort);
        let address = ports.replace("203.0.113.20", "203.0.113.20-203.0.113.21");
        reload(&mut rack, &lab_text(workers, &address, ""));
        assert_eq!(one(&mut rack, at, LAN, &later).source.0, ip("203.0.113.21"));
        works(&mut rack, at, CLIENT, first);
    });
}

#[test]
fn a_block_quota_grows_and_block_layouts_stay_while_in_use() {
    let keys = |size: u16, most: u16| {
        pool(&format!(
            "ports = \"2048-2111\"\nblock = {{ size = {size}, max_per_host = {most} }}"
        ))
    };
    let mut rack = rack(&lab_text(1, &keys(4, 1), ""));
    let public: Vec<_> = (0..4)
        .map(|port| one(&mut rack, 0, LAN, &call(("10.0.0.2", 5000 + port))).source)
        .collect();
    let fifth = call(("10.0.0.2", 5004));
    dropped(&mut rack, 0, LAN, &fifth, DropReason::QuotaBlocks);
    reload(&mut rack, &lab_text(1, &keys(4, 2), ""));
    one(&mut rack, 0, LAN, &fifth);
    let single = pool("ports = \"2048-2111\"");
    for other in [keys(8, 2), single.clone()] {
        let report = recompile_text("test", &lab_text(1, &other, ""), &rack.policy)
            .err()
            .expect("the layout of an address in use is fixed")
            .to_string();
        assert!(
            report.contains("203.0.113.20") && report.contains("in use"),
            "{report}"
        );
    }
    for (port, public) in (5000..).zip(public) {
        works(&mut rack, 0, ("10.0.0.2", port), public);
    }
    // Drained, and with nothing held there any more, it may be laid out anew.
    let drained = pool(
        "ports = \"2048-2111\"\nblock = { size = 4, max_per_host = 2 }\ndrain = [\"203.0.113.20\"]",
    );
    reload(&mut rack, &lab_text(1, &drained, ""));
    for _ in 0..2 {
        rack.advance(3_600_000);
        rack.maintain();
    }
    reload(&mut rack, &lab_text(1, &single, ""));
    one(&mut rack, 0, LAN, &fifth);
}

// Proves: G4a, G5a.
#[test]
fn limits_change_live() {
    everywhere(|workers, at| {
        let limited =
            |most: u32| lab_text(workers, MASQUERADE, &format!("sessions_per_host = {most}"));
        let mut rack = rack(&limited(2));
        let first = one(&mut rack, at, LAN, &call(("10.0.0.2", 5000))).source;
        one(&mut rack, at, LAN, &call(("10.0.0.2", 5001)));
        let third = call(("10.0.0.2", 5002));
        dropped(&mut rack, at, LAN, &third, DropReason::SessionLimit);
        reload(&mut rack, &limited(3));
        one(&mut rack, at, LAN, &third);
        reload(&mut rack, &limited(1));
        rack.maintain();
        assert_eq!(rack.sessions(), 3, "a lower limit ends nothing");
        let fourth = call(("10.0.0.2", 5003));
        dropped(&mut rack, at, LAN, &fourth, DropReason::SessionLimit);
        works(&mut rack, at, ("10.0.0.2", 5000), first);
    });
}

#[test]
fn exemptions_and_static_rules_take_new_flows() {
    everywhere(|workers, at| {
        let mut rack = rack(&with(workers, ""));
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        reload(
            &mut rack,
            &with(workers, "[[exempt]]\ndst = [\"203.0.113.0/24\"]\n"),
        );
        let plain = one(&mut rack, at, LAN, &call(("10.0.0.3", 40000))).source;
        assert_eq!(plain, (ip("10.0.0.3"), 40000));
        works(&mut rack, at, CLIENT, public);
        let fixed = "[[static-nat]]\nexternal = \"203.0.113.50/32\"\ninternal = \"10.0.0.4/32\"\ninterface = \"wan0\"\n";
        reload(&mut rack, &with(workers, fixed));
        let own = one(&mut rack, at, LAN, &call(("10.0.0.4", 40000))).source;
        assert_eq!(own, (ip("203.0.113.50"), 40000));
        let called = udp(WAN, ("203.0.113.10", 7), ("203.0.113.50", 8), b"in");
        assert_eq!(
            one(&mut rack, at, WAN, &called).destination,
            (ip("10.0.0.4"), 8)
        );
        works(&mut rack, at, CLIENT, public);
    });
}

#[test]
fn neighbours_mtu_and_forwarding_change_live() {
    everywhere(|workers, at| {
        let text = with(workers, "");
        let mut rack = rack(&text);
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        let moved = text.replacen(
            "address = \"203.0.113.9\"\nmac = \"02:00:00:00:00:09\"",
            "address = \"203.0.113.9\"\nmac = \"02:00:00:00:00:77\"",
            1,
        );
        reload(&mut rack, &moved);
        let sent = send(&mut rack, at, LAN, &call(CLIENT));
        assert_eq!(sent[0].1[..6], [2, 0, 0, 0, 0, 0x77], "the new neighbour");
        works(&mut rack, at, CLIENT, public);
        let wan = "name = \"wan0\"\nport = \"p-wan\"\n";
        reload(&mut rack, &text.replace(wan, &format!("{wan}mtu = 1280\n")));
        let large = crate::mtu::datagram(1300, true);
        let told = one(&mut rack, at, LAN, &large);
        assert_eq!(told.payload[..2], [3, 4], "fragmentation needed");
        assert_eq!(told.payload[6..8], 1280u16.to_be_bytes());
        let lan = "name = \"lan0\"\nport = \"p-lan\"\n";
        reload(
            &mut rack,
            &text.replace(lan, &format!("{lan}forward = false\n")),
        );
        let refused = call(("10.0.0.5", 40000));
        dropped(&mut rack, at, LAN, &refused, DropReason::ForwardDisabled);
        assert_eq!(
            one(&mut rack, at, LAN, &ping(LAN, "10.0.0.5", "10.0.0.1", 1))
                .source
                .0,
            ip("10.0.0.1")
        );
    });
}

#[test]
fn new_addresses_and_links_that_come_back_are_announced() {
    use natgate::wire::arp;
    let announced = |rack: &mut Rack| -> Vec<(PortId, String)> {
        let sent = rack.announce();
        balanced(rack);
        let frames = sent.iter().filter(|(_, frame)| frame[12..14] == [8, 6]);
        frames
            .map(|(port, frame)| {
                let arp = arp::Arp::read(frame, 14).unwrap();
                assert_eq!(arp.sender_ip, arp.target_ip, "gratuitous");
                assert_eq!(frame[..6], [0xff; 6], "to everybody");
                (*port, std::net::Ipv4Addr::from(arp.sender_ip).to_string())
            })
            .collect()
    };
    let on = |port, addresses: &[&str]| -> Vec<(PortId, String)> {
        addresses.iter().map(|a| (port, (*a).to_owned())).collect()
    };
    let text = lab_text(2, &pool(""), "");
    let mut rack = rack(&text);
    let mut all = on(LAN, &["10.0.0.1"]);
    all.extend(on(WAN, &["203.0.113.1", "203.0.113.20"]));
    assert_eq!(announced(&mut rack), all, "everything at the start");
    reload(&mut rack, &text);
    assert_eq!(announced(&mut rack), [], "nothing is new");
    let more = text
        .replace("\"203.0.113.20\"", "\"203.0.113.20-203.0.113.22\"")
        .replace("\"10.0.0.1/24\"", "\"10.0.0.1/24\", \"10.0.0.254/24\"");
    reload(&mut rack, &more);
    let mut new = on(LAN, &["10.0.0.254"]);
    new.extend(on(WAN, &["203.0.113.21", "203.0.113.22"]));
    assert_eq!(announced(&mut rack), new);
    // A pulled cable: the same configuration with that port down, and up again.
    let validated = natgate::config::parse_str("test", &text).unwrap().validated;
    let with_wan = |up: bool, before: &natgate::nat::policy::Policy| {
        let facts = |id, up| natgate::config::compile::PortFacts {
            mac: natgate::wire::MacAddr([2, 0, 0, 0, 1, id]),
            up,
        };
        let ports = [facts(0, true), facts(1, up)];
        let policy = natgate::config::compile::compile(&validated, &ports, Some(before), 1);
        std::sync::Arc::new(policy.unwrap())
    };
    for (up, expected) in [(false, vec![]), (true, all[1..].to_vec())] {
        let policy = with_wan(up, &rack.policy);
        rack.reload(policy);
        assert_eq!(announced(&mut rack), expected, "link up: {up}");
    }
}

#[test]
fn an_interface_gets_and_loses_addresses() {
    everywhere(|workers, at| {
        let text = with(workers, "");
        let mut rack = rack(&text);
        let public = one(&mut rack, at, LAN, &call(CLIENT)).source;
        let asked = |id: u16| ping(WAN, "203.0.113.10", "203.0.113.7", id);
        let not_ours = |rack: &mut Rack| {
            // It looks for the host on the link instead of answering for it.
            let sent = send(rack, at, WAN, &asked(1));
            assert!(sent.iter().all(|f| f.1[12..14] == [8, 6]), "{sent:02x?}");
        };
        not_ours(&mut rack);
        let one_more = text.replace(
            "\"203.0.113.1/24\"",
            "\"203.0.113.1/24\", \"203.0.113.7/24\"",
        );
        reload(&mut rack, &one_more);
        // Also what was under way to the host that had the address.
        for id in [1, 2] {
            let answer = one(&mut rack, at, WAN, &asked(id));
            assert_eq!(answer.source.0, ip("203.0.113.7"));
        }
        works(&mut rack, at, CLIENT, public);
        reload(&mut rack, &text);
        not_ours(&mut rack);
        works(&mut rack, at, CLIENT, public);
    });
}
