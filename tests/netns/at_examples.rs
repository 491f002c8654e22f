//! The worked examples of `configs/` run, and do what their text says: their cards are af_packet ports of the lab, and the
//! end hosts get the addresses the examples speak of.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::accounting;
use crate::at_log;
use crate::lab::{Gateway, Lab, Setup, on_workers};
use crate::natgate::Natgate;
use crate::probe::Answer;

/// An example from its ports on; what it is called, and what takes the place of what the lab does not have.
fn example(text: &'static str, instead: &[(&str, &str)]) -> Setup {
    let from = text.find("[[port]]").unwrap();
    let mut whole = text[from..].to_string();
    for (theirs, ours) in instead {
        assert!(whole.contains(theirs), "{theirs} is not in the example");
        whole = whole.replace(theirs, ours);
    }
    Setup {
        kernel: None,
        whole: Some(Box::leak(whole.into_boxed_str())),
        ..Setup::PLAIN
    }
}

/// Gives the end hosts other addresses and routes than the lab's.
fn readdress(lab: &Lab, inside: &str, outside: &str) {
    for (ns, commands) in [(&lab.inside, inside), (&lab.outside, outside)] {
        // Link-local addresses stay: neighbours are asked for with them.
        ns.sh("ip addr flush dev eth0 scope global; ip route flush dev eth0; ip -6 route del default || true");
        ns.ip(commands);
    }
}

fn source(lab: &Lab, probe: &str) -> SocketAddr {
    lab.probe(probe).answered()
}

/// What `natgate explain` says of a packet.
fn explained(lab: &Lab, packet: &str) -> String {
    let words: Vec<&str> = ["explain"].into_iter().chain(packet.split(' ')).collect();
    lab.natgate().ask(&words)
}

/// A bridge that two members of the bond and a second natgate's port `s0a` are on.
const TRUNK: &str = "link add m0a type veth peer name m0b
    link add m1a type veth peer name m1b
    link add s0a type veth peer name s0b
    link add sw type bridge mcast_snooping 0
    link set m0b master sw
    link set m1b master sw
    link set s0b master sw
    link set m0a up
    link set m0b up
    link set m1a up
    link set m1b up
    link set s0a up
    link set s0b up
    link set sw up";

/// The routers behind the trunk's two VLANs, in one: the campus on VLAN 2, the internet on VLAN 3.
const ROUTERS: &str = r#"
    [[port]]
    name = "trunk"
    device = "af_packet:s0a"
    [[port]]
    name = "p-wan"
    device = "af_packet:wan0"
    [[interface]]
    name = "campus"
    port = "trunk"
    vlan = 2
    address = ["203.0.113.254/24"]
    [[interface]]
    name = "internet"
    port = "trunk"
    vlan = 3
    address = ["198.51.100.254/24"]
    [[interface]]
    name = "hosts"
    port = "p-wan"
    address = ["192.0.2.1/24"]
    [[route]]
    prefix = "10.1.2.3/32"
    via = "192.0.2.9"
    [[route]]
    prefix = "192.168.0.0/16"
    via = "203.0.113.1"
"#;

