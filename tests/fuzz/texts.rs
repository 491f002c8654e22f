//! Targets that read text: the configuration language and device names.

use std::path::Path;

use natgate::base::Random;
use natgate::config;
use natgate::config::exemptions::{Format, content};
use natgate::dataplane::device::Device;

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
    for format in Format::ALL {
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
