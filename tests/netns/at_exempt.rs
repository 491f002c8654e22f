//! Destinations that are not translated, listed in the configuration or in a file that is followed (AT-2.1 to AT-2.8,
//! AT-2.12, AT-2.14).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Setup, on_natgate, same_on_both};

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

/// A list that a gateway follows: natgate alone, which masquerades what the list leaves.
struct Followed {
    directory: tempfile::TempDir,
}

impl Followed {
    fn new() -> Followed {
        Followed {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ip-masq-agent")
    }

    /// Replaces the file by rename, as a ConfigMap does.
    fn write(&self, text: &str) {
        let next = self.directory.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.path()).unwrap();
    }

    fn setup(&self, more: &str) -> Setup {
        let file = format!(
            "path = \"{}\", format = \"ip-masq-agent\"",
            self.path().display()
        );
        let rules = format!(
            "[[exempt]]\nname = \"agent\"\nfile = {{ {file}{more} }}\n\
             [[source-nat]]\nout = \"wan0\"\nvia = \"interface\"\n"
        );
        Setup {
            kernel: None,
            // A few texts for the life of the test process.
            natgate: Box::leak(rules.into_boxed_str()),
            ..Setup::PLAIN
        }
    }
}

/// The row of `show exempt` that speaks of the file.
fn file_state(lab: &Lab) -> String {
    let rows = lab.natgate().show("exempt");
    rows["exempt"][0]["state"].as_str().unwrap().to_owned()
}

