//! Rows of the acceptance tests that stand alone: addresses that come and go, files behind links, shares of port ranges,
//! interfaces that do not forward, owned objects.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::accounting;
use crate::lab::{Lab, Setup, on_natgate, on_workers, same_on_both};
use crate::raw::{self, Capture, Packet};

#[test]
fn at_1_6_an_address_is_replaced_by_command() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        let held = lab.hold("in", "10.0.0.2:40000");
        let before = lab.ask(&held, "203.0.113.9:5000").answered();
        assert_eq!(before.to_string(), "203.0.113.1:40000");
        let replace = ["add", "address", "wan0", "203.0.113.2/24", "--replace"];
        lab.natgate().ask(&replace);
        let after = lab.ask(&held, "203.0.113.9:5000").answered();
        assert_eq!(after.ip().to_string(), "203.0.113.2");
    });
}

#[test]
fn at_1_7_without_an_address_nothing_leaves() {
    // The uplink has IPv6 alone; the LAN's address must not be lent to it (E13).
    let setup = Setup {
        kernel: None,
        whole: Some(
            r#"
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
            address = ["2001:db8::1/64"]
            [[route]]
            prefix = "203.0.113.0/24"
            interface = "wan0"
            [[source-nat]]
            out = "wan0"
            via = "interface"
            "#,
        ),
        ..Setup::PLAIN
    };
    on_natgate(&setup, |lab| {
        let seen = Capture::start(&lab.outside);
        for port in [40000, 40001] {
            let from = format!("10.0.0.2:{port}");
            let datagram = Packet::udp(&from, "203.0.113.9:5000", b"nobody", true);
            raw::send(&lab.inside, &[datagram]);
        }
        let any = |p: &Packet| p.protocol == raw::UDP && p.destination.octets() == [203, 0, 113, 9];
        assert_eq!(seen.find(Duration::from_millis(500), any), None);
        assert_eq!(accounting::dropped(lab.natgate(), "no_address"), 2);
    });
}

#[test]
fn at_2_4_a_file_behind_links_is_followed() {
    // As a ConfigMap is mounted: the file is a link into `..data`, which is a link to the directory of a version.
    let mount = tempfile::tempdir().unwrap();
    let at = |name: &str| mount.path().join(name);
    let version = |name: &str, prefix: &str| {
        std::fs::create_dir(at(name)).unwrap();
        let text = format!("nonMasqueradeCIDRs: [{prefix}]\nresyncInterval: 2s\n");
        std::fs::write(at(name).join("config"), text).unwrap();
    };
    let rules = format!(
        "[[exempt]]\nfile = {{ path = \"{}\", format = \"ip-masq-agent\", resync = \"2s\" }}\n\
         [[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n",
        at("ip-masq-agent").display()
    );
    let setup = Setup {
        kernel: None,
        natgate: Box::leak(rules.into_boxed_str()),
        ..Setup::PLAIN
    };
    version("..v1", "10.0.0.0/8");
    version("..v2", "172.16.0.0/12");
    symlink("..v1", at("..data")).unwrap();
    symlink("..data/config", at("ip-masq-agent")).unwrap();
    let from = |lab: &Lab, to: &str, source: &str| {
        lab.expect(&format!(
            "UDP in 10.0.0.2:0 > {to}:5000 => seen {source}:*, reply"
        ));
    };
    let listed = |lab: &Lab, prefix: &str| {
        let end = Instant::now() + Duration::from_secs(3);
        let rows = || lab.natgate().show("exempt").to_string();
        while !rows().contains(prefix) {
            assert!(Instant::now() < end, "{prefix} is not followed: {}", rows());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    on_natgate(&setup, |lab| {
        listed(lab, "10.0.0.0/8");
        from(lab, "10.99.0.5", "10.0.0.2");
        from(lab, "172.16.5.5", "203.0.113.1");
        // The link is swapped.
        symlink("..v2", at("..next")).unwrap();
        std::fs::rename(at("..next"), at("..data")).unwrap();
        listed(lab, "172.16.0.0/12");
        from(lab, "10.99.0.5", "203.0.113.1");
        from(lab, "172.16.5.5", "10.0.0.2");
        // Only what it leads to changes.
        std::fs::write(
            at("..v2").join("config"),
            "nonMasqueradeCIDRs: [192.168.0.0/16]\nresyncInterval: 2s\n",
        )
        .unwrap();
        listed(lab, "192.168.0.0/16");
        from(lab, "172.16.5.5", "203.0.113.1");
        from(lab, "192.168.7.5", "10.0.0.2");
        // For the next run.
        symlink("..v1", at("..next")).unwrap();
        std::fs::rename(at("..next"), at("..data")).unwrap();
        std::fs::write(
            at("..v2").join("config"),
            "nonMasqueradeCIDRs: [172.16.0.0/12]\nresyncInterval: 2s\n",
        )
        .unwrap();
    });
}

#[test]
fn at_2_12_listed_destinations_of_ipv6_keep_their_source() {
    let setup = Setup {
        kernel: Some(
            "table ip6 nat { chain post { type nat hook postrouting priority 100
               ip6 daddr { fe80::/10, fd99::/16 } return
               oifname wan0 masquerade
             }; }",
        ),
        natgate: r#"
            [[exempt]]
            dst = ["fe80::/10", "fd99::/16"]
            [[source-nat]]
            src = "::/0"
            out = "wan0"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        lab.expect("UDP in [fd00:1::2]:0 > [fd99::5]:5000 => seen [fd00:1::2]:*, reply");
        lab.expect("UDP in [fd00:1::2]:0 > [2001:db8::9]:5000 => seen [2001:db8::1]:*, reply");
        lab.expect("TCP in [fd00:1::2]:0 > [2001:db8::9]:80 => seen [2001:db8::1]:*, reply");
    });
}

