//! `dpdk-testpmd`: DPDK's own test program.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::{self, Running};
use crate::statistics::Spread;
use crate::{BUFFERS, Bench, CORE, Rates, SAMPLE, text, wire};

/// Packets per second that left port 1 in the given forwarding mode, fed by a capture file.
pub fn replay(bench: &Bench, mode: &str) -> Result<Rates> {
    let mut command = command(bench, CORE, bench.huge);
    let frames = text(&bench.frames)?;
    command.arg(format!("--vdev=net_pcap0,rx_pcap={frames},infinite_rx=1"));
    command.arg("--vdev=net_null1,no-rx=1");
    forward(&mut command, mode);
    let mut running = Running::start(&mut command, bench.path("testpmd.log"))?;
    // The first sample counts from the start of the program, the second is the first whole second.
    running.wait_for(|output| rates(output).len() >= 2)?;
    let settled = rates(&running.output()).len();
    while rates(&running.output()).len() < settled + bench.seconds {
        process::sleep(SAMPLE / 4)?;
    }
    let rates = rates(&running.output())[settled..].to_vec();
    running.stop()?;
    ensure!(
        rates.iter().all(|r| *r > 0.0),
        "it forwards nothing:\n{}",
        running.output()
    );
    Ok(vec![("out", Spread::of(&rates).median)])
}

/// Between two memif ports, until it is stopped.
pub fn on_memif(bench: &Bench, mode: &str) -> Result<Running> {
    let mut command = command(bench, CORE, bench.huge);
    for (at, name) in wire::SOCKETS.iter().enumerate() {
        let socket = bench.path(name);
        command.arg(format!(
            "--vdev=net_memif{at},role=server,id=0,socket={},socket-abstract=no",
            text(&socket)?
        ));
    }
    forward(&mut command, mode);
    Running::start(&mut command, bench.path("testpmd.log"))
}

/// From a capture file into a kernel device, until it is stopped.
pub fn into_kernel(bench: &Bench, namespace: &str, device: &str, core: usize) -> Result<Running> {
    let testpmd = command(bench, core, false);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]);
    command.arg(testpmd.get_program()).args(testpmd.get_args());
    let frames = text(&bench.frames)?;
    command.arg(format!("--vdev=net_pcap0,rx_pcap={frames},infinite_rx=1"));
    command.arg(format!(
        "--vdev=net_af_packet1,iface={device},qdisc_bypass=1"
    ));
    forward(&mut command, "io");
    Running::start(&mut command, bench.path("testpmd.log"))
}

/// The arguments of DPDK.
fn command(bench: &Bench, core: usize, huge: bool) -> Command {
    let mut command = Command::new("dpdk-testpmd");
    command.args([&format!("--lcores=0@0,1@{core}"), "--main-lcore=0"]);
    command.args(["--no-pci", "--no-telemetry"]);
    command.arg(format!("--file-prefix=natgate-peers-{}", bench.sessions));
    // Memory that a peer maps cannot be anonymous.
    command.args(match (huge, bench.setting) {
        (false, _) => ["--no-huge", "-m", "768"],
        (true, crate::Setting::Wire) => ["--huge-unlink=always", "-m", "768"],
        (true, _) => ["--in-memory", "-m", "768"],
    });
    command
}

/// The arguments of testpmd itself: natgate's batch and its pool's cache.
fn forward(command: &mut Command, mode: &str) {
    command.args(["--", &format!("--forward-mode={mode}")]);
    command.arg(format!("--total-num-mbufs={BUFFERS}"));
    command.args(["--rxd=1024", "--txd=1024"]);
    // Flushing at start would take a file's frames away for good.
    command.args([
        "--nb-cores=1",
        "--burst=64",
        "--mbcache=256",
        "--no-flush-rx",
    ]);
    command.args(["--no-lsc-interrupt", "--stats-period=1"]);
}

/// The transmit rates of port 1, one for each report.
fn rates(output: &str) -> Vec<f64> {
    let mut rates = Vec::new();
    let mut port = None;
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [.., "statistics", "for", "port", number, _] => port = number.parse::<u32>().ok(),
            ["Tx-pps:", rate, ..] if port == Some(1) => {
                rates.extend(rate.parse::<f64>().ok());
            }
            _ => {}
        }
    }
    rates
}
