//! Imports beside their originals: iptables-restore loads the rules into the kernel's gateway, natgate runs what the
//! importer made of them, and the same probes go through both.

use natgate::import::{Format, Input, Level, Options, import};

use crate::lab::{Lab, Setup, same_on_both};

/// What comes of a text that is imported without a rejection.
fn imported(format: Format, text: &str, options: &Options) -> &'static str {
    let input = Input {
        name: "original".to_string(),
        path: None,
        text: text.to_string(),
    };
    let done = import(format, &[input], options).unwrap();
    let report: Vec<String> = done.report.lines.iter().map(ToString::to_string).collect();
    assert!(
        !done.report.invalid && done.report.count(Level::Reject) == 0,
        "{}",
        report.join("\n")
    );
    Box::leak(done.toml.into_boxed_str())
}

/// Runs a test through the kernel with `original` loaded, and through natgate with `natgate` configured.
fn beside_the_original(original: &str, setup: Setup, test: impl Fn(&Lab)) {
    beside("iptables-restore", original, setup, test);
}

/// The same with the program that loads the original.
fn beside(restore: &str, original: &str, setup: Setup, test: impl Fn(&Lab)) {
    let setup = Setup {
        kernel: Some(""),
        ..setup
    };
    same_on_both(&setup, |lab| {
        if lab.is_kernel() {
            let file = lab.dir.path().join("original");
            std::fs::write(&file, original).unwrap();
            lab.middle.sh(&format!("{restore} < {}", file.display()));
        }
        test(lab);
    });
}

fn rules_beside_their_import(
    rules: &str,
    kernel_extra: &'static [&'static str],
    test: impl Fn(&Lab),
) {
    let setup = Setup {
        natgate: imported(Format::Iptables, rules, &Options::default()),
        kernel_extra,
        ..Setup::PLAIN
    };
    beside_the_original(rules, setup, test);
}

/// A LAN behind one address with ports that lead in (S4), as libvirt and its administrators write it.
const CLOSED_LAN: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 203.0.113.1/32 -i wan0 -p tcp -m tcp --dport 8022 -j DNAT --to-destination 10.0.0.2:22
-A PREROUTING -d 203.0.113.1/32 -i wan0 -p tcp -m tcp --dport 8023 -j DNAT --to-destination 10.0.0.3:22
-A PREROUTING -d 203.0.113.1/32 -i wan0 -p udp -m udp --dport 9000:9002 -j DNAT --to-destination 10.0.0.4:20-22/9000
-A POSTROUTING -d 10.99.0.0/16 -j ACCEPT
-A POSTROUTING -s 10.0.0.0/24 ! -d 10.0.0.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535
-A POSTROUTING -s 10.0.0.0/24 ! -d 10.0.0.0/24 -p udp -j MASQUERADE --to-ports 1024-65535
-A POSTROUTING -s 10.0.0.0/24 ! -d 10.0.0.0/24 -j MASQUERADE
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -d 10.0.0.2/32 -o lan0 -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -d 10.0.0.4/32 -o lan0 -p udp -m udp --dport 20:22 -j ACCEPT
-A FORWARD -d 10.0.0.0/24 -o lan0 -m state --state RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s 10.0.0.0/24 -i lan0 -p tcp -m tcp --dport 25 -j REJECT --reject-with icmp-admin-prohibited
-A FORWARD -s 10.0.0.0/24 -i lan0 -j ACCEPT
-A FORWARD -i lan0 -o lan0 -j ACCEPT
-A FORWARD -o lan0 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -i lan0 -j REJECT --reject-with icmp-port-unreachable
COMMIT
";

