//! iptables-save: what the targets accept and refuse.

use natgate::import::Level;

use crate::iptables::{gives, post, pre, refuses, save};
use crate::{body, has, lines};

#[test]
fn what_the_targets_accept() {
    for rule in [
        "-j MASQUERADE",
        "-j MASQUERADE --random",
        "-j MASQUERADE --random-fully",
        "-p tcp -j MASQUERADE --to-ports 1024",
        "-p udp -j MASQUERADE --to-ports 1024-65535",
        "-j SNAT --to-source 203.0.113.20",
        "-j SNAT --to-source 203.0.113.20-203.0.113.22 --random --random-fully --persistent",
        "-p tcp -j SNAT --to-source 203.0.113.20-203.0.113.30:1025-65535",
        "-s 10.0.0.5 -o eth0 -j NETMAP --to 203.0.113.40",
        "-p sctp --dport 5 -j SNAT --to 203.0.113.20",
        "-p sctp -j SNAT --to 203.0.113.20:3000-4000",
        "-p sctp -j MASQUERADE --to-ports 1024-65535",
    ] {
        let done = post(rule);
        assert!(
            done.report.count(Level::Reject) == 0 && !body(&done).is_empty(),
            "{rule}: {}",
            lines(&done)
        );
    }
    for rule in [
        "1.2.3.4",
        "10.0.0.9:1000/1000",
        "10.0.0.9:3000",
        "10.0.0.9:ssh",
        "10.0.0.9:ftp-data",
        "10.0.0.5-10.0.0.9",
    ] {
        let done = pre(&format!(
            "-d 203.0.113.1 -p tcp --dport 1000 -j DNAT --to-destination {rule}"
        ));
        gives(&done, &["[[port-forward]]"]);
    }
    gives(
        &pre("-d 203.0.113.1 -p tcp --dport 1000 -j DNAT --to-destination 10.0.0.9:ssh"),
        &["10.0.0.9:22"],
    );
    gives(
        &pre("-d 203.0.113.1 -p sctp --dport 3868 -j DNAT --to-destination 10.0.0.9:13868"),
        &[
            "proto = \"sctp\"",
            "dport = \"3868\"",
            "to = \"10.0.0.9:13868\"",
        ],
    );
    let both = save(
        "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n-A PREROUTING -d 203.0.113.40/30 -i eth0 -j NETMAP --to 10.0.0.40/30\n-A POSTROUTING -s 10.0.0.40/30 -o eth0 -j NETMAP --to 203.0.113.40/30\nCOMMIT\n",
    );
    assert_eq!(
        body(&both),
        "[[static-nat]]\nexternal = \"203.0.113.40/30\"\ninternal = \"10.0.0.40/30\"\ninterface = \"wan0\"\norigin = \"import:f:4\""
    );
}