#[test]
fn at_2_13_ranges_of_ports_are_drawn_by_their_size() {
    // The kernel has its two rules with the probabilities that ip-masq-agent writes (E28).
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               meta l4proto udp oifname wan0 numgen random mod 1000000000 < 469292563 masquerade to :1024-29999 random
               meta l4proto udp oifname wan0 masquerade to :32768-65535 random
             }; }",
        ),
        natgate: r#"
            [[source-nat]]
            out = "wan0"
            via = "interface"
            ports = "1024-29999,32768-65535"
            select = "random"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        let (mut low, sockets) = (0, 2000);
        for at in 0..sockets {
            let client = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"][at % 4];
            let from = 20_000 + at / 4;
            let port = lab
                .probe(&format!("UDP in {client}:{from} > 203.0.113.9:5000"))
                .port();
            assert!(
                (1024..30_000).contains(&port) || port >= 32_768,
                "port {port}"
            );
            low += usize::from(port < 30_000);
        }
        let share = low as f64 / sockets as f64;
        assert!(
            (share - 0.469).abs() < 0.04,
            "share of the first range {share}"
        );
    });
}

#[test]
fn at_4_1_an_interface_that_does_not_forward_answers_for_itself() {
    on_natgate(&Setup::MASQUERADE, |lab| {
        let config = std::fs::read_to_string(lab.natgate().config()).unwrap();
        let closed = config.replacen("name = \"lan0\"\n", "name = \"lan0\"\nforward = false\n", 1);
        assert_ne!(config, closed);
        std::fs::write(lab.natgate().config(), closed).unwrap();
        lab.natgate().ask(&["reload"]);
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen –, no reply");
        assert!(accounting::dropped(lab.natgate(), "forward_disabled") > 0);
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.2 10.0.0.1");
        std::fs::write(lab.natgate().config(), config).unwrap();
        lab.natgate().ask(&["reload"]);
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
    });
}

#[test]
fn at_4_8_what_a_rule_leaves_out_and_groups_are_not_translated() {
    let setup = Setup {
        kernel: Some(
            "table ip nat { chain post { type nat hook postrouting priority 100
               oifname wan0 ip daddr != 198.51.100.0/24 masquerade
             }; }",
        ),
        natgate: r#"
            [[source-nat]]
            out = "wan0"
            dst = "!198.51.100.0/24"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        lab.expect("UDP in 10.0.0.2:0 > 198.51.100.5:5000 => seen 10.0.0.2:*, reply");
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
        let seen = Capture::start(&lab.outside);
        for group in ["224.0.0.5", "255.255.255.255"] {
            let to = format!("{group}:5000");
            let datagram = Packet::udp("10.0.0.2:41000", &to, b"to all", true);
            raw::send(&lab.inside, &[datagram]);
        }
        let translated =
            |p: &Packet| p.protocol == raw::UDP && p.source.octets() == [203, 0, 113, 1];
        assert_eq!(seen.find(Duration::from_millis(300), translated), None);
    });
}