#[test]
fn example_a_masquerades_a_closed_lan_on_two_uplinks() {
    let setup = Setup {
        links: TRUNK,
        ..example(
            include_str!("../../configs/example-a.toml"),
            &[
                ("pci:0000:3b:00.0", "af_packet:m0a"),
                ("pci:0000:3b:00.1", "af_packet:m1a"),
                ("pci:0000:5e:00.0", "af_packet:lan0"),
                // No program here can serve DHCP on a VLAN; this is what the server would grant.
                ("address = \"dhcp\"", "address = [\"198.51.100.1/24\"]"),
                (
                    "[sets]",
                    "[[route]]\nprefix = \"0.0.0.0/0\"\nvia = \"198.51.100.254\"\n[sets]",
                ),
            ],
        )
    };
    on_workers(2, &setup, |lab| {
        readdress(
            lab,
            "addr add 192.168.122.5/24 dev eth0
             addr add 192.168.122.11/24 dev eth0
             addr add 192.168.122.14/24 dev eth0
             addr add 192.168.122.20/24 dev eth0
             addr add 192.168.100.7/32 dev lo
             addr add 10.55.0.2/32 dev lo
             route add default via 192.168.122.1",
            "addr add 192.0.2.9/24 dev eth0
             addr add 10.1.2.3/32 dev lo
             route add default via 192.0.2.1",
        );
        let mut routers = Natgate::beside(lab.middle.clone(), lab.dir.path(), 1, ROUTERS);
        // The LAN by the address of the uplink its packets take, above the ports that NFS servers trust.
        lab.expect(
            "UDP in 192.168.122.20:40000 > 192.0.2.9:5000 => seen 198.51.100.1:40000, reply",
        );
        lab.expect("TCP in 192.168.122.20:0 > 10.1.2.3:80 => seen 203.0.113.1:*, reply");
        assert!(source(lab, "UDP in 192.168.122.20:300 > 192.0.2.9:5000").port() >= 1024);
        lab.inside.sh("ping -c 1 -W 2 -I 192.168.122.20 192.0.2.9");
        // VPN clients by the fixed address, where they call the campus.
        lab.expect("TCP in 192.168.100.7:0 > 10.1.2.3:80 => seen 203.0.113.24:*, reply");
        // Port forwards.
        lab.expect("TCP out 192.0.2.9:0 > 198.51.100.1:10022 listener in@192.168.122.11:22 => seen 192.0.2.9:*, reply");
        lab.expect("TCP out 10.1.2.3:0 > 203.0.113.1:20042 listener in@192.168.122.14:20042 => seen 10.1.2.3:*, reply");
        // Nothing else comes in, and who asks is told.
        lab.expect("UDP out 192.0.2.9:0 > 192.168.122.20:99 => seen –, refused");
        lab.expect("TCP out 192.0.2.9:0 > 192.168.122.20:99 => seen –, refused");
        // Borrowed sources end at the LAN's interface.
        lab.expect("UDP in 10.55.0.2:0 > 192.0.2.9:5000 => seen –, no reply");
        assert!(accounting::dropped(lab.natgate(), "urpf") > 0);
        // The campus does not reach the internet through here.
        let through = "in=campus src=10.1.2.3 dst=192.0.2.9 proto=tcp dport=80";
        let told = explained(lab, through);
        assert!(
            told.contains("filter       drop  by filter.rule 3"),
            "{told}"
        );
        routers.finish();
    });
}

