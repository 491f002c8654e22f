//! A running `natgate run`: started, asked through its own command line, stopped in an orderly way.
#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process needs the clock"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_natgate");

/// How long natgate may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// A natgate process. One that is dropped without [`Process::stop`] belongs to a failing test: it is killed, and its log
/// shown.
pub struct Process {
    child: Option<Child>,
    socket: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, which is to become `natgate run` with its API on `socket`.
    pub fn start(mut command: Command, socket: &Path, log: &Path) -> Process {
        let file = File::create(log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Process {
            child: Some(command.spawn().expect("natgate starts")),
            socket: socket.to_path_buf(),
            log: log.to_path_buf(),
        }
    }

    /// Waits until it forwards.
    pub fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.cli(&["show", "status", "--json"]);
            let document: Value = serde_json::from_slice(&status.stdout).unwrap_or(Value::Null);
            if status.status.success() && document["state"] == "ready" {
                return;
            }
            let ended = self.ended();
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

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// Runs a client command (`show`, `clear`, `reload` …) against it.
    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(BINARY)
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

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends SIGTERM, asserts an orderly end with exit code 0, and returns the last numbers it reports, by name.
    pub fn stop(&mut self) -> BTreeMap<String, i64> {
        let mut child = self.child.take().expect("natgate runs");
        // `ip netns exec` replaces itself by the program: the child is natgate.
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("natgate ignores SIGTERM; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let log = self.log();
        assert!(
            status.success(),
            "natgate ended with {status} on SIGTERM; its log:\n{log}"
        );
        let report = log.lines().rfind(|line| line.contains("imbalance="));
        let report = report.unwrap_or_else(|| panic!("no last report in the log:\n{log}"));
        let pairs = report
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        pairs
            .filter_map(|(name, n)| Some((name.to_owned(), n.parse().ok()?)))
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            eprintln!("natgate's log:\n{}", self.log());
        }
    }
}
