//! The price of the filter: what one new flow costs under few rules, ten thousand rules and sets of a million prefixes, and
//! what it takes to compile them.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark may stop on a broken set-up, and measures time; criterion's macro makes an undocumented function"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use natgate::base::{InterfaceId, Random};
use natgate::config::compile::compile_text;
use natgate::flow::key::Tuple;
use natgate::nat::filter::conditions::{Crossing, States};
use natgate::nat::policy::Policy;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const BASE: &str = r#"
schema = 1
port = [{ name = "in", device = "null:" }, { name = "out", device = "null:" }]
interface = [
  { name = "lan", port = "in", address = ["10.0.0.1/24"] },
  { name = "wan", port = "out", address = ["203.0.113.2/24"] },
]
[filter]
default = "drop"
"#;

/// Rules for services of hosts, no two about the same: an address, a protocol, a port each.
fn disjoint(count: u32) -> String {
    let mut text = BASE.to_owned();
    for i in 0..count {
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + 97 * i);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "[[filter.rule]]\nin = \"lan\"\ndst = \"{address}\"\nproto = \"tcp\"\ndport = \"{}\"\naction = \"accept\"\n",
            1 + i % 60_000
        );
    }
    text
}

/// A set of prefixes that do not touch, used by a few rules.
fn million(count: u32) -> String {
    let mut text = BASE.to_owned();
    for port in [80, 443, 8080] {
        let _ = write!(
            text,
            "[[filter.rule]]\ndst = \"@big\"\nproto = \"tcp\"\ndport = \"{port}\"\naction = \"accept\"\n"
        );
    }
    text.push_str("[sets]\nbig = [");
    for i in 0..count {
        let net = std::net::Ipv4Addr::from((0x0b00_0000u32).wrapping_add(512 * i));
        let _ = write!(text, "\"{net}/24\",");
    }
    text.push_str("]\n");
    text
}

fn compiled(what: &str, text: &str) -> Arc<Policy> {
    let began = Instant::now();
    let policy = compile_text("bench", text).expect("a correct configuration");
    println!("{what}: read and compiled in {:?}", began.elapsed());
    policy
}

/// Packets of new flows: every other to a destination some rule is about.
fn packets(seed: u64, step: u32, rules: u32) -> Vec<Crossing<u32>> {
    let mut random = Random::from_seed(seed);
    let mut packet = |i: u32| {
        let (destination, port) = match i % 2 {
            0 => {
                let rule = random.below(rules);
                (
                    0x0b00_0000u32.wrapping_add(step * rule),
                    (1 + rule % 60_000) as u16,
                )
            }
            _ => (random.next_u64() as u32, random.next_u64() as u16),
        };
        Crossing {
            ingress: InterfaceId(0),
            egress: InterfaceId(1),
            tuple: Tuple {
                source: 0x0a00_0002,
                destination,
                source_port: 40_000,
                destination_port: port,
            },
            original: (destination, port),
            protocol: 6,
            has_ports: true,
            icmp: None,
            states: States::NEW,
        }
    };
    (0..4096).map(&mut packet).collect()
}

fn judge(c: &mut Criterion) {
    let mut group = c.benchmark_group("filter");
    for (name, text, step, rules) in [
        ("10 rules", disjoint(10), 97, 10),
        ("1,000 rules", disjoint(1_000), 97, 1_000),
        ("10,000 rules", disjoint(10_000), 97, 10_000),
        ("1,000,000 prefixes", million(1_000_000), 512, 1_000_000),
    ] {
        let policy = compiled(name, &text);
        let packets = packets(7, step, rules);
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                next = (next + 1) % packets.len();
                policy.filter.judge_v4(black_box(&packets[next]))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, judge);
criterion_main!(benches);
