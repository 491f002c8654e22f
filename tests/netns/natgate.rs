//! natgate as the gateway: its configuration, its process, its command line.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use serde_json::Value;

use crate::accounting;
use crate::lab::{Gateway, Setup};
use crate::ns::Ns;
use crate::process::{BINARY, Process};

/// A running `natgate run` in the middle namespace.
pub struct Natgate {
    ns: Arc<Ns>,
    process: Process,
    dir: PathBuf,
    workers: usize,
}

impl Natgate {
    /// Writes the configuration, starts the binary and waits until it is ready.
    pub fn start(ns: Arc<Ns>, dir: &Path, workers: usize, setup: &Setup) -> Natgate {
        ns.sysctl(&["net.ipv4.ip_forward=0"]);
        for device in ["lan0", "wan0", "wan1"] {
            if device != "wan1" || setup.second_uplink {
                // The kernel must not answer on the device that natgate drives.
                ns.ip(&format!("link set {device} arp off"));
                ns.sysctl(&[&format!("net.ipv6.conf.{device}.disable_ipv6=1")]);
            }
        }
        write_config(dir, workers, setup);
        Natgate {
            process: spawn(&ns, dir),
            ns,
            dir: dir.to_path_buf(),
            workers,
        }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    /// Writes the configuration for `setup` without telling the process.
    pub fn write_config(&self, setup: &Setup) {
        write_config(&self.dir, self.workers, setup);
    }

    /// Runs a client command (`show`, `clear`, `reload` …) against this instance.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.process.cli(args)
    }

    /// The standard output of a client command that must succeed.
    pub fn ask(&self, args: &[&str]) -> String {
        self.process.ask(args)
    }

    /// The JSON document of `natgate show WHAT --json`.
    pub fn show(&self, what: &str) -> Value {
        self.process.show(what)
    }
}

/// The configuration, in the lab's scratch directory.
const CONFIG: &str = "natgate.toml";
/// The API, beside it.
const SOCKET: &str = "natgate.sock";

fn write_config(dir: &Path, workers: usize, setup: &Setup) {
    let text = config_text(workers, &dir.join(SOCKET), setup);
    std::fs::write(dir.join(CONFIG), text).unwrap();
}

/// Starts the binary and waits until it forwards.
fn spawn(ns: &Ns, dir: &Path) -> Process {
    let mut command = ns.command(BINARY);
    command.args(["run", "-c"]).arg(dir.join(CONFIG));
    let mut process = Process::start(command, &dir.join(SOCKET), &dir.join("natgate.log"));
    process.wait_until_ready();
    process
}

impl Gateway for Natgate {
    fn name(&self) -> String {
        format!("natgate with {} workers", self.workers)
    }

    fn reload(&mut self, setup: &Setup) {
        self.write_config(setup);
        self.ask(&["reload"]);
    }

    fn restart(&mut self) {
        self.process.stop();
        self.process = spawn(&self.ns, &self.dir);
    }

    fn finish(&mut self) {
        accounting::assert_conservation(self);
        let report = self.process.stop();
        assert_eq!(
            report["imbalance"], 0,
            "packets are unaccounted for at the end: {report:?}"
        );
    }

    fn natgate(&self) -> Option<&Natgate> {
        Some(self)
    }
}

/// The lab's base configuration followed by the test's own part.
fn config_text(workers: usize, socket: &Path, setup: &Setup) -> String {
    let wan = format!("{:?}", setup.wan);
    let socket = socket.display();
    let mtu = setup.wan_mtu;
    let instance = format!("natlab-{}", std::process::id());
    let second = if setup.second_uplink {
        SECOND_UPLINK
    } else {
        ""
    };
    format!(
        r#"schema = 1
[system]
hugepages = false
workers = {workers}
memory = "256MiB"
sessions = 65536
instance = "{instance}"
[api]
socket = "{socket}"
[metrics]
listen = "127.0.0.1:9464"
[[port]]
name = "p-lan"
device = "af_packet:lan0"
[[port]]
name = "p-wan"
device = "af_packet:wan0"
mtu = {mtu}
[[interface]]
name = "lan0"
port = "p-lan"
address = ["10.0.0.1/24", "fd00:1::1/64"]
[[interface]]
name = "wan0"
port = "p-wan"
address = {wan}
{second}
[[route]]
prefix = "0.0.0.0/0"
via = "203.0.113.9"
interface = "wan0"
[[route]]
prefix = "::/0"
via = "2001:db8::9"
interface = "wan0"
{}"#,
        setup.natgate
    )
}

const SECOND_UPLINK: &str = r#"
[[port]]
name = "p-wan1"
device = "af_packet:wan1"
[[interface]]
name = "wan1"
port = "p-wan1"
address = ["192.0.2.1/24"]
"#;
