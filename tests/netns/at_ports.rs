//! Every kind of device, several queues where it can have them: packets really pass, and the books balance.
//!
//! | device | what stands behind it |
//! |---|---|
//! | `af_packet`, `af_xdp`, `dpdk` | the lab's own veth pairs |
//! | `tap` | a bridge of the kernel with the lab's veth |
//! | `memif` | a second natgate, client against server |
//! | `pcap` | files |
//! | `null` | nothing: it makes frames of zeros and swallows what is sent |
//!
//! PCI cards have a test of their own, on an emulated machine: `make test-vm`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::accounting;
use crate::lab::{Gateway, Lab, Setup, on_natgate, on_workers};
use crate::natgate::Natgate;
use crate::pcap;
use crate::raw::{self, Packet};

/// Flows of several inside hosts and of both protocols, and an echo through the gateway.
fn traffic(lab: &mut Lab) {
    for host in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"] {
        for port in 0..8 {
            let from = format!("{host}:{}", 40000 + port);
            lab.expect(&format!(
                "UDP in {from} > 203.0.113.9:{} => seen 203.0.113.1:*, reply",
                5000 + port
            ));
        }
        lab.expect(&format!(
            "TCP in {host}:0 > 203.0.113.9:80 => seen 203.0.113.1:*, reply"
        ));
    }
    lab.inside.sh("ping -c 3 -i 0.05 -W 2 203.0.113.9");
    assert_eq!(accounting::losses(lab.natgate()), BTreeMap::new());
}

/// A port in `show ports`.
fn port(natgate: &Natgate, name: &str) -> Value {
    let document = natgate.show("ports");
    let ports = document["ports"].as_array().expect("a list of ports");
    let found = ports.iter().find(|port| port["port"] == name);
    found
        .unwrap_or_else(|| panic!("no port {name} in {document}"))
        .clone()
}

/// Asserts that every worker took packets from queues of its own, and says how they were shared out.
fn every_worker_received(natgate: &Natgate) {
    let document = natgate.show("workers");
    let received: Vec<u64> = document["workers"]
        .as_array()
        .expect("a list of workers")
        .iter()
        .map(|worker| worker["received"].as_u64().expect("a count"))
        .collect();
    println!("packets received by worker: {received:?}");
    assert!(received.iter().all(|&packets| packets > 0), "{received:?}");
}

#[test]
fn af_packet_spreads_over_two_queues() {
    let setup = Setup {
        ports: r#"
            [[port]]
            name = "p-lan"
            device = "af_packet:lan0"
            queues = 2
            [[port]]
            name = "p-wan"
            device = "af_packet:wan0"
            queues = 2
        "#,
        ..Setup::MASQUERADE
    };
    on_workers(2, &setup, |lab| {
        traffic(lab);
        for name in ["p-lan", "p-wan"] {
            let port = port(lab.natgate(), name);
            assert_eq!(
                (&port["rx_queues"], &port["tx_queues"]),
                (&2.into(), &2.into())
            );
            assert_eq!(port["link_up"], true);
        }
        every_worker_received(lab.natgate());
    });
}

#[test]
fn dpdk_devices_are_handed_on_as_written() {
    let setup = Setup {
        ports: r#"
            [[port]]
            name = "p-lan"
            device = "dpdk:net_af_packet7,iface=lan0,qpairs=2,blocksz=4096,framesz=2048,framecnt=512"
            queues = 2
            [[port]]
            name = "p-wan"
            device = "dpdk:net_af_packet9,iface=wan0"
        "#,
        ..Setup::MASQUERADE
    };
    on_workers(2, &setup, |lab| {
        traffic(lab);
        assert_eq!(port(lab.natgate(), "p-lan")["rx_queues"], 2);
    });
}

#[test]
fn af_xdp_ports_translate() {
    let setup = Setup {
        ports: r#"
            [[port]]
            name = "p-lan"
            device = "af_xdp:lan0"
            [[port]]
            name = "p-wan"
            device = "af_xdp:wan0"
            mtu = MTU
        "#,
        ..Setup::MASQUERADE
    };
    on_natgate(&setup, traffic);
}

