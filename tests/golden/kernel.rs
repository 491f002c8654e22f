//! The same captures through the kernel's NAT and through natgate: what each sends after each packet, equal up to the
//! choice of ports and numbers, or listed with its reason in `docs/differences-from-kernel.md`.
//!
//! Captures are rows, and some more that show what only a comparison can. natgate is the real binary on tap ports, the
//! kernel routes between two veths and translates by nftables; both get one packet after another.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use natgate::base::PortId;

use crate::binary::play_on_taps;
use crate::captures;
use crate::common::ns::{self, Ns};
use crate::common::row::{self, Input};
use crate::common::*;
use crate::reading::{Reader, Reading};
use crate::rows::{self, MASQUERADE};
use crate::tap::{NAMES, Taps};

const POST: &str = "table ip nat { chain post { type nat hook postrouting priority 100
      oifname wan0 masquerade
    }; }";

/// With hairpins, as they have to be said.
const FORWARD: &str = "table ip nat {
      chain pre { type nat hook prerouting priority -100
        ip daddr 203.0.113.1 tcp dport 9000-9002 dnat to 10.0.0.2 : tcp dport map { 9000 : 20, 9001 : 21, 9002 : 22 }
      }
      chain post { type nat hook postrouting priority 100
        oifname wan0 masquerade
        iifname lan0 oifname lan0 ct status dnat snat to 203.0.113.1
      }
    }";

const FORWARD_UDP: &str = "table ip nat {
      chain pre { type nat hook prerouting priority -100
        ip daddr 203.0.113.1 udp dport 5300 dnat to 10.0.0.2:53
      }
      chain post { type nat hook postrouting priority 100
        oifname wan0 masquerade
        iifname lan0 oifname lan0 ct status dnat snat to 203.0.113.1
      }
    }";

const STATIC: &str = "table ip nat {
      chain pre { type nat hook prerouting priority -100
        dnat ip prefix to ip daddr map { 203.0.113.64/28 : 10.0.0.0/28 }
      }
      chain post { type nat hook postrouting priority 100
        oifname wan0 snat ip prefix to ip saddr map { 10.0.0.0/28 : 203.0.113.64/28 }
      }
    }";

const EXEMPT: &str = "table ip nat { chain post { type nat hook postrouting priority 100
      ip daddr 198.51.100.0/24 ip daddr != 198.51.100.5 return
      oifname wan0 masquerade
    }; }";

/// Rows that the kernel can be asked about, and the rules that say the same.
const ROWS: &[(&str, &str)] = &[
    ("masquerade-udp", POST),
    ("masquerade-tcp", POST),
    ("masquerade-icmp", POST),
    ("udp-without-checksum", POST),
    ("fragments-out-of-order", POST),
    ("icmp-error-about-a-flow", POST),
    ("icmp-error-forms", POST),
    ("icmp-error-broken", POST),
    ("icmp-error-from-inside", FORWARD_UDP),
    ("icmp-error-hairpin", FORWARD_UDP),
    ("ttl-expired", POST),
    ("filtered-and-unmapped", POST),
    ("port-forward-shift", FORWARD),
    ("port-forward-hairpin", FORWARD),
    ("static-nat", STATIC),
    ("exempt-longest-prefix", EXEMPT),
    ("router-only", ""),
    ("broken-packets", POST),
];

/// What passes both gateways.
struct Capture {
    name: &'static str,
    natgate: &'static str,
    kernel: &'static str,
    /// Of the link outside.
    mtu: u16,
    input: fn() -> Input,
}

fn captures() -> Vec<Capture> {
    let more = |name, mtu, input| Capture {
        name,
        natgate: MASQUERADE,
        kernel: POST,
        mtu,
        input,
    };
    let mut all = vec![
        more("connection", 1500, captures::connection as fn() -> Input),
        more("reset", 1500, captures::reset),
        more("path-mtu", 1280, captures::path_mtu),
        more("odd-segments", 1500, captures::odd_segments),
        more("odd-packets", 1500, captures::odd_packets),
        more("odd-fragments", 1500, captures::odd_fragments),
    ];
    for (name, kernel) in ROWS {
        let source = rows::all().find(|source| source.name == *name);
        let source = source.unwrap_or_else(|| panic!("no row is called {name}"));
        all.push(Capture {
            name: source.name,
            natgate: source.rules,
            kernel,
            mtu: 1500,
            input: source.input,
        });
    }
    all
}

/// What natgate sends after each packet.
fn through_natgate(capture: &Capture, input: &Input) -> Vec<Vec<Reading>> {
    let name = "name = \"wan0\"\n";
    let config = row::config(capture.natgate);
    assert!(config.contains(name));
    let mtu = format!("{name}mtu = {}\n", capture.mtu);
    let config = config.replacen(name, &mtu, 1);
    let played = play_on_taps(capture.name, &config, input, 1);
    let mut reader = Reader::default();
    let sent = played.sent[1..].iter();
    sent.map(|frames| reader.read(frames)).collect()
}

