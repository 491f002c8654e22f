//! Network namespaces and the commands that run in them.
//!
//! A namespace is named `natlab-PID-ROLE`, so that labs of two test processes never meet and whatever a
//! killed process left behind is recognised and removed by the next one.
#![allow(dead_code, reason = "every test binary uses another part of it")]

use std::fs::File;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, setns};

/// What every namespace name of the lab begins with.
const PREFIX: &str = "natlab-";

/// A network namespace that lives as long as this value.
#[derive(Debug)]
pub struct Ns {
    name: String,
}

impl Ns {
    /// Creates the namespace for `role` ("in", "gw", "out") with its loopback up.
    pub fn create(role: &str) -> Ns {
        let name = format!("{PREFIX}{}-{role}", std::process::id());
        destroy(&name);
        run(Command::new("ip").args(["netns", "add", &name]));
        let ns = Ns { name };
        ns.ip("link set lo up");
        ns
    }

    /// The name as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace and returns its result.
    ///
    /// A socket belongs to the namespace it was opened in, whichever thread uses it later: opening is all
    /// that has to happen in here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let file = File::open(&path).expect("the namespace exists");
                    setns(&file, CloneFlags::CLONE_NEWNET).expect("setns needs root");
                    work()
                })
                .join()
                .unwrap_or_else(|cause| std::panic::resume_unwind(cause))
        })
    }

    /// A command that will run in the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a shell line in the namespace; returns its output whatever the exit code.
    pub fn try_sh(&self, line: &str) -> Output {
        self.command("sh")
            .args(["-c", line])
            .stdin(Stdio::null())
            .output()
            .expect("sh starts")
    }

    /// Runs a shell line in the namespace and returns its standard output; a failure fails the test.
    pub fn sh(&self, line: &str) -> String {
        expect_success(line, self.try_sh(line))
    }

    /// Runs `ip` commands, one a line, in the namespace.
    pub fn ip(&self, script: &str) {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        feed(&mut command, script);
    }

    /// Loads a file of nftables commands in the namespace.
    pub fn nft(&self, script: &str) {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        feed(&mut command, script);
    }

    /// Sets kernel parameters, each as `key=value`.
    pub fn sysctl(&self, settings: &[&str]) {
        run(self.command("sysctl").arg("-qw").args(settings));
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        destroy(&self.name);
    }
}

/// Removes the namespaces of test processes that no longer exist.
pub fn remove_leftovers() {
    let list = run(Command::new("ip").args(["netns", "list"]));
    for name in list.lines().filter_map(|l| l.split_whitespace().next()) {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = owner
            && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            destroy(name);
        }
    }
}

/// Ends every process in the namespace and removes it; nothing happens when there is none.
fn destroy(name: &str) {
    let script = format!(
        "ip netns list | grep -qw -e {name} || exit 0
         ip netns pids {name} | xargs -r kill -9
         ip netns del {name}"
    );
    // Also runs while a failed test unwinds, so a failure here must not panic.
    let _ = Command::new("sh").args(["-c", &script]).output();
}

/// Runs a command and returns its standard output; a failure fails the test.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|why| panic!("{command:?} does not start: {why}"));
    expect_success(&format!("{command:?}"), output)
}

fn feed(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|why| panic!("{command:?} does not start: {why}"));
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(input.as_bytes()).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    expect_success(&format!("{command:?} of\n{input}"), output);
}

fn expect_success(what: &str, output: Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{what}\nfailed with {}:\n{out}{err}",
        output.status
    );
    out
}
