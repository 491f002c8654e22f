//! Programs that look for what a gateway does wrong: scanners, packet makers, peers that meet through two NATs.

use std::path::Path;
use std::sync::Arc;

use crate::accounting;
use crate::lab::{Lab, Setup, on_natgate, once_on_each, same_on_both};
use crate::natgate::Natgate;
use crate::ns::Ns;
use crate::probe::Proto;
use crate::servers::{self, Server};

/// `tools.py` with these arguments.
fn tools(arguments: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/tools.py");
    format!("/usr/bin/python3 {} {arguments}", script.display())
}

/// Two forwarded ports, and nothing else let in.
const FORWARDED: Setup = Setup {
    kernel: None,
    natgate: r#"
        [[source-nat]]
        out = "wan0"
        via = "interface"
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.1"
        proto = "tcp"
        dport = "8080"
        to = "10.0.0.2:80"
        [[port-forward]]
        in = "wan0"
        dst = "203.0.113.1"
        proto = "udp"
        dport = "53"
        to = "10.0.0.3:53"
        [filter]
        default = "drop"
        [[filter.rule]]
        in = "lan0"
        action = "accept"
    "#,
    ..Setup::PLAIN
};

/// What nmap calls open, each as `port/state/protocol`.
fn open_ports(lab: &Lab, scan: &str, target: &str) -> Vec<String> {
    let line = format!("nmap -n -Pn -T5 --max-retries 1 --min-rate 2000 {scan} -oG - {target}");
    let report = lab.outside.sh(&line);
    assert!(report.contains(&format!("Host: {target}")), "{report}");
    let words = report.split([' ', '\t', ',']);
    let open = words.filter(|word| word.contains("/open/"));
    open.map(|word| word.split("//").next().unwrap_or(word).to_owned())
        .collect()
}

#[test]
fn nmap_finds_open_what_is_forwarded_and_nothing_else() {
    on_natgate(&FORWARDED, |lab| {
        let at = |text: &str| text.parse().unwrap();
        // Open inside, whether it is forwarded or not.
        let _services = [
            lab.echo("in", Proto::Tcp, at("10.0.0.2:80")),
            lab.echo("in", Proto::Tcp, at("10.0.0.2:22")),
            lab.echo("in", Proto::Tcp, at("10.0.0.3:8080")),
            lab.echo("in", Proto::Udp, at("10.0.0.3:53")),
            lab.echo("in", Proto::Udp, at("10.0.0.3:69")),
        ];
        let public = "203.0.113.1";
        let found = open_ports(lab, "-sS -p 1-1100,8000-8100,40000-40100", public);
        assert_eq!(found, ["8080/open/tcp"]);
        assert_eq!(
            open_ports(lab, "-sT -p 20-100,8080", public),
            ["8080/open/tcp"]
        );
        assert_eq!(open_ports(lab, "-sU -p 50-70", public), ["53/open/udp"]);
        // Scans by segments that open nothing, of fragments, from a port that might be trusted.
        for scan in ["-sF", "-sX", "-sN", "-sA", "-sM", "-sS -f", "-sS -g 53"] {
            let found = open_ports(lab, &format!("{scan} -p 20-90"), public);
            assert!(found.is_empty(), "{scan}: {found:?}");
        }
        // By their own addresses the hosts inside are not there, though a route leads to them.
        for host in ["10.0.0.2", "10.0.0.3"] {
            assert!(open_ports(lab, "-sS -p 20-90,8080", host).is_empty());
        }
        // It works as before.
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
    });
}