#[test]
fn a_closed_lan_with_port_forwards() {
    rules_beside_their_import(CLOSED_LAN, &[], |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        lab.expect("TCP in 10.0.0.3:40000 > 203.0.113.9:80 => seen 203.0.113.1:40000, reply");
        assert!(lab.probe("UDP in 10.0.0.2:300 > 203.0.113.9:5000").port() >= 1024);
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.2 203.0.113.9");
        lab.expect("UDP in 10.0.0.2:0 > 10.99.0.5:5000 => seen 10.0.0.2:*, reply");
        lab.expect("TCP in 10.0.0.2:0 > 203.0.113.9:25 => seen –, unreachable");
        // The filter has an accept for the first forward and for the third, not for the second.
        lab.expect("TCP out 203.0.113.9:0 > 203.0.113.1:8022 listener in@10.0.0.2:22 => seen 203.0.113.9:*, reply");
        lab.expect(
            "TCP out 203.0.113.9:0 > 203.0.113.1:8023 listener in@10.0.0.3:22 => seen –, refused",
        );
        lab.expect("UDP out 203.0.113.9:0 > 203.0.113.1:9002 listener in@10.0.0.4:22 => seen 203.0.113.9:*, reply");
        lab.expect("UDP out 203.0.113.9:0 > 10.0.0.2:99 => seen –, refused");
        lab.expect("TCP out 203.0.113.9:0 > 10.0.0.3:99 => seen –, refused");
    });
}

/// Chains of a user's own in both tables, with returns, and a source address besides the interface's.
const CHAINS: &str = "\
*nat
:POSTROUTING ACCEPT [0:0]
:tenant - [0:0]
-A POSTROUTING -s 10.0.0.2/31 -o wan0 -j tenant
-A POSTROUTING -o wan0 -j MASQUERADE
-A tenant -d 198.51.100.0/24 -j RETURN
-A tenant -p udp -j SNAT --to-source 203.0.113.20
COMMIT
*filter
:FORWARD DROP [0:0]
:tenant - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i lan0 -j tenant
-A FORWARD -i lan0 -p udp -j ACCEPT
-A tenant -s 10.0.0.3/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset
-A tenant -s 10.0.0.4/32 -j RETURN
-A tenant -p tcp -j ACCEPT
-A tenant -p icmp -m icmp --icmp-type 8 -j ACCEPT
COMMIT
";

#[test]
fn chains_of_a_user() {
    rules_beside_their_import(CHAINS, &["203.0.113.20/24"], |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.20:40000, reply");
        lab.expect("UDP in 10.0.0.2:40001 > 198.51.100.5:5000 => seen 203.0.113.1:40001, reply");
        lab.expect("TCP in 10.0.0.2:40002 > 203.0.113.9:80 => seen 203.0.113.1:40002, reply");
        lab.expect("UDP in 10.0.0.4:40003 > 203.0.113.9:5000 => seen 203.0.113.1:40003, reply");
        lab.expect("TCP in 10.0.0.3:0 > 203.0.113.9:80 => seen –, refused");
        lab.expect("TCP in 10.0.0.3:0 > 203.0.113.9:81 => seen 203.0.113.1:*, reply");
        lab.expect("TCP in 10.0.0.4:0 > 203.0.113.9:81 => seen –, timeout");
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.2 203.0.113.9");
        let silent = lab.inside.try_sh("ping -c 1 -W 1 -I 10.0.0.4 203.0.113.9");
        assert!(!silent.status.success(), "no rule lets it ping");
    });
}

#[test]
fn rules_without_state_judge_answers_too() {
    let rules = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n\
                 *filter\n:FORWARD DROP [0:0]\n-A FORWARD -i lan0 -j ACCEPT\n-A FORWARD -p tcp -m tcp --sport 80 -j ACCEPT\nCOMMIT\n";
    rules_beside_their_import(rules, &[], |lab| {
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, timeout");
        lab.expect("TCP in 10.0.0.2:40000 > 203.0.113.9:80 => seen 203.0.113.1:40000, reply");
    });
}

#[test]
fn networks_mapped_onto_each_other() {
    let rules = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
                 -A PREROUTING -d 203.0.113.40/30 -i wan0 -j NETMAP --to 10.0.0.4/30\n\
                 -A POSTROUTING -s 10.0.0.4/30 -o wan0 -j NETMAP --to 203.0.113.40/30\n\
                 -A POSTROUTING -o wan0 -j MASQUERADE\nCOMMIT\n";
    rules_beside_their_import(rules, &["203.0.113.41/24"], |lab| {
        lab.expect("UDP in 10.0.0.5:40000 > 203.0.113.9:5000 => seen 203.0.113.41:40000, reply");
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 203.0.113.1:40000, reply");
        lab.expect("UDP out 203.0.113.9:0 > 203.0.113.41:53 listener in@10.0.0.5:53 => seen 203.0.113.9:*, reply");
    });
}

