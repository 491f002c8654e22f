//! VPP, where there is one on the PATH: its endpoint-dependent NAT and its deterministic one.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::process::Running;
use crate::{Bench, CORE, SENDER, text, wire};

/// Which of its translators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    Nat44Ed,
    Det44,
}

/// Whether it can be measured.
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir: PathBuf| dir.join("vpp").is_file())
}

/// Between two memif ports, one worker, until it is stopped.
pub fn on_memif(bench: &Bench, plugin: Plugin) -> Result<Running> {
    let (startup, commands) = (bench.path("startup.conf"), bench.path("vpp.cli"));
    std::fs::write(&commands, configuration(bench, plugin)?)?;
    std::fs::write(
        &startup,
        format!(
            "unix {{ nodaemon cli-listen {cli} exec {commands} runtime-dir {dir} }}\n\
             api-segment {{ prefix natgate-peers }}\n\
             cpu {{ main-core {SENDER} corelist-workers {CORE} }}\n\
             memory {{ main-heap-size 8G }}\n\
             plugins {{ plugin dpdk_plugin.so {{ disable }} }}\n",
            cli = text(&bench.path("vpp.sock"))?,
            commands = text(&commands)?,
            dir = text(bench.dir.path())?,
        ),
    )?;
    let mut command = Command::new("vpp");
    command.arg("-c").arg(&startup);
    Running::start(&mut command, bench.path("vpp.log"))
}

fn configuration(bench: &Bench, plugin: Plugin) -> Result<String> {
    let mut lines = Vec::new();
    for (at, (name, address)) in wire::SOCKETS
        .iter()
        .zip(["10.255.255.1/30", "192.0.2.1/30"])
        .enumerate()
    {
        let (id, socket) = (at + 1, bench.path(name));
        lines.push(format!(
            "create memif socket id {id} filename {}",
            text(&socket)?
        ));
        lines.push(format!(
            "create interface memif socket-id {id} id 0 master hw-addr {}",
            wire::MACS[at]
        ));
        lines.push(format!("set interface ip address memif{id}/0 {address}"));
        lines.push(format!("set interface state memif{id}/0 up"));
    }
    let peer = crate::frames::HOST;
    lines.push(format!("set ip neighbor memif1/0 10.255.255.2 {peer}"));
    lines.push(format!("set ip neighbor memif2/0 192.0.2.2 {peer}"));
    lines.push("ip route add 0.0.0.0/0 via 192.0.2.2 memif2/0".to_owned());
    lines.push("ip route add 10.0.0.0/8 via 10.255.255.2 memif1/0".to_owned());
    // 512 hosts of 63 flows share an address, so that ports do not run short.
    let addresses = bench.sessions.div_ceil(63).div_ceil(512);
    let first = Ipv4Addr::new(203, 0, 112, 0);
    match plugin {
        Plugin::Nat44Ed => {
            let last = Ipv4Addr::from(u32::from(first) + addresses);
            lines.extend([
                format!("nat44 plugin enable sessions {}", bench.sessions + 1024),
                "set interface nat44 in memif1/0 out memif2/0".to_owned(),
                format!("nat44 add address {first}-{last}"),
            ]);
        }
        Plugin::Det44 => {
            // Both sides are prefixes; 512 hosts share an address, 126 ports each.
            let outside = 32 - addresses.next_power_of_two().trailing_zeros();
            lines.extend([
                "det44 plugin enable".to_owned(),
                "set interface det44 inside memif1/0 outside memif2/0".to_owned(),
                format!(
                    "det44 add in 10.0.0.0/{} out {first}/{outside}",
                    outside - 9
                ),
            ]);
        }
    }
    Ok(lines.join("\n") + "\n")
}