#[test]
fn at_4_14_a_clients_objects_survive_reloads_and_go_together() {
    on_workers(2, &Setup::MASQUERADE, |lab| {
        let natgate = lab.natgate();
        let forwarded = "TCP out 203.0.113.9:0 > 203.0.113.1:8080 listener in@10.0.0.2:80";
        let forward = "add port-forward name=vm in=wan0 dst=203.0.113.1 proto=tcp dport=8080 to=10.0.0.2:80 --origin vm-orchestrator";
        natgate.ask(&forward.split(' ').collect::<Vec<_>>());
        lab.expect(&format!("{forwarded} => seen 203.0.113.9:*, reply"));
        natgate.ask(&["reload"]);
        lab.expect(&format!("{forwarded} => seen 203.0.113.9:*, reply"));
        natgate.ask(&["delete", "--origin", "vm-orchestrator"]);
        lab.expect(&format!("{forwarded} => seen –, no reply"));
        lab.expect("UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen 203.0.113.1:*, reply");
    });
}

#[test]
fn at_0_12_what_was_saved_is_what_a_restart_runs() {
    on_workers(1, &Setup::MASQUERADE, |lab| {
        let rule = "add source-nat src=10.0.0.4 via=none --first";
        lab.natgate().ask(&rule.split(' ').collect::<Vec<_>>());
        lab.natgate().ask(&["save"]);
        let before = lab.natgate().ask(&["show", "config"]);
        lab.restart();
        assert_eq!(lab.natgate().ask(&["show", "config"]), before);
        lab.expect("UDP in 10.0.0.4:0 > 203.0.113.9:5000 => seen 10.0.0.4:*, reply");
    });
}

#[test]
fn a_restart_takes_an_unconfirmed_file_back() {
    on_workers(1, &Setup::MASQUERADE, |lab| {
        let text = std::fs::read_to_string(lab.natgate().config()).unwrap();
        let state = format!(
            "[system]\nstate_directory = \"{}/state\"\n",
            lab.dir.path().display()
        );
        let first = text.replacen("[system]\n", &state, 1);
        let second = format!("{first}\n[[exempt]]\ndst = [\"203.0.113.9/32\"]\n");
        let write = |lab: &Lab, text: &str| std::fs::write(lab.natgate().config(), text).unwrap();
        let sees = |lab: &Lab, source: &str| {
            lab.expect(&format!(
                "UDP in 10.0.0.2:0 > 203.0.113.9:5000 => seen {source}:*, reply"
            ));
        };
        write(lab, &first);
        lab.natgate().ask(&["reload"]);
        sees(lab, "203.0.113.1");
        write(lab, &second);
        lab.natgate().ask(&["reload", "--confirm", "60s"]);
        sees(lab, "10.0.0.2");
        for _ in 0..2 {
            lab.restart();
            sees(lab, "203.0.113.1");
            assert_eq!(lab.natgate().show("status")["unsaved"], true);
        }
        // Taking the file as it is settles it; so does confirming.
        lab.natgate().ask(&["reload"]);
        lab.restart();
        sees(lab, "10.0.0.2");
        write(lab, &first);
        lab.natgate().ask(&["reload", "--confirm", "60s"]);
        lab.natgate().ask(&["confirm"]);
        lab.restart();
        sees(lab, "203.0.113.1");
        assert_eq!(lab.natgate().show("status")["unsaved"], false);
        // What is written after a change was taken back counts.
        write(lab, &second);
        lab.natgate().ask(&["reload", "--confirm", "60s"]);
        lab.natgate().ask(&["rollback"]);
        sees(lab, "203.0.113.1");
        write(lab, &format!("{second}# and a remark\n"));
        lab.restart();
        sees(lab, "10.0.0.2");
    });
}