#[test]
fn the_list_of_an_ip_masq_agent() {
    let list = "nonMasqueradeCIDRs:\n- 10.0.0.0/8\n- 192.168.0.0/16\nresyncInterval: 60s\n";
    // What the agent itself makes of it.
    let rules = "*nat\n:POSTROUTING ACCEPT [0:0]\n:IP-MASQ-AGENT - [0:0]\n\
                 -A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT\n\
                 -A IP-MASQ-AGENT -d 169.254.0.0/16 -j RETURN\n\
                 -A IP-MASQ-AGENT -d 10.0.0.0/8 -j RETURN\n\
                 -A IP-MASQ-AGENT -d 192.168.0.0/16 -j RETURN\n\
                 -A IP-MASQ-AGENT -j MASQUERADE --random-fully\nCOMMIT\n";
    let inside = Options {
        inside: vec!["lan0".to_string()],
        ..Options::default()
    };
    for natgate in [
        imported(Format::IpMasqAgent, list, &inside),
        imported(Format::Iptables, rules, &Options::default()),
    ] {
        let setup = Setup {
            natgate,
            ..Setup::PLAIN
        };
        beside_the_original(rules, setup, |lab| {
            for (to, seen) in [
                ("10.99.0.5", "10.0.0.2"),
                ("192.168.7.5", "10.0.0.2"),
                ("169.254.7.7", "10.0.0.2"),
                ("172.16.5.5", "203.0.113.1"),
                ("100.64.3.3", "203.0.113.1"),
                ("203.0.113.9", "203.0.113.1"),
            ] {
                lab.expect(&format!(
                    "UDP in 10.0.0.2:0 > {to}:5000 => seen {seen}:*, reply"
                ));
                lab.expect(&format!(
                    "TCP in 10.0.0.2:0 > {to}:80 => seen {seen}:*, reply"
                ));
            }
        });
    }
}

/// The same gateway for IPv6, as ip6tables-save prints it.
const SIX: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 2001:db8::1/128 -i wan0 -p tcp -m tcp --dport 8022 -j DNAT --to-destination [fd00:1::2]:22
-A PREROUTING -d 2001:db8::1/128 -i wan0 -p udp -m udp --dport 9000:9002 -j DNAT --to-destination [fd00:1::3]:20-22/9000
-A POSTROUTING -d fd99::/16 -j ACCEPT
-A POSTROUTING -s fd00:1::3/128 -p udp -j SNAT --to-source 2001:db8::30
-A POSTROUTING -s fd00:1::/64 -o wan0 -p tcp -j MASQUERADE --to-ports 1024-65535
-A POSTROUTING -s fd00:1::/64 -o wan0 -j MASQUERADE
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -d fd00:1::2/128 -o lan0 -p tcp -m tcp --dport 22 -j ACCEPT
-A FORWARD -d fd00:1::3/128 -o lan0 -p udp -m udp --dport 20:22 -j ACCEPT
-A FORWARD -d fd00:1::/64 -o lan0 -m state --state RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -s fd00:1::/64 -i lan0 -j ACCEPT
-A FORWARD -o lan0 -j REJECT --reject-with icmp6-port-unreachable
COMMIT
";