/// Packets that hping3 says were answered.
fn answered(ns: &Ns, options: &str, target: &str) -> u64 {
    let output = ns.try_sh(&format!("timeout 30 hping3 -n {options} {target} 2>&1"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("packets received"));
    let words = line.unwrap_or_else(|| panic!("hping3 {options} {target}: {text}"));
    let before = words.split(" packets received").next().unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn hping3_gets_the_answers_it_would_get_from_the_server() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        let _open = lab.echo("out", Proto::Tcp, "203.0.113.9:80".parse().unwrap());
        let ask = |options: &str| {
            answered(
                &lab.inside,
                &format!("-c 5 -i u20000 {options}"),
                "203.0.113.9",
            )
        };
        assert_eq!(ask("-S -p 80"), 5, "SYN to an open port");
        assert_eq!(ask("-S -p 81"), 5, "SYN to a closed port: resets");
        assert_eq!(ask("-2 -p 9"), 5, "UDP to a closed port: errors");
        assert_eq!(ask("-1"), 5, "pings");
        assert_eq!(ask("-S -p 80 -d 64 -m 32"), 5, "SYN in pieces");
        // A first piece of 16 bytes hides half of the header from every filter (RFC 1858).
        let tiny = if lab.is_kernel() { 5 } else { 0 };
        assert_eq!(ask("-S -p 80 -d 64 -f"), tiny, "SYN in tiny pieces");
        assert_eq!(
            ask("-S -p 80 -t 1"),
            5,
            "the gateway says that time ran out"
        );
    });
}

#[test]
fn floods_from_everywhere_leave_others_alone() {
    on_natgate(&FORWARDED, |lab| {
        let _open = lab.echo("in", Proto::Tcp, "10.0.0.2:80".parse().unwrap());
        let held = lab.hold("in", "10.0.0.4:40000");
        let before = lab.ask(&held, "203.0.113.9:5000").answered();
        for flood in [
            "-S -p 8080 --rand-source",
            "-S -p ++1 --rand-source",
            "-2 -p ++1 --rand-source",
            "-1 --rand-source",
            "-F -P -U -p 8080 --rand-source",
            "-0 --ipproto 99 --rand-source",
        ] {
            let line = format!(
                "timeout 30 hping3 -q -n -c 3000 -i u100 {flood} 203.0.113.1 >/dev/null 2>&1"
            );
            lab.outside.try_sh(&line);
        }
        assert_eq!(lab.ask(&held, "203.0.113.9:5000").answered(), before);
        let forwarded = "TCP out 203.0.113.9:0 > 203.0.113.1:8080 listener in@10.0.0.2:80";
        lab.expect(&format!("{forwarded} => seen 203.0.113.9:*, reply"));
        // Each of these floods has left something to count.
        assert!(accounting::ledger(lab.natgate()).received > 15_000);
    });
}

/// A client of the first STUN (RFC 3489), which names what it finds by kinds of its own.
#[test]
fn the_classic_stun_client_names_the_gateway() {
    for (filtering, name) in [
        ("endpoint", "Independent Filter"),
        ("address", "Address Dependent Filter"),
        ("address-port", "Port Dependent Filter"),
    ] {
        let rules = format!(
            r#"
            [[pool]]
            name = "wan"
            addresses = ["203.0.113.20"]
            select = "random"
            filtering = "{filtering}"
            [[source-nat]]
            out = "wan0"
            via = "pool:wan"
        "#
        );
        let setup = Setup {
            kernel: None,
            natgate: rules.leak(),
            ..Setup::PLAIN
        };
        once_on_each(&setup, |lab| {
            let _server = servers::stun(lab);
            let report = lab
                .inside
                .try_sh("timeout 30 stun 203.0.113.9 -i 10.0.0.2 2>&1");
            let report = String::from_utf8_lossy(&report.stdout).into_owned();
            let expected = format!("Independent Mapping, {name}");
            assert!(report.contains(&expected), "{expected}: {report}");
        });
    }
}

/// The second gateway, with a network behind it that has the addresses of the first.
const SECOND: &str = r#"
    [[port]]
    name = "p-lan"
    device = "af_packet:lan0"
    [[port]]
    name = "p-wan"
    device = "af_packet:wan0"
    [[interface]]
    name = "lan0"
    port = "p-lan"
    address = ["10.0.0.1/24"]
    [[interface]]
    name = "wan0"
    port = "p-wan"
    address = ["192.0.2.1/24"]
    [[route]]
    prefix = "0.0.0.0/0"
    via = "192.0.2.9"
    [[pool]]
    name = "wan"
    addresses = ["192.0.2.20"]
    select = "random"
    mapping = "MAPPING"
    filtering = "address-port"
    [[source-nat]]
    out = "wan0"
    via = "pool:wan"
