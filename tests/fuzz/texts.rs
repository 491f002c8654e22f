//! Targets that read text: the configuration language and device names.

use std::collections::HashSet;
use std::path::Path;

use natgate::base::Random;
use natgate::config;
use natgate::config::exemptions::{self, content};
use natgate::dataplane::device::Device;
use natgate::import::{Format, Input, Level, Options, Report, import};

use crate::common::mutate::{blindly, pick};
use crate::engine::{Target, fuzz, signature};

/// Pieces of text that mean something to the readers.
const WORDS: [&str; 29] = [
    "[[pool]]\n",
    "[[source-nat]]\n",
    "[[port-forward]]\n",
    "[[static-nat]]\n",
    "[[service]]\n",
    "backends = [{ to = \"10.0.0.2:80\" }]\n",
    "[[route]]\n",
    "[[filter.rule]]\n",
    "icmp_type = \"3/1\"\n",
    "!",
    "[system]\n",
    "= \"\"\n",
    "= []\n",
    "= -1\n",
    "= 99999999999999999999\n",
    "0.0.0.0/0",
    "255.255.255.255/32",
    "::/0",
    "1-65535",
    "65535-1",
    "0",
    "\"",
    "'''",
    "{",
    "}",
    "\u{0}",
    "é",
    "584942417355y",
    "ns",
];

struct Texts(fn(&str) -> u64);

impl Target for Texts {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        vec![(self.0)(&String::from_utf8_lossy(input))]
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut text = pick(corpus, random).cloned().unwrap_or_default();
        let other = pick(corpus, random).cloned().unwrap_or_default();
        match random.below(4) {
            0 => blindly(&mut text, 0, &other, random),
            1 => swap_lines(&mut text, &other, random),
            _ => {
                let at = random.below(text.len() as u32 + 1) as usize;
                let end = (at + random.below(6) as usize).min(text.len());
                text.splice(at..end, pick(&WORDS, random).unwrap().bytes());
            }
        }
        text
    }
}

/// Replaces a line by one of another text.
fn swap_lines(text: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let theirs: Vec<&[u8]> = other.split(|b| *b == b'\n').collect();
    let mut lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
    let at = random.below(lines.len() as u32) as usize;
    lines[at] = pick(&theirs, random).unwrap();
    let joined = lines.join(&b'\n');
    *text = joined;
}

/// All TOML files shipped and tested, each as a text.
fn configurations() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = vec![
        crate::common::LAB.as_bytes().to_vec(),
        crate::common::corpus::RULES.as_bytes().to_vec(),
    ];
    for directory in [
        "configs",
        "tests/config/mistakes",
        "tests/golden/static-nat",
    ] {
        let mut paths: Vec<_> = std::fs::read_dir(root.join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "toml"))
            .collect();
        paths.sort();
        all.extend(paths.iter().map(|path| std::fs::read(path).unwrap()));
    }
    all
}

fn read_configuration(text: &str) -> u64 {
    match config::parse_str("fuzz", text) {
        Ok(loaded) => signature((true, loaded.warnings.len())),
        Err(report) => {
            assert!(!report.diagnostics.is_empty(), "refused without a reason");
            assert!(!report.to_string().is_empty());
            signature((false, report.diagnostics.len()))
        }
    }
}

#[test]
fn configuration() {
    fuzz("config", &Texts(read_configuration), configurations(), 6);
}

fn read_device(text: &str) -> u64 {
    match text.parse::<Device>() {
        Ok(device) => {
            let again: Device = device.to_string().parse().unwrap();
            assert_eq!(again, device, "what prints reads back");
            signature(std::mem::discriminant(&device))
        }
        Err(error) => signature(error.to_string().split(' ').next_back()),
    }
}