/// What the kernel sends after each packet.
fn through_the_kernel(capture: &Capture, input: &Input) -> Vec<Vec<Reading>> {
    let wire = Ns::create("wire");
    let gateway = Ns::create("kernel");
    for ns in [&wire, &gateway] {
        ns.sysctl(&["net.ipv6.conf.default.disable_ipv6=1"]);
    }
    let name = gateway.name();
    for (device, far) in ["lan0", "wan0"].into_iter().zip(NAMES) {
        wire.ip(&format!(
            "link add {far} type veth peer name {device} netns {name}"
        ));
        wire.ip(&format!("link set {far} arp off up"));
        gateway.sh(&format!(
            "ethtool -K {device} tx off rx off tso off gso off gro off"
        ));
        wire.sh(&format!(
            "ethtool -K {far} tx off rx off tso off gso off gro off"
        ));
    }
    gateway.ip("link set lan0 address 02:00:00:00:01:00 up
                link set wan0 address 02:00:00:00:01:01 up
                addr add 10.0.0.1/24 dev lan0
                addr add 203.0.113.1/24 dev wan0
                route add default via 203.0.113.9");
    gateway.ip(&format!("link set wan0 mtu {}", capture.mtu));
    let hosts = (2..10).map(|n| format!("10.0.0.{n} dev lan0"));
    let remotes = [9, 10, 11, 77].map(|n| format!("203.0.113.{n} dev wan0"));
    for neighbour in hosts.chain(remotes) {
        gateway.ip(&format!(
            "neigh add {neighbour} lladdr 02:00:00:00:00:09 nud permanent"
        ));
    }
    gateway.sysctl(&[
        "net.ipv4.ip_forward=1",
        "net.ipv4.icmp_ratelimit=0",
        "net.ipv4.icmp_msgs_per_sec=100000",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.lan0.send_redirects=0",
        "net.ipv4.conf.wan0.send_redirects=0",
    ]);
    gateway.nft(&format!("flush ruleset\n{}\n", capture.kernel));
    let mut taps = Taps::watch(&wire);
    taps.find(&wire);
    let mut reader = Reader::default();
    input
        .iter()
        .map(|(_, port, frame)| {
            taps.send(*port, frame);
            // Packets are handled in order: what follows the answer to this follows the frame.
            let from = ["10.0.0.9", "203.0.113.11"][port.index()];
            let to = ["10.0.0.1", "203.0.113.1"][port.index()];
            taps.send(*port, &ping(*port, from, to, MARK));
            let mut sent = Vec::new();
            while !sent.iter().any(is_mark) {
                sent.extend(taps.received(1));
            }
            sent.extend(taps.received(0));
            sent.retain(|frame| !is_mark(frame));
            reader.read(&sent)
        })
        .collect()
}

/// The id of a ping that asks whether all is done.
const MARK: u16 = 0xfeed;

fn is_mark((_, frame): &(PortId, Vec<u8>)) -> bool {
    frame.len() >= 42
        && frame[12..14] == [8, 0]
        && frame[23] == 1
        && frame[34] == 0
        && frame[38..40] == MARK.to_be_bytes()
}

/// A difference: the capture, the packet by number, what the kernel sends, what natgate sends.
type Difference = (String, String, String, String);

fn said(readings: &[Reading]) -> String {
    match readings {
        [] => "nothing".to_owned(),
        _ => readings
            .iter()
            .map(Reading::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn differences(capture: &Capture) -> Vec<Difference> {
    let mut input = (capture.input)();
    // As rows are written: port by port.
    input.sort_by_key(|(millis, port, _)| (*millis, port.0));
    let kernel = through_the_kernel(capture, &input);
    let natgate = through_natgate(capture, &input);
    let mut found = Vec::new();
    for (n, (kernel, natgate)) in kernel.iter().zip(&natgate).enumerate() {
        if kernel == natgate {
            continue;
        }
        let (theirs, mut ours) = (said(kernel), said(natgate));
        if theirs == ours {
            let pairs = kernel.iter().zip(natgate);
            let lengths: Vec<String> = pairs
                .filter(|(k, n)| k != n)
                .map(|(k, n)| unlike(&k.rest, &n.rest))
                .collect();
            ours = format!("the same, {}", lengths.join(", "));
        }
        let name = capture.name.to_owned();
        found.push((name, (n + 1).to_string(), theirs, ours));
    }
    found
}

/// How bytes differ.
fn unlike(kernel: &[u8], natgate: &[u8]) -> String {
    let at = kernel.iter().zip(natgate).position(|(k, n)| k != n);
    match at {
        Some(at) => format!("byte {at} {:#04x} for {:#04x}", natgate[at], kernel[at]),
        None => format!("{} bytes for {}", natgate.len(), kernel.len()),
    }
}

/// The table of the document: what differs, each with a reason.
fn listed() -> BTreeSet<Difference> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/differences-from-kernel.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.skip(1)
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, packet, kernel, natgate, why] = cells[..] else {
                panic!("not five cells: {line}");
            };
            assert!(why.len() > 10, "no reason: {line}");
            let cell = |text: &str| text.to_owned();
            (cell(name), cell(packet), cell(kernel), cell(natgate))
        })
        .collect()
}

#[test]
fn natgate_does_what_the_kernel_does_or_says_why_not() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "namespaces need root (run `sudo make test`)"
    );
    ns::remove_leftovers();
    let seen: BTreeSet<Difference> = captures().iter().flat_map(differences).collect();
    let listed = listed();
    let line = |(name, packet, kernel, natgate): &Difference| {
        format!("| {name} | {packet} | {kernel} | {natgate} |")
    };
    let new: Vec<String> = seen.difference(&listed).map(line).collect();
    let gone: Vec<String> = listed.difference(&seen).map(line).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "seen and not listed:\n{}\nlisted and not seen:\n{}",
        new.join("\n"),
        gone.join("\n")
    );
}
