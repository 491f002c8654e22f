//! Masquerading IPv6, beside the kernel's.

use nix::errno::Errno;

use crate::lab::{Setup, same_on_both};
use crate::probe::Answer;

const MASQUERADE: Setup = Setup {
    kernel: Some(
        "table ip6 nat {
           chain post {
             type nat hook postrouting priority 100
             oifname wan0 masquerade
           }
         }",
    ),
    natgate: r#"
        [[source-nat]]
        src = "::/0"
        out = "wan0"
        via = "interface"
    "#,
    ..Setup::PLAIN
};

#[test]
fn ipv6_flows_leave_with_the_address_of_the_interface() {
    same_on_both(&MASQUERADE, |lab| {
        lab.expect(
            "UDP in [fd00:1::2]:40000 > [2001:db8::9]:5000 => seen [2001:db8::1]:40000, reply",
        );
        lab.expect(
            "TCP in [fd00:1::2]:40001 > [2001:db8::9]:80 => seen [2001:db8::1]:40001, reply",
        );
        lab.expect("TCP in [fd00:1::3]:0 > [fd99::5]:80 => seen [2001:db8::1]:*, reply");
        let second = lab
            .probe("UDP in [fd00:1::3]:40000 > [2001:db8::9]:5000")
            .answered();
        assert_eq!(second.ip().to_string(), "2001:db8::1");
        assert_ne!(second.port(), 40000);
        // IPv4 is not the rule's business.
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 10.0.0.2:40000, reply");
    });
}

#[test]
fn ipv6_queries_errors_and_fragments_come_back() {
    same_on_both(&MASQUERADE, |lab| {
        lab.inside.sh("ping -c 1 -W 2 -I fd00:1::2 2001:db8::9");
        lab.inside
            .sh("ping -c 1 -W 2 -s 3000 -I fd00:1::3 2001:db8::9");
        assert_eq!(
            lab.probe_closed("UDP in [fd00:1::2]:0 > [2001:db8::9]:9"),
            Answer::Error(Errno::ECONNREFUSED)
        );
        let path = lab.inside.sh("traceroute -6 -n -q 1 -w 2 fd99::5");
        assert!(
            path.contains("fd00:1::1") && path.contains("fd99::5"),
            "{path}"
        );
    });
}

#[test]
fn ipv6_senders_learn_the_mtu_behind_the_translator() {
    let narrow = Setup {
        wan_mtu: 1400,
        ..MASQUERADE
    };
    same_on_both(&narrow, |lab| {
        let path = lab.inside.sh("tracepath -6 -n -m 5 2001:db8::9");
        assert!(
            path.contains("pmtu 1400") && path.contains("reached"),
            "{path}"
        );
    });
}
