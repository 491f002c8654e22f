//! natgate as the gateway: its configuration, its process, its command line.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::accounting;
use crate::lab::{Gateway, Setup};
use crate::ns::Ns;

/// How long natgate may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `natgate run` in the middle namespace.
pub struct Natgate {
    ns: Arc<Ns>,
    child: Option<Child>,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
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
        let mut natgate = Natgate {
            ns,
            child: None,
            config: dir.join("natgate.toml"),
            socket: dir.join("natgate.sock"),
            log: dir.join("natgate.log"),
            workers,
        };
        natgate.write_config(setup);
        natgate.spawn();
        natgate
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Writes the configuration for `setup` without telling the process.
    pub fn write_config(&self, setup: &Setup) {
        let text = config_text(self.workers, &self.socket, setup);
        std::fs::write(&self.config, text).unwrap();
    }

    fn spawn(&mut self) {
        let log = File::create(&self.log).unwrap();
        let child = self
            .ns
            .command(env!("CARGO_BIN_EXE_natgate"))
            .arg("run")
            .arg("-c")
            .arg(&self.config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("natgate starts");
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.cli(&["show", "status", "--json"]);
            if status.status.success() && accounting::is_ready(&status.stdout) {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "natgate is not ready (ended: {ended:?}); its log:\n{}\nlast answer: {}{}",
                self.log(),
                String::from_utf8_lossy(&status.stdout),
                String::from_utf8_lossy(&status.stderr),
            );
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Runs a client command (`show`, `clear`, `reload` …) against this instance.
    pub fn cli(&self, args: &[&str]) -> Output {
        self.ns
            .command(env!("CARGO_BIN_EXE_natgate"))
            .args(args)
            .env("NATGATE_SOCKET", &self.socket)
            .output()
            .expect("natgate starts")
    }

    /// The standard output of a client command that must succeed.
    pub fn ask(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(
            output.status.success(),
            "natgate {args:?} ended with {}: {}\nlog:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The JSON document of `natgate show WHAT --json`.
    pub fn show(&self, what: &str) -> Value {
        let mut args = vec!["show"];
        args.extend(what.split_whitespace());
        args.push("--json");
        let text = self.ask(&args);
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("show {what}: {why} in {text}"))
    }

    /// What the process has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends SIGTERM and asserts an orderly end with exit code 0.
    fn stop(&mut self) {
        let mut child = self.child.take().expect("natgate runs");
        // `ip netns exec` replaces itself by the program: the child is natgate.
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(
                    status.success(),
                    "natgate ended with {status} on SIGTERM; its log:\n{}",
                    self.log()
                );
                return;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("natgate ignores SIGTERM; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
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
        self.stop();
        self.spawn();
    }

    fn finish(&mut self) {
        accounting::assert_conservation(self);
        self.stop();
    }

    fn natgate(&self) -> Option<&Natgate> {
        Some(self)
    }
}

impl Drop for Natgate {
    fn drop(&mut self) {
        // Only a failing test leaves a process here; show what it had to say.
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            eprintln!("natgate's log:\n{}", self.log());
        }
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