"#;

const FIRST: &str = r#"
    [[pool]]
    name = "wan"
    addresses = ["203.0.113.20"]
    select = "random"
    mapping = "MAPPING"
    filtering = "address-port"
    [[source-nat]]
    out = "wan0"
    via = "pool:wan"
"#;

/// Both peers run; where each met the other, or nothing.
fn meeting(lab: &Lab, mapping: &str) -> [Option<String>; 2] {
    let (far, gateway) = (Ns::create("in2"), Arc::new(Ns::create("gw2")));
    let name = gateway.name();
    far.sysctl(&["net.ipv6.conf.default.disable_ipv6=1"]);
    gateway.sysctl(&["net.ipv6.conf.default.disable_ipv6=1"]);
    far.ip(&format!(
        "link add eth0 type veth peer name lan0 netns {name}"
    ));
    lab.outside.ip(&format!(
        "link add eth2 type veth peer name wan0 netns {name}"
    ));
    gateway.ip("link set lan0 arp off up
                link set wan0 arp off up");
    far.ip("link set eth0 up
            addr add 10.0.0.2/24 dev eth0
            route add default via 10.0.0.1");
    lab.outside.ip("link set eth2 up
                    addr add 192.0.2.9/24 dev eth2");
    lab.outside.sysctl(&["net.ipv4.ip_forward=1"]);
    for (ns, device) in [
        (&far, "eth0"),
        (&*gateway, "lan0"),
        (&*gateway, "wan0"),
        (&lab.outside, "eth2"),
    ] {
        ns.sh(&format!(
            "ethtool -K {device} tx off rx off tso off gso off gro off"
        ));
    }
    let network = SECOND.replace("MAPPING", mapping);
    let mut second = Natgate::beside(Arc::clone(&gateway), lab.dir.path(), 2, &network);
    let _server = Server::start(&lab.outside, &tools("rendezvous 198.51.100.5 7000"));
    let peer = tools("peer 10.0.0.2 198.51.100.5 7000");
    let met = std::thread::scope(|scope| {
        let peers = [&lab.inside, &far].map(|ns| scope.spawn(|| ns.try_sh(&peer)));
        peers.map(|peer| {
            let output = peer.join().unwrap();
            let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(told)
        })
    });
    crate::lab::Gateway::finish(&mut second);
    met
}

#[test]
fn peers_behind_two_gateways_meet_by_punching_holes() {
    let setup = |mapping: &str| Setup {
        kernel: None,
        natgate: FIRST.replace("MAPPING", mapping).leak(),
        ..Setup::PLAIN
    };
    on_natgate(&setup("endpoint"), |lab| {
        let [first, second] = meeting(lab, "endpoint").map(|met| met.expect("they meet"));
        assert!(first.starts_with("192.0.2.20:"), "{first}");
        assert!(second.starts_with("203.0.113.20:"), "{second}");
    });
    // Mappings of both that depend on the remote cannot be foreseen.
    once_on_each(&setup("address-port"), |lab| {
        assert_eq!(meeting(lab, "address-port"), [None, None]);
    });
}

#[test]
fn scapys_pieces_arrive_or_not_as_through_the_kernel() {
    const KINDS: [(&str, bool); 12] = [
        ("in order", true),
        ("last first", true),
        ("without the first", false),
        ("shuffled", true),
        ("each twice", true),
        ("of eight bytes", true),
        ("large", true),
        ("without the last", false),
        ("overlapping", false),
        ("one within another", false),
        ("beyond the end of a datagram", false),
        ("amid a flood of others", true),
    ];
    same_on_both(&Setup::MASQUERADE, |lab| {
        let _echo = lab.echo("out", Proto::Udp, "203.0.113.9:5000".parse().unwrap());
        let report = lab.inside.sh(&tools("fragments 10.0.0.2 203.0.113.9 5000"));
        let expected = KINDS.map(|(kind, answered)| {
            let end = if answered { "answered" } else { "silence" };
            format!("{kind}: {end}")
        });
        let told: Vec<&str> = report.lines().collect();
        assert_eq!(told, expected, "{}", lab.gateway_name());
    });
}
