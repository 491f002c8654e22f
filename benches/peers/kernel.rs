//! The kernel's NAT: nftables masquerade in a namespace of its own.
//!
//! The kernel has no port that DPDK drives, so its ports are its own: veth pairs. testpmd on core 0 sends the same frames
//! into the inside pair, past all queueing; receive packet steering hands them to core 1, where the kernel translates and
//! forwards them. The outside pair ends at a device without an address, which drops them; the cost of that drop is on core 1
//! as well, as is the kernel's speculation mitigation.
//!
//! A sender on one core does not fill the other, so what is reported is packets per second of core 1's time: the rate by the
//! share of the time that core 1 spent in the kernel.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::frames::{GATEWAY, HOST};
use crate::process;
use crate::statistics::Spread;
use crate::{Bench, CORE, Rates, SAMPLE, SENDER, testpmd};

const GATE: &str = "natgate-peers-gate";
const ENDS: &str = "natgate-peers-ends";

/// Connections without which their number by time says nothing: the kernel tells it by hundredths of a second.
const ENOUGH: u32 = 10_000;

/// Connections opened in a second of core 1's time, and packets that left the outside device in one once every flow has
/// its connection.
pub fn measure(bench: &Bench) -> Result<Rates> {
    let namespaces = Namespaces::make(bench.sessions)?;
    let idle = kernel_seconds()?;
    let mut sender = testpmd::into_kernel(bench, ENDS, "ends0", SENDER)?;
    let began = Instant::now();
    let mut opening = None;
    loop {
        let (spent, connections) = (kernel_seconds()? - idle, namespaces.connections()?);
        if connections >= u64::from(bench.sessions) {
            break;
        }
        if connections > 0 && spent > 0.0 {
            opening = Some(connections as f64 / spent);
        }
        ensure!(
            began.elapsed().as_secs() < 30,
            "only {connections} connections: {}",
            sender.output()
        );
    }
    process::sleep(SAMPLE)?;
    let mut rates = Vec::new();
    let mut before = (kernel_seconds()?, namespaces.sent()?);
    for _ in 0..bench.seconds {
        process::sleep(SAMPLE)?;
        let after = (kernel_seconds()?, namespaces.sent()?);
        rates.push((after.1 - before.1) / (after.0 - before.0));
        before = after;
    }
    sender.stop()?;
    let mut measured = vec![("out", Spread::of(&rates).median)];
    // A few are opened between two looks.
    let opening = opening.filter(|_| bench.sessions >= ENOUGH);
    measured.extend(opening.map(|rate| ("new", rate)));
    Ok(measured)
}

/// Seconds that core 1 has spent in the kernel: system calls, interrupts, soft interrupts.
fn kernel_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{CORE} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    let fields = line
        .context("no such core in /proc/stat")?
        .split_whitespace();
    // user nice system idle iowait irq softirq …, in hundredths of a second.
    let hundredths: f64 = fields
        .enumerate()
        .filter(|(at, _)| matches!(at, 2 | 5 | 6))
        .filter_map(|(_, field)| field.parse::<f64>().ok())
        .sum();
    Ok(hundredths / 100.0)
}

/// Two namespaces, gone with their turn, and room for connections.
struct Namespaces {
    most_before: String,
}

const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

impl Namespaces {
    fn make(sessions: u32) -> Result<Namespaces> {
        let namespaces = Namespaces {
            most_before: std::fs::read_to_string(MOST).context(MOST)?,
        };
        // Leftovers of a run that was killed.
        let _ = run(&format!("ip netns del {GATE}"));
        let _ = run(&format!("ip netns del {ENDS}"));
        let most = namespaces.most_before.trim().parse().unwrap_or(0);
        std::fs::write(MOST, (sessions * 2).max(most).to_string()).context(MOST)?;
        let mask = 1 << CORE;
        for line in [
            format!("ip netns add {GATE}"),
            format!("ip netns add {ENDS}"),
            format!("ip -n {GATE} link add lan0 type veth peer name ends0 netns {ENDS}"),
            format!("ip -n {GATE} link add wan0 type veth peer name ends1 netns {ENDS}"),
            format!("ip -n {GATE} link set lan0 address {GATEWAY} up"),
            format!("ip -n {GATE} link set wan0 up"),
            format!("ip netns exec {ENDS} sysctl -qw net.ipv6.conf.all.disable_ipv6=1"),
            format!("ip -n {ENDS} link set ends0 address {HOST} arp off up"),
            format!("ip -n {ENDS} link set ends1 address {HOST} arp off up"),
            format!("ip -n {GATE} addr add 10.255.255.1/30 dev lan0"),
            format!("ip -n {GATE} addr add 192.0.2.1/30 dev wan0"),
            format!("ip -n {GATE} neigh add 192.0.2.2 lladdr {HOST} dev wan0 nud permanent"),
            format!("ip -n {GATE} neigh add 10.255.255.2 lladdr {HOST} dev lan0 nud permanent"),
            format!("ip -n {GATE} route add default via 192.0.2.2"),
            format!("ip -n {GATE} route add 10.0.0.0/8 via 10.255.255.2"),
            format!("ip netns exec {GATE} sysctl -qw net.ipv4.ip_forward=1"),
            format!("ip netns exec {GATE} nft add table ip nat"),
            format!(
                "ip netns exec {GATE} nft 'add chain ip nat out {{ type nat hook postrouting priority 100; }}'"
            ),
            format!("ip netns exec {GATE} nft add rule ip nat out oifname wan0 masquerade"),
            // Of what arrives on the inside, core 1 does the rest.
            format!(
                "ip netns exec {GATE} sh -c 'echo {mask} > /sys/class/net/lan0/queues/rx-0/rps_cpus'"
            ),
        ] {
            run(&line)?;
        }
        Ok(namespaces)
    }

    fn connections(&self) -> Result<u64> {
        number(&read("/proc/sys/net/netfilter/nf_conntrack_count")?)
    }

    fn sent(&self) -> Result<f64> {
        Ok(number(&read("/sys/class/net/wan0/statistics/tx_packets")?)? as f64)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = run(&format!("ip netns del {GATE}"));
        let _ = run(&format!("ip netns del {ENDS}"));
        let _ = std::fs::write(Path::new(MOST), &self.most_before);
    }
}

/// A file as it is in the gateway's namespace.
fn read(file: &str) -> Result<String> {
    let output = Command::new("ip")
        .args(["netns", "exec", GATE, "cat", file])
        .output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn number(text: &str) -> Result<u64> {
    text.trim().parse().with_context(|| text.to_owned())
}

fn run(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-c", line]).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {error}");
    Ok(())
}
