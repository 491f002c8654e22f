//! The generator of `natgate bench wire` against a running natgate, over memif and without huge pages: sessions are
//! established, every one of them is found both ways, and nothing comes back wrong.
#![cfg(feature = "dpdk")]
#![allow(missing_docs, reason = "a test is no interface")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a helper of a test fails by panicking, and waits by the clock"
)]

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Stopped when the test ends, however it ends.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> Gateway {
    let config = dir.join("natgate.toml");
    std::fs::write(&config, configuration(dir)).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_natgate"))
        .arg("run")
        .arg("-c")
        .arg(&config)
        .spawn()
        .unwrap();
    let gateway = Gateway(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !(dir.join("in.memif").exists() && dir.join("out.memif").exists()) {
        assert!(Instant::now() < deadline, "natgate does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    gateway
}

#[test]
fn sessions_are_found_both_ways_over_a_wire() {
    let dir = tempfile::tempdir().unwrap();
    let _gateway = start(dir.path());
    let socket = |name| format!("memif:{}/{name}.memif,role=client", dir.path().display());
    let output = Command::new(env!("CARGO_BIN_EXE_natgate"))
        .args(["bench", "wire", "--json", "--no-hugepages"])
        .args([socket("in"), socket("out")])
        .args(["--sessions", "2000", "--frame", "imix"])
        // Slow enough for a debug build on a busy machine not to lose what it need not lose.
        .args(["--seconds", "0.3", "--rate", "0.02"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let trials: Vec<serde_json::Value> =
        serde_json::from_str(&text[text.find('[').unwrap()..]).unwrap();
    let phases: Vec<&str> = trials
        .iter()
        .map(|t| t["phase"].as_str().unwrap())
        .collect();
    assert_eq!(
        phases,
        [
            "establish",
            "validate out",
            "validate in",
            "out",
            "in",
            "both"
        ]
    );
    for trial in &trials {
        assert_eq!(trial["wrong"], 0, "{trial}");
        assert_eq!(trial["reordered"], 0, "{trial}");
        assert!(trial["returned"].as_u64() > Some(0), "{trial}");
    }
    for validation in &trials[1..3] {
        assert_eq!(validation["returned"], 2000, "{validation}");
    }
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"
schema = 1
[system]
sessions = 4096
hugepages = false
instance = "natgate-wire-test"
[api]
socket = "{dir}/natgate.sock"
[metrics]
listen = ""
[[port]]
name = "in"
device = "memif:{dir}/in.memif"
mac = "02:00:00:00:00:11"
[[port]]
name = "out"
device = "memif:{dir}/out.memif"
mac = "02:00:00:00:00:12"
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
mac = "02:00:00:00:00:02"
[[neighbour]]
interface = "outside"
address = "192.0.2.2"
mac = "02:00:00:00:00:02"
[[pool]]
name = "carrier"
addresses = ["203.0.113.1-203.0.113.2"]
block = {{ size = 64, max_per_host = 1 }}
filtering = "endpoint"
answer_arp = false
[[source-nat]]
in = "inside"
out = "outside"
via = "pool:carrier"
"#
    )
}