#[test]
fn example_b_gives_subscribers_blocks_of_ports() {
    let setup = example(
        include_str!("../../configs/example-b.toml"),
        &[
            ("pci:0000:3b:00.0", "af_packet:lan0"),
            ("pci:0000:3b:00.1", "af_packet:wan0"),
            ("queues = 14", "queues = 1"),
        ],
    );
    on_workers(2, &setup, |lab| {
        readdress(
            lab,
            "addr add 100.127.255.0/31 dev eth0
             addr add 100.64.1.5/32 dev lo
             addr add 100.64.2.6/32 dev lo
             addr add 100.64.3.9/32 dev lo
             addr add 100.64.15.250/32 dev lo
             addr add 100.80.0.1/32 dev lo
             route add default via 100.127.255.1",
            "addr add 198.51.100.3/31 dev eth0
             addr add 192.0.2.9/32 dev lo
             addr add 192.0.2.10/32 dev lo
             addr add 10.7.7.7/32 dev lo
             route add default via 198.51.100.2",
        );
        let collector = lab.hold("out", "198.51.100.3:4739");
        // One address per subscriber, ports of its own block.
        let of = |subscriber: &str| {
            let seen: Vec<SocketAddr> = (0..8)
                .map(|remote| {
                    let to = ["192.0.2.9", "192.0.2.10"][remote % 2];
                    source(
                        lab,
                        &format!("UDP in {subscriber}:0 > {to}:{}", 5000 + remote),
                    )
                })
                .collect();
            let addresses: BTreeSet<_> = seen.iter().map(SocketAddr::ip).collect();
            assert_eq!(addresses.len(), 1, "{seen:?}");
            let blocks: BTreeSet<_> = seen.iter().map(|at| (at.port() - 1024) / 512).collect();
            assert_eq!(blocks.len(), 1, "{seen:?}");
            let address = addresses.into_iter().next().unwrap().to_string();
            let last: u8 = address.strip_prefix("203.0.113.").unwrap().parse().unwrap();
            assert!((64..128).contains(&last) && last != 100, "{address}");
            (address, blocks.into_iter().next().unwrap())
        };
        let held = [of("100.64.1.5"), of("100.64.2.6")];
        assert_ne!(held[0], held[1]);
        // One record for each block, none for a session.
        let seen = Cell::new(0);
        let messages = at_log::until(&collector, "198.51.100.2:4739", |message| {
            let sets = at_log::data_sets(&[message.to_vec()], at_log::BLOCK_TEMPLATE);
            seen.set(seen.get() + sets.concat().len() / 21);
            seen.get() >= 2
        });
        let blocks = at_log::data_sets(&messages, at_log::BLOCK_TEMPLATE).concat();
        let logged = blocks.chunks(21).map(|block| {
            let first = u16::from_be_bytes([block[17], block[18]]);
            (format!("203.0.113.{}", block[16]), (first - 1024) / 512)
        });
        assert_eq!(logged.collect::<Vec<_>>(), held);
        for sessions in [256, 260] {
            assert!(at_log::data_sets(&messages, sessions).is_empty());
        }
        // Whoever learns a mapping may answer it.
        let call = lab.hold("in", "100.64.1.5:40000");
        let public = lab.ask(&call, "192.0.2.9:5000").answered();
        let stranger = lab.hold("out", "192.0.2.10:7777");
        stranger.send(b"from a stranger", public);
        let heard = call.receive(b"from a stranger", "192.0.2.10:7777".parse().unwrap());
        assert_eq!(heard, Answer::Reply);
        // Inside the operator nothing is translated; one customer has an address of its own, another a port.
        lab.expect("UDP in 100.64.1.5:0 > 10.7.7.7:5000 => seen 100.64.1.5:*, reply");
        lab.expect("TCP in 100.64.15.250:40000 > 192.0.2.9:80 => seen 203.0.113.100:40000, reply");
        lab.expect("TCP out 192.0.2.9:0 > 203.0.113.100:80 listener in@100.64.15.250:80 => seen 192.0.2.9:*, reply");
        lab.expect("UDP out 192.0.2.9:0 > 203.0.113.70:30443 listener in@100.64.3.9:443 => seen 192.0.2.9:*, reply");
        // Nobody else's packets, and no mail between subscribers.
        lab.expect("UDP in 100.80.0.1:0 > 192.0.2.9:5000 => seen –, timeout");
        let mail = explained(
            lab,
            "in=acc0 src=100.64.1.5 dst=100.64.2.6 proto=tcp dport=25",
        );
        assert!(mail.contains("reject"), "{mail}");
    });
}