#[test]
fn a_closed_lan_of_ipv6() {
    let setup = Setup {
        natgate: imported(Format::Ip6tables, SIX, &Options::default()),
        // Deprecated, so that masquerading does not choose it.
        kernel_extra: &["2001:db8::30/64 preferred_lft 0"],
        ..Setup::PLAIN
    };
    beside("ip6tables-restore", SIX, setup, |lab| {
        lab.expect(
            "UDP in [fd00:1::2]:40000 > [2001:db8::9]:5000 => seen [2001:db8::1]:40000, reply",
        );
        lab.expect(
            "UDP in [fd00:1::3]:40000 > [2001:db8::9]:5000 => seen [2001:db8::30]:40000, reply",
        );
        lab.expect("TCP in [fd00:1::3]:0 > [2001:db8::9]:80 => seen [2001:db8::1]:*, reply");
        let moved = lab
            .probe("TCP in [fd00:1::2]:300 > [2001:db8::9]:80")
            .port();
        assert!(moved >= 1024, "{moved}");
        lab.inside.sh("ping -c 1 -W 2 -I fd00:1::2 2001:db8::9");
        lab.expect("UDP in [fd00:1::2]:0 > [fd99::5]:5000 => seen [fd00:1::2]:*, reply");
        lab.expect("TCP out [2001:db8::9]:0 > [2001:db8::1]:8022 listener in@[fd00:1::2]:22 => seen [2001:db8::9]:*, reply");
        lab.expect("UDP out [2001:db8::9]:0 > [2001:db8::1]:9001 listener in@[fd00:1::3]:21 => seen [2001:db8::9]:*, reply");
        lab.expect("TCP out [2001:db8::9]:0 > [fd00:1::2]:99 => seen –, no reply");
        // IPv4 is not its business.
        lab.expect("UDP in 10.0.0.2:40000 > 203.0.113.9:5000 => seen 10.0.0.2:40000, reply");
    });
}

/// cnat's commands beside the same translation in the kernel's own words: VPP itself is not at hand.
#[test]
fn the_services_and_sources_of_a_cnat() {
    let commands = "set cnat snat-policy addr 203.0.113.30\nset cnat snat-policy if-pfx\n\
                    set cnat snat-policy if table include-v4 lan0\nset cnat snat-policy prefix 172.16.0.0/12\n\
                    set interface feature lan0 cnat-snat-ip4 arc ip4-unicast\n\
                    cnat translation add proto TCP vip 198.18.0.2 80 to ->10.0.0.2 8080 maglev\n\
                    cnat translation add proto UDP vip 198.18.0.2 53 to ->10.0.0.3 5353 default\n\
                    cnat translation add proto TCP real 203.0.113.1 8081 to 10.0.0.1 0->10.0.0.2 8080 default\n";
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain pre { type nat hook prerouting priority -100
               ip daddr 198.18.0.2 tcp dport 80 dnat to 10.0.0.2:8080
               ip daddr 198.18.0.2 udp dport 53 dnat to 10.0.0.3:5353
               ip daddr 203.0.113.1 tcp dport 8081 dnat to 10.0.0.2:8080
             }
             chain post { type nat hook postrouting priority 100
               ct original ip daddr 203.0.113.1 ip daddr 10.0.0.2 tcp dport 8080 snat to 10.0.0.1
               iifname lan0 ip daddr != 172.16.0.0/12 snat to 203.0.113.30
             }; }",
        ),
        natgate: imported(Format::Cnat, commands, &Options::default()),
        kernel_extra: &["203.0.113.30/24"],
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        lab.outside.ip("route add 198.18.0.0/24 via 203.0.113.1");
        lab.expect("TCP out 203.0.113.9:0 > 198.18.0.2:80 listener in@10.0.0.2:8080 => seen 203.0.113.9:*, reply");
        lab.expect("UDP out 203.0.113.9:0 > 198.18.0.2:53 listener in@10.0.0.3:5353 => seen 203.0.113.9:*, reply");
        lab.expect("TCP out 203.0.113.9:0 > 203.0.113.1:8081 listener in@10.0.0.2:8080 => seen 10.0.0.1:*, reply");
        lab.expect("UDP in 10.0.0.4:40000 > 203.0.113.9:5000 => seen 203.0.113.30:40000, reply");
        lab.expect("TCP in 10.0.0.4:0 > 198.51.100.5:80 => seen 203.0.113.30:*, reply");
        lab.expect("UDP in 10.0.0.4:0 > 172.16.5.5:5000 => seen 10.0.0.4:*, reply");
    });
}