#[test]
fn devices() {
    let corpus = [
        "pci:0000:3b:00.0,rx-burst=1",
        "af_packet:eth1",
        "af_xdp:ens3f0",
        "tap:nat0",
        "memif:/run/m.sock,id=7,role=client",
        "pcap:a.pcap,b.pcap",
        "null:size=128,rx=no",
        "dpdk:net_ring0,x=1",
    ];
    let corpus = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz("device", &Texts(read_device), corpus, 10);
}

fn read_exemptions(text: &str) -> u64 {
    let mut seen = Vec::new();
    for format in exemptions::Format::ALL {
        match content::parse(text, *format) {
            Ok(found) => {
                let list = found.prefixes.iter().flatten();
                assert!(
                    list.clone().all(|p| p.net == p.net.trunc()),
                    "host bits in {found:?}"
                );
                assert!(found.resync.is_none_or(|every| !every.is_zero()));
                seen.push((true, list.count().min(4), found.remarks.len().min(4)));
            }
            Err(mistakes) => {
                assert!(!mistakes.is_empty(), "refused without a reason");
                seen.push((false, mistakes.len().min(4), 0));
            }
        }
    }
    signature(seen)
}

#[test]
fn exemption_files() {
    let corpus = [
        "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - fd00:244::/56\nmasqLinkLocal: false\nresyncInterval: 1m30s\ncidrLimit: 128\n",
        "{\"nonMasqueradeCIDRs\": [\"10.0.0.0/8\", \"\\u0031.0.0.0/8\"], \"resyncInterval\": \"5m\"}",
        "a: &x [10.0.0.0/8, '::ffff:10.0.0.0/104']\nNONMASQUERADECIDRS: *x\n---\nb: [\n",
    ];
    let corpus = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz("exemptions", &Texts(read_exemptions), corpus, 8);
}

fn read_imports(format: Format, text: &str) -> u64 {
    let input = Input {
        name: "fuzz".to_owned(),
        path: None,
        text: text.to_owned(),
    };
    let options = Options {
        inside: vec!["lan0".to_owned()],
        enable_ipv6: text.len().is_multiple_of(2),
        target: Some([10, 0, 0, 5].into()),
        map: vec![("eth0".to_owned(), "wan0".to_owned())],
        expand_kube: true,
        ..Options::default()
    };
    let done = import(format, &[input], &options).unwrap();
    let report = &done.report;
    if matches!(format, Format::Iptables | Format::Ip6tables) && !report.invalid {
        every_rule_is_told(text, report);
    }
    if report.invalid {
        assert!(report.worst() == Level::Reject && done.toml.is_empty());
        return signature((false, report.lines.len().min(6)));
    }
    let lab = crate::common::LAB;
    if let Err(why) = config::parse_texts(&[("lab", lab), ("import", &done.toml)], &[]) {
        // Interfaces of the original must be made first, as the report says; which addresses and how much memory the
        // gateway has the importer was not told.
        let of_the_gateway = [
            "there is no interface",
            "is the address of interface",
            "is the gateway's own address",
            "holds the gateway's own address",
            "address of the connected subnet",
        ];
        let strange = |e: &&config::Diagnostic| {
            let known = of_the_gateway.iter().any(|part| e.message.contains(part));
            !known && !e.path.starts_with("interface") && e.path != "system.memory"
        };
        assert_eq!(why.errors().find(strange), None, "{why}\n{}", done.toml);
    }
    let count = |level| report.count(level).min(4);
    signature((count(Level::Ok), count(Level::Warn), count(Level::Reject)))
}

/// Whatever became of a rule, the report has a line about it.
fn every_rule_is_told(text: &str, report: &Report) {
    let told: HashSet<&str> = report
        .lines
        .iter()
        .map(|line| line.place.as_str())
        .collect();
    for (number, line) in (1..).zip(text.split('\n')) {
        let rule = line.trim().starts_with("-A ");
        let place = format!("fuzz:{number}");
        assert!(
            !rule || told.contains(place.as_str()),
            "line {number} is not told of:\n{text}"
        );
    }
}

