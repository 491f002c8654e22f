//! natgate as the gateway: its configuration, its process, its command line.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::accounting;
use crate::lab::{Gateway, Setup};
use crate::ns::Ns;
use crate::process::{BINARY, Process};

/// How long a link may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `natgate run` in the middle namespace.
pub struct Natgate {
    ns: Arc<Ns>,
    process: Process,
    files: Files,
    workers: usize,
}

/// An instance's name, and where its files are: `NAME.toml`, `NAME.sock`, `NAME.log`.
struct Files {
    name: &'static str,
    dir: PathBuf,
}

impl Natgate {
    /// Writes the configuration, starts the binary and waits until it is ready.
    pub fn start(ns: Arc<Ns>, dir: &Path, workers: usize, setup: &Setup) -> Natgate {
        ns.sysctl(&[
            "net.ipv4.ip_forward=0",
            // Interfaces that natgate or a test makes here must not speak of themselves.
            "net.ipv6.conf.default.disable_ipv6=1",
        ]);
        for device in ["lan0", "wan0", "wan1"] {
            if device != "wan1" || setup.second_uplink {
                // The kernel must not answer on the device that natgate drives.
                ns.ip(&format!("link set {device} arp off"));
                ns.sysctl(&[&format!("net.ipv6.conf.{device}.disable_ipv6=1")]);
            }
        }
        Natgate::run("natgate", ns, dir, workers, &network(setup))
    }

    /// Starts a second natgate beside the lab's own: `network` is its configuration below `[metrics]`, where `DIR` stands
    /// for `dir`.
    pub fn beside(ns: Arc<Ns>, dir: &Path, workers: usize, network: &str) -> Natgate {
        Natgate::run("second", ns, dir, workers, network)
    }

    fn run(name: &'static str, ns: Arc<Ns>, dir: &Path, workers: usize, network: &str) -> Natgate {
        let files = Files {
            name,
            dir: dir.to_path_buf(),
        };
        files.write_config(workers, network);
        Natgate {
            process: files.spawn(&ns),
            ns,
            files,
            workers,
        }
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.files.path("toml")
    }

    /// Writes the configuration for `setup` without telling the process.
    pub fn write_config(&self, setup: &Setup) {
        self.files.write_config(self.workers, &network(setup));
    }

    /// What the process has printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until an interface works, for routes lead through it from then on: memif peers and bonds need a moment.
    pub fn wait_for_interface(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        let up = |document: Value| {
            let interfaces = document["interfaces"].as_array().expect("a list").clone();
            interfaces
                .iter()
                .any(|interface| interface["interface"] == name && interface["up"] == true)
        };
        while !up(self.show("interfaces")) {
            assert!(
                Instant::now() < deadline,
                "{name} does not come up; log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(25));
        }
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

impl Files {
    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }

    /// Writes the whole configuration with this network.
    fn write_config(&self, workers: usize, network: &str) {
        let (name, process) = (self.name, std::process::id());
        // One listener for metrics in the namespace: the lab's own instance has it.
        let metrics = match name {
            "natgate" => "127.0.0.1:9464",
            _ => "",
        };
        let text = format!(
            r#"schema = 1
[system]
hugepages = false
workers = {workers}
memory = "256MiB"
sessions = 65536
instance = "{name}-{process}"
[api]
socket = "{}"
[metrics]
listen = "{metrics}"
{}"#,
            self.path("sock").display(),
            network.replace("DIR", &self.dir.display().to_string())
        );
        std::fs::write(self.path("toml"), text).unwrap();
    }

    /// Starts the binary and waits until it forwards.
    fn spawn(&self, ns: &Ns) -> Process {
        let mut command = ns.command(BINARY);
        command.args(["run", "-c"]).arg(self.path("toml"));
        let mut process = Process::start(command, &self.path("sock"), &self.path("log"));
        process.wait_until_ready();
        process
    }
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
        self.process = self.files.spawn(&self.ns);
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

/// The lab's network followed by the test's own part.
fn network(setup: &Setup) -> String {
    if let Some(whole) = setup.whole {
        return whole.to_string();
    }
    let ports = setup.ports.replace("MTU", &setup.wan_mtu.to_string());
    let second = if setup.second_uplink {
        SECOND_UPLINK
    } else {
        ""
    };
    format!(
        r#"{ports}
[[interface]]
name = "lan0"
port = "p-lan"
address = ["10.0.0.1/24", "fd00:1::1/64"]
[[interface]]
name = "wan0"
port = "p-wan"
address = {:?}
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
        setup.wan, setup.natgate
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
