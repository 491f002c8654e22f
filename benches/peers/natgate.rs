//! natgate as it is installed: a configuration, `natgate run`, `natgate show`.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::frames::{GATEWAY, HOST};
use crate::process::{self, Running};
use crate::statistics::Spread;
use crate::{Bench, CORE, Rates, SAMPLE, text, wire};

/// Packets per second that left the outside port, fed by a capture file. Every packet must have been translated, by a
/// session of its own flow.
pub fn replay(bench: &Bench) -> Result<Rates> {
    let inside = format!(
        "device = \"dpdk:net_pcap0,rx_pcap={},infinite_rx=1\"\nmac = \"{GATEWAY}\"",
        text(&bench.frames)?
    );
    let outside = "device = \"dpdk:net_null1,no-rx=1\"";
    let mut running = start(bench, &inside, outside, 16_384)?;
    // The first pass over the frames opens the sessions.
    running.wait_for(|_| sessions(bench) == Some(u64::from(bench.sessions)))?;
    process::sleep(SAMPLE)?;
    let mut rates = Vec::new();
    let mut before = (Instant::now(), sent(bench)?);
    for _ in 0..bench.seconds {
        process::sleep(SAMPLE)?;
        let after = (Instant::now(), sent(bench)?);
        rates.push((after.1 - before.1) / (after.0 - before.0).as_secs_f64());
        before = after;
    }
    let status = show(bench, "status")?;
    let total = sessions(bench);
    ensure!(
        total == Some(u64::from(bench.sessions)),
        "sessions: {total:?}"
    );
    ensure!(
        status["packets"]["dropped"] == 0,
        "packets were lost: {status}"
    );
    running.stop()?;
    Ok(vec![("out", Spread::of(&rates).median)])
}

/// Between two memif ports, until it is stopped.
pub fn on_memif(bench: &Bench) -> Result<Running> {
    let [inside, outside] = [0, 1].map(|side| {
        let socket = bench.path(wire::SOCKETS[side]);
        format!(
            "device = \"memif:{}\"\nmac = \"{}\"",
            socket.display(),
            wire::MACS[side]
        )
    });
    start(bench, &inside, &outside, 1024)
}

fn start(bench: &Bench, inside: &str, outside: &str, descriptors: u16) -> Result<Running> {
    let file = bench.path("natgate.toml");
    std::fs::write(&file, configuration(bench, inside, outside, descriptors)?)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_natgate"));
    command.arg("run").arg("-c").arg(&file);
    Running::start(&mut command, bench.path("natgate.log"))
}

fn show(bench: &Bench, what: &str) -> Result<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_natgate"))
        .args(["show", what, "--json", "--socket"])
        .arg(bench.path("natgate.sock"))
        .output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn sessions(bench: &Bench) -> Option<u64> {
    show(bench, "status").ok()?["sessions"].as_u64()
}

fn sent(bench: &Bench) -> Result<f64> {
    let ports = show(bench, "ports")?;
    let count = ports["ports"][1]["tx_packets"].as_f64();
    count.with_context(|| format!("no second port in {ports}"))
}

/// A carrier's rule: port blocks, unpredictable ports, one pool for all.
fn configuration(bench: &Bench, inside: &str, outside: &str, descriptors: u16) -> Result<String> {
    let hosts = bench.sessions.div_ceil(63);
    // A block of 64 ports for each host; an address has 1,008 of them.
    let last = std::net::Ipv4Addr::from(0xcb00_7100 + hosts.div_ceil(1008) + 1);
    Ok(format!(
        r#"
schema = 1
[system]
workers = 1
cores = [{CORE}]
sessions = {sessions}
subscribers = {subscribers}
memory = "64GiB"
idle = "poll"
hugepages = {huge}
instance = "natgate-peers"
[api]
socket = "{socket}"
[metrics]
listen = ""
[[port]]
name = "in"
descriptors = {descriptors}
{inside}
[[port]]
name = "out"
descriptors = {descriptors}
{outside}
[[interface]]
name = "inside"
port = "in"
address = ["10.255.255.1/30"]
[[interface]]
name = "outside"
port = "out"
address = ["192.0.2.1/30"]
[[route]]
prefix = "0.0.0.0/0"
via = "192.0.2.2"
[[route]]
prefix = "10.0.0.0/8"
via = "10.255.255.2"
[[neighbour]]
interface = "inside"
address = "10.255.255.2"
mac = "{HOST}"
[[neighbour]]
interface = "outside"
address = "192.0.2.2"
mac = "{HOST}"
[[pool]]
name = "carrier"
addresses = ["203.0.113.1-{last}"]
block = {{ size = 64, max_per_host = 1 }}
filtering = "endpoint"
answer_arp = false
[[source-nat]]
in = "inside"
out = "outside"
via = "pool:carrier"
"#,
        sessions = bench.sessions.max(1024),
        subscribers = hosts.max(1024) + 64,
        huge = bench.huge,
        socket = text(&bench.path("natgate.sock"))?,
    ))
}