/// The inputs of the importers' tests, whose formats differ enough to be told apart by their importers.
fn imported(names: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    names
        .iter()
        .map(|name| std::fs::read(root.join(name)).unwrap())
        .collect()
}

#[test]
fn import_config_maps() {
    let target = Texts(|text| read_imports(Format::ConfigMap, text));
    fuzz(
        "import-configmap",
        &target,
        imported(&["ip-masq-agent-configmap.yaml"]),
        6,
    );
}

#[test]
fn import_lists() {
    let target = Texts(|text| {
        let formats = [Format::IpMasqAgent, Format::Cilium, Format::Azure];
        signature(formats.map(|format| read_imports(format, text)))
    });
    let corpus = vec![b"nonMasqueradeCIDRs: [10.0.0.0/8, fd00::/8]\nmasqueradeCIDRs: [10.1.0.0/16]\nmasqLinkLocal: true\n".to_vec()];
    fuzz("import-lists", &target, corpus, 6);
}

#[test]
fn import_windows_policies() {
    let target = Texts(|text| read_imports(Format::CniWindows, text));
    fuzz(
        "import-windows",
        &target,
        imported(&["win-bridge-v1.json"]),
        6,
    );
}

#[test]
fn import_libvirt_networks() {
    let target = Texts(|text| read_imports(Format::LibvirtNetwork, text));
    fuzz("import-libvirt", &target, imported(&["nat-network.xml"]), 6);
}

#[test]
fn import_cnat() {
    let target = Texts(|text| read_imports(Format::Cnat, text));
    let mut corpus = imported(&["cnat-current.vpp", "cnat-2020.vpp"]);
    corpus.push(
        b"cnat { session-max-age 30 tcp-max-age 3600 session-max 200000 maglev-len 1009 }\nset cnat snat-policy dnat\nset cnat snat-policy prefix 198.18.1.0/24 rw 10.0.0.0\n\
          set cnat snat-policy prefix 10.0.0.0/24 src rw 198.18.1.0\nset cnat snat-policy prefix del 10.0.0.0/24 src\nset cnat snat-policy addr lan0\ncnat translation add proto SCTP real wan0 to ->10.0.0.2 to ->10.0.0.2\n"
            .to_vec(),
    );
    fuzz("import-cnat", &target, corpus, 8);
}

#[test]
fn import_iptables() {
    let target = Texts(|text| {
        let formats = [Format::Iptables, Format::Ip6tables];
        signature(formats.map(|format| read_imports(format, text)))
    });
    let names = [
        "cluster-gateway.rules",
        "vpn-gateway.rules",
        "closed-lan.rules",
        "kube.rules",
    ];
    let mut corpus = imported(&names);
    corpus.push(
        b"*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n:u -\n-A PREROUTING -i eth0 -d 203.0.113.40/30 -j NETMAP --to 10.0.0.40/30\n\
          -A POSTROUTING -s 10.0.0.0/8 -g u\n-A u ! -p tcp -m iprange --dst-range 1.0.0.1-1.0.0.9 -j RETURN\n-A u -p udp --ports 5,6:7 -j SNAT --to 203.0.113.20:1024-2048\nCOMMIT\n"
            .to_vec(),
    );
    corpus.push(
        b"*filter\n:FORWARD DROP [0:0]\n:u - [0:0]\n-A FORWARD -m conntrack ! --ctstate INVALID,DNAT -g u\n-A FORWARD -p icmp -m icmp --icmp-type 3/4 -j ACCEPT\n\
          -A u -m addrtype --dst-type LOCAL -j RETURN\n-A u -p tcp --syn -m conntrack --ctorigdstport 80:90 -j REJECT --reject-with tcp-reset\n\
          -A u -p ipv6-icmp -m icmp6 --icmpv6-type echo-request -j DROP\nCOMMIT\n*mangle\n:FORWARD ACCEPT\n-A FORWARD -o eth0 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1360\nCOMMIT\n"
            .to_vec(),
    );
    fuzz("import-iptables", &target, corpus, 8);
}