/// Puts natgate's tap on a bridge with the lab's veth, so that the hosts are behind it. One that looks into multicast would
/// speak itself.
fn bridge(lab: &Lab, veth: &str, tap: &str) {
    lab.middle.ip(&format!(
        "link add br-{tap} type bridge mcast_snooping 0
         link set {veth} master br-{tap}
         link set {tap} master br-{tap}
         link set {tap} up
         link set br-{tap} up"
    ));
}

#[test]
fn tap_ports_translate_with_several_queues() {
    let setup = Setup {
        ports: r#"
            [[port]]
            name = "p-lan"
            device = "tap:tlan"
            queues = 2
            [[port]]
            name = "p-wan"
            device = "tap:twan"
        "#,
        ..Setup::MASQUERADE
    };
    on_workers(2, &setup, |lab| {
        bridge(lab, "lan0", "tlan");
        bridge(lab, "wan0", "twan");
        traffic(lab);
        assert_eq!(port(lab.natgate(), "p-lan")["rx_queues"], 2);
    });
}

/// The lab's gateway translates towards a memif; behind it a second natgate, a plain router, leads to the outside.
#[test]
fn memif_joins_two_instances() {
    let setup = Setup {
        ports: r#"
            [[port]]
            name = "p-lan"
            device = "af_packet:lan0"
            [[port]]
            name = "p-wan"
            device = "memif:DIR/m.sock"
            queues = 2
        "#,
        ..Setup::MASQUERADE
    };
    let second = r#"
        [[port]]
        name = "to-first"
        device = "memif:DIR/m.sock,role=client"
        queues = 2
        [[port]]
        name = "p-wan"
        device = "af_packet:wan0"
        [[interface]]
        name = "mid"
        port = "to-first"
        address = ["203.0.113.9/24"]
        [[interface]]
        name = "wan0"
        port = "p-wan"
        address = ["192.0.2.1/24"]
    "#;
    on_workers(2, &setup, |lab| {
        // The outside is one router further away, at an address the first natgate reaches by its default route.
        lab.outside.ip("addr add 192.0.2.9/24 dev eth0
             route add 203.0.113.1/32 via 192.0.2.1");
        let mut second = Natgate::beside(lab.middle.clone(), lab.dir.path(), 2, second);
        for (natgate, interface) in [(lab.natgate(), "wan0"), (&second, "mid")] {
            natgate.wait_for_interface(interface);
        }
        for host in ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"] {
            lab.expect(&format!(
                "UDP in {host}:40000 > 192.0.2.9:5000 => seen 203.0.113.1:*, reply"
            ));
            lab.expect(&format!(
                "TCP in {host}:0 > 192.0.2.9:80 => seen 203.0.113.1:*, reply"
            ));
        }
        assert_eq!(accounting::losses(lab.natgate()), BTreeMap::new());
        assert_eq!(accounting::losses(&second), BTreeMap::new());
        every_worker_received(&second);
        second.finish();
    });
}

/// A file full of datagrams goes in, the translated ones come out, beside a first instance that serves the lab.
#[test]
fn pcap_ports_read_and_write_files() {
    let network = r#"
        [[port]]
        name = "p-lan"
        device = "pcap:DIR/in.pcap,"
        mac = "02:00:00:00:00:01"
        [[port]]
        name = "p-wan"
        device = "pcap:,DIR/out.pcap"
        [[interface]]
        name = "lan0"
        port = "p-lan"
        address = ["10.0.0.1/24"]
        [[interface]]
        name = "wan0"
        port = "p-wan"
        address = ["203.0.113.1/24"]
        [[neighbour]]
        interface = "wan0"
        address = "203.0.113.9"
        mac = "02:00:00:00:00:09"
        [[source-nat]]
        out = "wan0"
        via = "interface"
    "#;
    on_workers(1, &Setup::MASQUERADE, |lab| {
        let frame = |n: u64| {
            let from = format!("10.0.0.{}:{}", 2 + n % 4, 40000 + n);
            let packet = Packet::udp(&from, "203.0.113.9:5000", &n.to_be_bytes(), true);
            let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
            frame.extend(packet.bytes());
            (n, frame)
        };
        let sent: Vec<_> = (0..200).map(frame).collect();
        pcap::write(&lab.dir.path().join("in.pcap"), &sent).unwrap();
        for workers in [1, 2] {
            let mut second = Natgate::beside(lab.middle.clone(), lab.dir.path(), workers, network);
            lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
            second.finish();
            let out = pcap::read(&lab.dir.path().join("out.pcap")).unwrap();
            let packets: Vec<Packet> = out
                .iter()
                .filter(|(_, frame)| frame[..6] == [2, 0, 0, 0, 0, 9])
                .map(|(_, frame)| Packet::parse(&frame[14..]).unwrap())
                .collect();
            assert_eq!(packets.len(), 200, "with {workers} workers");
            for packet in &packets {
                assert_eq!(packet.source.to_string(), "203.0.113.1");
                assert!(raw::l4_checksum_is_right(packet), "{packet:?}");
            }
            let numbers: BTreeSet<&[u8]> = packets.iter().map(|p| &p.payload[8..]).collect();
            assert_eq!(numbers.len(), 200, "each datagram once");
        }
    });
}