#[test]
fn example_c_is_a_clusters_way_out_and_in() {
    let setup = example(
        include_str!("../../configs/example-c.toml"),
        &[
            ("pci:0000:3b:00.0", "af_packet:lan0"),
            ("pci:0000:3b:00.1", "af_packet:wan0"),
            ("/etc/config/ip-masq-agent", "DIR/ip-masq-agent"),
        ],
    );
    on_workers(2, &setup, |lab| {
        readdress(
            lab,
            "addr add 10.20.0.11/24 dev eth0
             addr add 10.20.0.12/24 dev eth0
             addr add fd00:20::11/64 dev eth0 nodad
             addr add fd00:20::12/64 dev eth0 nodad
             addr add 10.244.1.2/32 dev lo
             addr add 10.244.2.2/32 dev lo
             addr add 10.244.1.7/32 dev lo
             addr add 10.244.2.9/32 dev lo
             addr add 10.244.1.8/32 dev lo
             addr add 10.244.7.5/32 dev lo
             addr add 10.96.0.41/32 dev lo
             addr add fd00:244:0:1::7/128 dev lo nodad
             addr add fd00:244:0:2::9/128 dev lo nodad
             route add default via 10.20.0.1
             route add default via fd00:20::1",
            "addr add 203.0.113.1/24 dev eth0
             addr add 2001:db8:5::1/64 dev eth0 nodad
             addr add 10.8.1.1/32 dev lo
             addr add 10.9.1.1/32 dev lo
             addr add fd00:96::99/128 dev lo nodad
             route add 10.20.0.0/24 via 203.0.113.2
             route add 10.96.0.0/12 via 203.0.113.2
             route add 10.244.0.0/16 via 203.0.113.2
             route add fd00:244::/32 via 2001:db8:5::2
             route add fd00:96::40/128 via 2001:db8:5::2",
        );
        // Pods leave by the interface's address, payments by one of the pool's, in both families.
        let server = lab.hold("out", "203.0.113.1:514");
        let seen = source(lab, "UDP in 10.244.1.7:0 > 198.51.100.5:5000");
        assert_eq!(seen.ip().to_string(), "203.0.113.2");
        let started = format!("outsidePort=\"{}\"", seen.port());
        let messages = at_log::until(&server, "203.0.113.2:514", |message| {
            String::from_utf8_lossy(message).contains(&started)
        });
        let session = messages.last().unwrap();
        let session = String::from_utf8_lossy(session);
        assert!(
            session.contains(" session_created ") && session.contains("inside=\"10.244.1.7\""),
            "{session}"
        );
        let payments = source(lab, "TCP in 10.244.7.5:0 > 198.51.100.5:80").to_string();
        assert!(
            (30..34).any(|host| payments.starts_with(&format!("203.0.113.{host}:"))),
            "{payments}"
        );
        lab.expect(
            "TCP in [fd00:244:0:1::7]:0 > [2001:db8:5::1]:80 => seen [2001:db8:5::2]:*, reply",
        );
        // Private destinations and services keep their source, 10.8.0.0/16 does not.
        lab.expect("UDP in 10.244.1.7:0 > 10.9.1.1:5000 => seen 10.244.1.7:*, reply");
        lab.expect("UDP in 10.244.1.7:0 > 10.8.1.1:5000 => seen 203.0.113.2:*, reply");
        lab.expect(
            "UDP in [fd00:244:0:1::7]:0 > [fd00:96::99]:5000 => seen [fd00:244:0:1::7]:*, reply",
        );
        // Services, from outside and from a pod.
        let shop = ["in@10.244.1.7:8080", "in@10.244.2.9:8080"];
        let asked = |probe: &str, services: &[&str]| -> BTreeSet<usize> {
            let answers = (0..24).map(|_| lab.probe_among(probe, services));
            answers
                .map(|which| which.expect("a backend answers"))
                .collect()
        };
        let both = BTreeSet::from([0, 1]);
        assert_eq!(asked("TCP out 203.0.113.1:0 > 10.96.0.40:80", &shop), both);
        assert_eq!(
            asked("TCP out 203.0.113.1:0 > 203.0.113.2:30080", &shop),
            both
        );
        assert_eq!(asked("TCP in 10.244.7.5:0 > 10.96.0.40:80", &shop), both);
        let six = ["in@[fd00:244:0:1::7]:8080", "in@[fd00:244:0:2::9]:8080"];
        assert_eq!(
            asked("TCP out [2001:db8:5::1]:0 > [fd00:96::40]:80", &six),
            both
        );
        // Names: a client has one server, whatever its port.
        let dns = |_| {
            let there =
                lab.probe("UDP out 203.0.113.1:0 > 10.96.0.10:53 listener in@10.244.1.2:53");
            there.seen.is_some()
        };
        let first: Vec<bool> = (0..6).map(dns).collect();
        assert!(first.iter().all(|there| *there == first[0]), "{first:?}");
        // A server that owns the service's address answers by itself.
        lab.expect("TCP out 203.0.113.1:0 > 10.96.0.41:443 listener in@10.96.0.41:443 => seen 203.0.113.1:*, reply");
        // Nothing else comes in.
        lab.expect("UDP out 203.0.113.1:0 > 10.244.1.7:99 => seen –, timeout");
    });
}
