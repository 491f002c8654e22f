//! An address that a DHCP server leases: used, renewed, kept by a restart, replaced by another.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, Setup, on_workers};
use crate::servers::Server;

const NETWORK: &str = r#"
    [[port]]
    name = "inside"
    device = "af_packet:lan0"
    [[port]]
    name = "trunk"
    device = "af_packet:wan0"
    [[interface]]
    name = "lan"
    port = "inside"
    address = ["10.0.0.1/24"]
    [[interface]]
    name = "internet"
    port = "trunk"
    address = "dhcp"
    [[source-nat]]
    out = "internet"
    via = "interface"
    [[port-forward]]
    in = "internet"
    dst = "interface:internet"
    proto = "tcp"
    dport = 10022
    to = "10.0.0.2:22"
"#;

/// Where the server writes what it says.
fn log(lab: &Lab) -> String {
    let file = lab.dir.path().join("dnsmasq.log");
    std::fs::read_to_string(file).unwrap_or_default()
}

/// dnsmasq that leases one address, for two minutes, renewed after three seconds.
fn server(lab: &Lab, address: &str) -> Server {
    let dir = lab.dir.path().display();
    let line = format!(
        "dnsmasq --no-daemon --conf-file=/dev/null --port=0 --interface=eth0 --bind-interfaces --user=root \
         --dhcp-authoritative --no-ping --dhcp-range={address},{address},255.255.255.0,120 \
         --dhcp-option=option:router,198.51.100.1 --dhcp-option=option:T1,3 --dhcp-option=option:T2,100 \
         --dhcp-leasefile={dir}/{address}.leases --log-facility={dir}/dnsmasq.log --pid-file"
    );
    Server::start(&lab.outside, &line)
}

/// Waits until something is true.
fn until(what: &str, lab: &Lab, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(
            Instant::now() < deadline,
            "{what}; the server's log:\n{}\nnatgate's:\n{}",
            log(lab),
            lab.natgate().log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The interface with the lease.
fn internet(lab: &Lab) -> Value {
    let interfaces = lab.natgate().show("interfaces");
    let mut list = interfaces["interfaces"].as_array().unwrap().iter();
    list.find(|i| i["interface"] == "internet").unwrap().clone()
}

fn leased(lab: &Lab, address: &str) {
    let wanted = format!("{address}/24");
    until(&format!("{wanted} is not leased"), lab, || {
        internet(lab)["addresses"][0] == wanted.as_str()
    });
}

#[test]
fn an_address_is_leased_renewed_kept_and_replaced() {
    let setup = Setup {
        kernel: None,
        whole: Some(NETWORK),
        ..Setup::PLAIN
    };
    on_workers(2, &setup, |lab| {
        lab.outside.ip("addr flush dev eth0
                        addr add 198.51.100.1/24 dev eth0
                        addr add 192.0.2.9/32 dev lo");
        let first = server(lab, "198.51.100.50");
        assert_eq!(internet(lab)["addresses"], Value::Array(Vec::new()));
        let status = lab.natgate().ask(&["show", "status"]);
        assert!(status.contains("interface internet: no lease"), "{status}");
        // The lease is remembered where the state is.
        let text = std::fs::read_to_string(lab.natgate().config()).unwrap();
        let state = format!(
            "[system]\nstate_directory = \"{}/state\"\n",
            lab.dir.path().display()
        );
        std::fs::write(
            lab.natgate().config(),
            text.replacen("[system]\n", &state, 1),
        )
        .unwrap();
        lab.natgate().ask(&["reload"]);

        leased(lab, "198.51.100.50");
        let lease = internet(lab)["lease"].clone();
        assert_eq!(
            (&lease["state"], &lease["server"]),
            (&"bound".into(), &"198.51.100.1".into())
        );
        assert!(lease["expires_seconds"].as_u64().unwrap() <= 120);
        let call = lab.hold("in", "10.0.0.2:40000");
        let public = lab.ask(&call, "192.0.2.9:5000").answered();
        assert_eq!(public.to_string(), "198.51.100.50:40000");
        lab.expect("TCP out 192.0.2.9:0 > 198.51.100.50:10022 listener in@10.0.0.2:22 => seen 192.0.2.9:*, reply");
        let routes = lab.natgate().ask(&["show", "routes"]);
        assert!(routes.contains("dhcp"), "{routes}");
        let table = lab.natgate().ask(&["show", "interfaces"]);
        assert!(table.contains("bound from 198.51.100.1"), "{table}");
        let status = lab.natgate().ask(&["show", "status"]);
        assert!(!status.contains("lease"), "{status}");
        let said = |what: &str| log(lab).matches(what).count();
        until("the lease is not renewed", lab, || said("DHCPACK") >= 2);
        // A reload, also with changes, keeps it, and no file gets it.
        lab.natgate().ask(&["set", "timeouts.udp", "6m"]);
        lab.natgate().ask(&["save"]);
        assert_eq!(lab.ask(&call, "192.0.2.9:5000").answered(), public);
        let saved = std::fs::read_to_string(lab.natgate().config()).unwrap();
        assert!(
            saved.contains("\"dhcp\"") && !saved.contains("198.51.100"),
            "{saved}"
        );

        let discovered = said("DHCPDISCOVER");
        lab.restart();
        leased(lab, "198.51.100.50");
        lab.expect("UDP in 10.0.0.3:40001 > 192.0.2.9:5000 => seen 198.51.100.50:40001, reply");
        let said = |what: &str| log(lab).matches(what).count();
        assert_eq!(said("DHCPDISCOVER"), discovered, "asked for the same one");

        assert_eq!(lab.ask(&call, "192.0.2.9:5000").answered(), public);
        drop(first);
        let _second = server(lab, "198.51.100.60");
        leased(lab, "198.51.100.60");
        let moved = lab.ask(&call, "192.0.2.9:5000").answered();
        assert_eq!(moved.ip().to_string(), "198.51.100.60", "sessions move");
        lab.expect("TCP out 192.0.2.9:0 > 198.51.100.60:10022 listener in@10.0.0.2:22 => seen 192.0.2.9:*, reply");
    });
}