#[test]
fn what_the_targets_refuse() {
    for (rule, code) in [
        ("-p tcp -j MASQUERADE --to-ports 1024-65536", "E-PORTS"),
        ("-p tcp -j MASQUERADE --to-ports -1", "E-PORTS"),
        ("-p tcp -j MASQUERADE --to-ports 65535-1024", "E-PORTS"),
        ("-j MASQUERADE --to-ports 1024", "E-PORTS"),
        ("-j SNAT --to-source 203.0.113.20:1024", "E-PORTS"),
        ("-p tcp -j SNAT --to-source 203.0.113.20:65536", "E-PORTS"),
        (
            "-j SNAT --to-source 203.0.113.20 --to-source 203.0.113.21",
            "E-SYNTAX",
        ),
        ("-j SNAT", "E-SYNTAX"),
        ("! -s 10.0.0.1,10.0.0.2 -j MASQUERADE", "E-SYNTAX"),
        ("-s host.example -j MASQUERADE", "E-SYNTAX"),
        ("-p tcp,udp -j MASQUERADE", "E-SYNTAX"),
        ("-i eth0 -j MASQUERADE", "E-SYNTAX"),
        ("--dport 80 -j MASQUERADE", "E-PORTS"),
        ("-p tcp --dport 90:80 -j MASQUERADE", "E-PORTS"),
        ("-m owner --uid-owner 5 -j MASQUERADE", "E-OWNER"),
        ("-m mark --mark 0x1 -j MASQUERADE", "E-MARK"),
        ("-m set --match-set x src -j MASQUERADE", "E-SET"),
        ("-m physdev --physdev-in x -j MASQUERADE", "E-PHYSDEV"),
        (
            "-m statistic --mode random --probability 0.5 -j MASQUERADE",
            "E-MATCH",
        ),
        ("-f -j MASQUERADE", "E-MATCH"),
        ("-j LOG --log-prefix x", "E-"),
        ("-j MARK --set-mark 1", "E-"),
        ("-m addrtype --dst-type ANYCAST -j MASQUERADE", "E-MATCH"),
        ("-m icmp --icmp-type 8 -j MASQUERADE", "E-MATCH"),
        ("-m conntrack --ctstate DNAT -j MASQUERADE", "E-MATCH"),
        ("-m conntrack --ctorigdst 10.0.0.1 -j MASQUERADE", "E-MATCH"),
        ("-p tcp --syn -j MASQUERADE", "E-MATCH"),
        ("-p tcp -m tcp --tcp-flags ACK ACK -j MASQUERADE", "E-MATCH"),
        ("-m rpfilter --invert -j MASQUERADE", "E-MATCH"),
        ("! -m comment --comment x -j MASQUERADE", "E-SYNTAX"),
        ("-j DROP", "E-TARGET"),
    ] {
        refuses(&post(rule), code);
    }
    for (to, code) in [
        ("DNAT --to-destination 10.0.0.9:1000/0", "E-PORTS"),
        ("DNAT --to-destination 10.0.0.9:1000/65536", "E-PORTS"),
        ("DNAT --to-destination 10.0.0.9:echo-ssh", "E-PORTS"),
        (
            "DNAT --to-destination 10.0.0.9-10.0.0.2",
            "E-RANGE-REVERSED",
        ),
        ("DNAT --to-destination :2000", "E-MATCH"),
        ("DNAT", "E-SYNTAX"),
        ("REDIRECT --to-ports 0", "E-LOCAL"),
        ("REDIRECT --to-ports 42-1234/567", "E-PORTS"),
        ("REDIRECT --to-ports 10-ssh", "E-"),
        ("ACCEPT", "E-MATCH"),
    ] {
        refuses(
            &pre(&format!("-d 203.0.113.1 -p tcp --dport 1000 -j {to}")),
            code,
        );
    }
    refuses(
        &pre("-o eth0 -p tcp --dport 1000 -j DNAT --to 10.0.0.9"),
        "E-SYNTAX",
    );
}

#[test]
fn forwards_that_meet() {
    let two = |first: &str, second: &str| {
        save(&format!(
            "*nat\n:PREROUTING ACCEPT\n-A PREROUTING -d 203.0.113.1 -p tcp {first} -j DNAT --to 10.0.0.8\n-A PREROUTING -d 203.0.113.1 -p tcp {second} -j DNAT --to 10.0.0.9\nCOMMIT\n"
        ))
    };
    let done = two("--dport 80:90", "--dport 85");
    gives(&done, &["10.0.0.8"]);
    has(&done, &["f:4: warn W-SHADOWED"]);
    has(
        &two("--dport 80:90", "--dport 85:95"),
        &["f:4: reject E-MATCH"],
    );
    gives(
        &two("-s 192.0.2.7 --dport 80", "--dport 80"),
        &["10.0.0.8", "10.0.0.9"],
    );
    gives(
        &pre("-i eth0 -j DNAT --to 10.0.0.9"),
        &["dst = \"0.0.0.0/0\"\nproto = \"any\"\nto = \"10.0.0.9\""],
    );
    has(
        &pre("-d 203.0.113.1 -p tcp --dport 80 -j DNAT --to 10.0.0.9"),
        &["warn without -i the forward applies to every interface"],
    );
}