fn within(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(
            Instant::now() < end,
            "{what} does not happen within {limit:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn lists(lab: &Lab, prefix: &str) -> bool {
    let rows = lab.natgate().show("exempt");
    rows["exempt"]
        .as_array()
        .unwrap()
        .iter()
        .any(|row| row["dst"] == prefix)
}

#[test]
fn at_2_1_and_2_2_without_the_file_the_defaults_hold() {
    let list = Followed::new();
    on_natgate(&list.setup(""), |lab| {
        private_ranges_keep_their_source(lab);
        lab.reload(&list.setup(", missing = \"reserved\""));
        for exempt in ["100.64.3.3", "198.51.100.5"] {
            expect_source(lab, exempt, "10.0.0.2");
        }
    });
}

#[test]
fn at_2_3_and_2_4_the_file_is_followed() {
    let list = Followed::new();
    list.write("nonMasqueradeCIDRs: [10.0.0.0/8]\nresyncInterval: 60s\n");
    on_natgate(&list.setup(""), |lab| {
        list.write("nonMasqueradeCIDRs: [10.0.0.0/8]\nresyncInterval: 2s\n");
        within(Duration::from_secs(3), "the first list", || {
            lists(lab, "10.0.0.0/8")
        });
        expect_source(lab, "172.16.5.5", "203.0.113.1");
        for exempt in ["10.99.0.5", "169.254.7.7"] {
            expect_source(lab, exempt, "10.0.0.2");
        }
        let held = lab.hold("in", "10.0.0.2:40000");
        let before = lab.ask(&held, "10.99.0.5:5000").answered();
        assert_eq!(before.to_string(), "10.0.0.2:40000");
        list.write("nonMasqueradeCIDRs: [172.16.0.0/12]\nresyncInterval: 2s\n");
        within(Duration::from_secs(3), "the new list", || {
            lists(lab, "172.16.0.0/12")
        });
        expect_source(lab, "172.16.5.5", "10.0.0.2");
        expect_source(lab, "10.99.0.5", "203.0.113.1");
        assert_eq!(
            lab.ask(&held, "10.99.0.5:5000").answered(),
            before,
            "the open flow keeps its treatment"
        );
    });
}

#[test]
fn at_2_5_to_2_7_bad_absent_and_empty_files() {
    let list = Followed::new();
    on_natgate(&list.setup(", resync = \"1s\""), |lab| {
        list.write("nonMasqueradeCIDRs: [172.16.0.0/12]\n");
        within(Duration::from_secs(3), "the list", || {
            lists(lab, "172.16.0.0/12") && !lists(lab, "10.0.0.0/8")
        });
        list.write("nonMasqueradeCIDRs: [10.0.0.1/8]\n");
        within(Duration::from_secs(3), "the mistake is told", || {
            file_state(lab).starts_with("stale since ")
        });
        let why = file_state(lab);
        assert!(
            why.contains("10.0.0.1/8") && why.contains("10.0.0.0/8"),
            "{why}"
        );
        expect_source(lab, "172.16.5.5", "10.0.0.2");
        expect_source(lab, "10.99.0.5", "203.0.113.1");
        let errors = || {
            let text = lab.middle.sh("curl -fsS http://127.0.0.1:9464/metrics");
            let line = text
                .lines()
                .find(|l| l.starts_with("natgate_exempt_file_config_errors_total{"))
                .unwrap()
                .to_owned();
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let first = errors();
        within(Duration::from_secs(3), "another attempt is counted", || {
            errors() > first
        });
        assert!(lab.natgate().log().contains("10.0.0.1/8"));

        std::fs::remove_file(list.path()).unwrap();
        within(Duration::from_secs(3), "the defaults are back", || {
            lists(lab, "10.0.0.0/8")
        });
        expect_source(lab, "10.99.0.5", "10.0.0.2");
        for nothing in ["nonMasqueradeCIDRs: []\n", "nonMasqueradeCIDRs: null\n"] {
            list.write(nothing);
            within(Duration::from_secs(3), "nothing is exempt", || {
                !lists(lab, "10.0.0.0/8")
            });
            expect_source(lab, "10.99.0.5", "203.0.113.1");
            expect_source(lab, "169.254.7.7", "10.0.0.2");
            list.write("");
            within(
                Duration::from_secs(3),
                "an empty file: the defaults",
                || lists(lab, "10.0.0.0/8"),
            );
        }
        std::fs::remove_file(list.path()).unwrap();
    });
}

#[test]
fn at_2_8_every_prefix_is_listed_with_origin_and_hits() {
    let list = Followed::new();
    list.write("# ours\nnonMasqueradeCIDRs:\n- 10.0.0.0/8\n");
    on_natgate(&list.setup(""), |lab| {
        expect_source(lab, "10.99.0.5", "10.0.0.2");
        let rows = lab.natgate().show("exempt");
        let rows = rows["exempt"].as_array().unwrap();
        let of = |prefix: &str| rows.iter().find(|row| row["dst"] == prefix).unwrap();
        let origin = format!("file {}:3", list.path().display());
        assert_eq!(of("10.0.0.0/8")["origin"], origin.as_str());
        assert_eq!(of("10.0.0.0/8")["hits"], 1);
        assert_eq!(of("169.254.0.0/16")["origin"], "builtin link-local");
        assert_eq!(of("169.254.0.0/16")["hits"], 0);
    });
}

#[test]
fn at_2_14_a_list_beyond_its_limit_is_refused_whole() {
    let list = Followed::new();
    let many: Vec<String> = (0..65).map(|i| format!("172.16.{i}.0/24")).collect();
    let text = format!("nonMasqueradeCIDRs: [{}]\n", many.join(", "));
    list.write(&text);
    on_natgate(&list.setup(""), |lab| {
        list.write(&text);
        within(Duration::from_secs(3), "the limit is told", || {
            file_state(lab).contains("65 prefixes, at most 64")
        });
        expect_source(lab, "10.99.0.5", "10.0.0.2");
        list.write(&format!("{text}cidrLimit: 128\n"));
        within(Duration::from_secs(3), "the list", || {
            lists(lab, "172.16.64.0/24")
        });
        expect_source(lab, "172.16.5.5", "10.0.0.2");
        expect_source(lab, "10.99.0.5", "203.0.113.1");
        // The next run begins without a good list, as this one did.
        list.write(&text);
    });
}