/// As many frames of zeros as the machine makes: none may pass, each is counted.
#[test]
fn null_ports_make_frames_that_are_all_accounted_for() {
    let network = r#"
        [[port]]
        name = "endless"
        device = "null:size=100"
        [[port]]
        name = "silent"
        device = "null:rx=no"
        [[interface]]
        name = "lan0"
        port = "endless"
        address = ["10.0.0.1/24"]
        [[interface]]
        name = "wan0"
        port = "silent"
        address = ["203.0.113.1/24"]
    "#;
    on_workers(1, &Setup::MASQUERADE, |lab| {
        // One worker: its counters are of one moment although it never rests.
        let mut second = Natgate::beside(lab.middle.clone(), lab.dir.path(), 1, network);
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
        let before = accounting::ledger(&second);
        std::thread::sleep(std::time::Duration::from_millis(200));
        let after = accounting::ledger(&second);
        let (received, dropped) = (
            after.received - before.received,
            after.dropped - before.dropped,
        );
        assert!(received > 10_000, "{received} frames in 0.2 s");
        assert_eq!(received, dropped, "{:?}", accounting::drops(&second));
        second.finish();
    });
}

/// What keeps natgate from starting is said in one line, which names the way out, and the exit code is 1. The card in the
/// kernel's hands is in the tests of `src/dpdk/pci.rs` and of the emulated machine.
#[test]
fn wrong_set_ups_end_with_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |system: &str, port: &str| -> String {
        let (file, socket) = (dir.path().join("t.toml"), dir.path().join("t.sock"));
        let text = format!(
            "schema = 1\n[system]\nhugepages = false\ninstance = \"natrefused\"\n{system}\n[api]\nsocket = {socket:?}\n\
             [metrics]\nlisten = \"\"\n[[port]]\nname = \"p\"\n{port}\n[[interface]]\nname = \"i\"\nport = \"p\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_natgate"))
            .args(["run", "-c"])
            .arg(&file)
            .output()
            .expect("natgate starts");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{log}");
        let mut said = log.lines().filter(|line| line.starts_with("natgate: "));
        let sentence = said.next().unwrap_or_else(|| panic!("{log}")).to_string();
        assert_eq!(said.next(), None, "{log}");
        println!("{sentence}");
        sentence
    };
    let small = "workers = 2\nmemory = \"256MiB\"\nsessions = 1024";
    for (port, said) in [
        ("device = \"pci:0000:ff:1f.7\"", "no PCI "),
        ("device = \"af_packet:nosuchif\"", "(`ip link` lists"),
        (
            "device = \"dpdk:net_af_packet5,iface=lo,qpairs=1\"\nqueues = 2",
            "1 receive queues and 2 are wanted (set queues = 1",
        ),
        (
            "bond = { members = [\"af_packet:lo\", \"af_packet:nosuchif\"] }",
            "no network interface nosuchif",
        ),
    ] {
        let sentence = refused(small, port);
        assert!(
            sentence.contains(said) && sentence.contains("port p ("),
            "{sentence}"
        );
    }
    // Half as many sessions again as the machine has memory for.
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.split_whitespace().nth(1).unwrap();
    let sessions = total.parse::<u64>().unwrap() * 1024 * 3 / 2 / 110;
    if sessions > 1_000_000_000 {
        println!("left out: no configuration is too large for this machine");
        return;
    }
    let large = format!("memory = \"512GiB\"\nsessions = {sessions}");
    let sentence = refused(&large, "device = \"null:\"");
    assert!(
        sentence.contains("and the machine has") && sentence.contains("system.sessions"),
        "{sentence}"
    );
}
