//! Destinations that are not translated (AT-2.1, AT-2.2).

use crate::lab::{Lab, Setup, same_on_both};

fn expect_source(lab: &Lab, destination: &str, source: &str) {
    lab.expect(&format!(
        "UDP in 10.0.0.2:0 > {destination}:5000 => seen {source}:*, reply"
    ));
}

/// The private ranges and link-local stay untranslated.
const PRIVATE: &str = "table ip nat { chain post { type nat hook postrouting priority 100
   ip daddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16 } return
   oifname wan0 masquerade
 }; }";

fn private_ranges_keep_their_source(lab: &Lab) {
    expect_source(lab, "203.0.113.9", "203.0.113.1");
    for exempt in ["172.16.5.5", "192.168.7.5", "10.99.0.5", "169.254.7.7"] {
        expect_source(lab, exempt, "10.0.0.2");
    }
    expect_source(lab, "100.64.3.3", "203.0.113.1");
}

#[test]
fn at_2_1_listed_ranges_keep_their_source() {
    let setup = Setup {
        kernel: Some(PRIVATE),
        natgate: r#"
            [[exempt]]
            dst = ["@rfc1918", "@link-local"]
            [[source-nat]]
            out = "wan0"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| private_ranges_keep_their_source(lab));
}

/// What ip-masq-agent leaves alone when it is told that all reserved ranges are the cluster's.
const RESERVED: &str = "table ip nat { chain post { type nat hook postrouting priority 100
   ip daddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, 100.64.0.0/10, 192.0.0.0/24,
     192.0.2.0/24, 192.88.99.0/24, 198.18.0.0/15, 198.51.100.0/24, 203.0.113.0/24, 240.0.0.0/4 } return
   oifname wan0 masquerade
 }; }";

#[test]
fn at_2_2_all_reserved_ranges_can_keep_their_source() {
    let setup = Setup {
        kernel: Some(RESERVED),
        natgate: r#"
            [[exempt]]
            dst = ["@reserved", "@link-local"]
            [[source-nat]]
            out = "wan0"
            via = "interface"
        "#,
        ..Setup::PLAIN
    };
    same_on_both(&setup, |lab| {
        for exempt in ["100.64.3.3", "198.51.100.5", "172.16.5.5", "169.254.7.7"] {
            expect_source(lab, exempt, "10.0.0.2");
        }
    });
}

#[test]
fn at_2_8_the_gateways_own_addresses_are_never_translated() {
    same_on_both(&Setup::MASQUERADE, |lab| {
        // The echo comes back to the very address that asked, from both of the gateway's sides.
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.3 203.0.113.1");
        lab.inside.sh("ping -c 1 -W 2 -I 10.0.0.3 10.0.0.1");
    });
}
