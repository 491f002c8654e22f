//! Realms on the wire: two VLANs whose hosts have the same addresses; and what rests across a restart.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::accounting;
use crate::lab::{Gateway, Lab, Setup, on_workers};
use crate::natgate::Natgate;
use crate::ns::Ns;
use crate::probe::Proto;

/// A network of its own with a host 10.0.0.2, on a cable to the middle namespace.
fn network(lab: &Lab, name: &str) -> Ns {
    let ns = Ns::create(name);
    let gw = lab.middle.name();
    ns.ip(&format!(
        "link add eth0 type veth peer name {name}0 netns {gw}"
    ));
    ns.ip("link set eth0 up
           addr add 10.0.0.2/24 dev eth0
           route add default via 10.0.0.1");
    ns.sh("ethtool -K eth0 tx off rx off tso off gso off gro off");
    lab.middle.ip(&format!(
        "link set {name}0 arp off
         link set {name}0 up"
    ));
    lab.middle.sh(&format!(
        "ethtool -K {name}0 tx off rx off tso off gso off gro off"
    ));
    ns
}

/// Asks an echo service outside; the source it saw.
fn asked(lab: &Lab, ns: &Ns, text: &str) -> SocketAddr {
    let to: SocketAddr = "203.0.113.9:5000".parse().unwrap();
    let echo = lab.echo("out", Proto::Udp, to);
    let socket = ns.enter(|| UdpSocket::bind("10.0.0.2:4000").unwrap());
    let patience = Some(Duration::from_millis(500));
    socket.set_read_timeout(patience).unwrap();
    let mut answer = [0; 100];
    for turn in 0..20 {
        // The first packets look for neighbours on the way.
        let payload = format!("{text} {turn}");
        socket.send_to(payload.as_bytes(), to).unwrap();
        if let Ok((length, from)) = socket.recv_from(&mut answer) {
            assert_eq!((from, &answer[..length]), (to, payload.as_bytes()));
            return echo.source_of(payload.as_bytes()).unwrap();
        }
    }
    panic!("no answer; log:\n{}", lab.natgate().log());
}

/// The second natgate is the access network: it puts the hosts of each realm on a VLAN of the trunk to the first.
const ACCESS: &str = r#"
    [[port]]
    name = "trunk"
    device = "af_packet:c0b"
    [[port]]
    name = "to-red"
    device = "af_packet:red0"
    [[port]]
    name = "to-blue"
    device = "af_packet:blue0"
    [[interface]]
    name = "up-red"
    port = "trunk"
    vlan = 10
    vrf = "red"
    address = ["10.1.0.2/30"]
    [[interface]]
    name = "up-blue"
    port = "trunk"
    vlan = 20
    vrf = "blue"
    address = ["10.1.0.2/30"]
    [[interface]]
    name = "red"
    port = "to-red"
    vrf = "red"
    address = ["10.0.0.1/24"]
    [[interface]]
    name = "blue"
    port = "to-blue"
    vrf = "blue"
    address = ["10.0.0.1/24"]
    [[route]]
    vrf = "red"
    prefix = "0.0.0.0/0"
    via = "10.1.0.1"
    [[route]]
    vrf = "blue"
    prefix = "0.0.0.0/0"
    via = "10.1.0.1"
"#;

#[test]
fn two_vlans_with_the_same_addresses() {
    let setup = Setup {
        links: "link add c0a type veth peer name c0b
                link set c0a up
                link set c0b up",
        natgate: r#"
            [[port]]
            name = "trunk"
            device = "af_packet:c0a"
            [[interface]]
            name = "red"
            port = "trunk"
            vlan = 10
            vrf = "red"
            address = ["10.1.0.1/30"]
            [[interface]]
            name = "blue"
            port = "trunk"
            vlan = 20
            vrf = "blue"
            address = ["10.1.0.1/30"]
            [[route]]
            vrf = "red"
            prefix = "10.0.0.0/24"
            via = "10.1.0.2"
            [[route]]
            vrf = "blue"
            prefix = "10.0.0.0/24"
            via = "10.1.0.2"
            [[route]]
            vrf = "red"
            prefix = "0.0.0.0/0"
            via = "203.0.113.9"
            interface = "wan0"
            [[route]]
            vrf = "blue"
            prefix = "0.0.0.0/0"
            via = "203.0.113.9"
            interface = "wan0"
            [[pool]]
            name = "red"
            addresses = ["203.0.113.20"]
            [[pool]]
            name = "blue"
            addresses = ["203.0.113.21"]
            [[source-nat]]
            in = "red"
            via = "pool:red"
            [[source-nat]]
            in = "blue"
            via = "pool:blue"
            [[source-nat]]
            in = "lan0"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
    on_workers(2, &setup, |lab| {
        // The kernel's ends of the trunk would announce themselves, without a tag.
        lab.middle.sysctl(&[
            "net.ipv6.conf.c0a.disable_ipv6=1",
            "net.ipv6.conf.c0b.disable_ipv6=1",
        ]);
        let (red, blue) = (network(lab, "red"), network(lab, "blue"));
        let mut access = Natgate::beside(lab.middle.clone(), lab.dir.path(), 1, ACCESS);
        // Three hosts with one address, the third in the realm of the gateway itself.
        let seen = [
            asked(lab, &red, "red"),
            asked(lab, &blue, "blue"),
            asked(lab, &lab.inside, "main"),
        ];
        let addresses = seen.map(|seen| seen.ip().to_string());
        assert_eq!(addresses, ["203.0.113.20", "203.0.113.21", "203.0.113.1"]);
        for (ns, seen) in [(&red, seen[0]), (&blue, seen[1])] {
            assert_eq!(asked(lab, ns, "again"), seen, "the flow goes on");
        }
        for realm in ["red", "blue", "main"] {
            let filter = ["show", "subscribers", "realm", realm, "--json"];
            let listed: serde_json::Value =
                serde_json::from_str(&lab.natgate().ask(&filter)).unwrap();
            let hosts = listed["subscribers"].as_array().unwrap();
            assert_eq!(hosts.len(), 1, "{listed}");
            assert_eq!(hosts[0]["subscriber"], "10.0.0.2");
            assert_eq!(hosts[0]["realm"], realm);
        }
        let mut losses = accounting::losses(&access);
        losses.remove("neighbour_unresolved");
        assert_eq!(losses, BTreeMap::new());
        access.finish();
    });
}

// Proves: G8.
#[test]
fn ports_rest_across_a_restart() {
    let setup = Setup {
        natgate: r#"
            [[pool]]
            name = "wan"
            addresses = ["203.0.113.20"]
            ports = "2000-2003"
            [[source-nat]]
            out = "wan0"
            via = "pool:wan"
        "#,
        ..Setup::PLAIN
    };
    on_workers(2, &setup, |lab| {
        let directory = lab.dir.path().join("state");
        let more = lab.dir.path().join("natgate.d");
        std::fs::create_dir(&more).unwrap();
        let text = format!("[system]\nstate_directory = \"{}\"\n", directory.display());
        std::fs::write(more.join("state.toml"), text).unwrap();
        lab.natgate().ask(&["reload"]);
        let before = lab.hold("in", "10.0.0.2:40000");
        let taken = lab.ask(&before, "203.0.113.9:5000").port();
        lab.restart();
        let others: Vec<_> = (0..3)
            .map(|n| lab.hold("in", &format!("10.0.0.3:{}", 41000 + n)))
            .collect();
        for other in &others {
            let port = lab.ask(other, "203.0.113.9:5000").port();
            assert_ne!(port, taken, "it rests");
        }
        let last = lab.hold("in", "10.0.0.3:42000");
        assert!(
            lab.ask(&last, "203.0.113.9:5000").nothing_arrived(),
            "the fourth port is not given out yet"
        );
        let log = lab.natgate().log();
        assert!(log.contains("ports of before the start rest"), "{log}");
    });
}
