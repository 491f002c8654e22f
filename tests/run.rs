//! The real binary started and changed as a person does it: `natgate run -c FILE`, the file named relatively, and then the
//! commands of `docs/running-configuration.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "common/process.rs"]
mod process;

use std::fs;
use std::process::Command;

use process::{BINARY, Process};

const CONFIG: &str = r#"schema = 1
port = [{ name = "in", device = "null:" }, { name = "out", device = "null:" }]
interface = [
  { name = "lan0", port = "in", address = ["10.0.0.1/24"] },
  { name = "wan0", port = "out", address = ["203.0.113.1/24"] },
]

[system]
hugepages = false
workers = 1
sessions = 4096
memory = "256MiB"

# Everybody.
[[source-nat]]
name = "all"
out = "wan0"
via = "interface"

[[filter.rule]]
name = "one"
src = "10.0.0.7"
action = "accept"

[[filter.rule]]
name = "two"
src = "10.0.0.8"
action = "accept"

[[filter.rule]]
name = "three"
src = "10.0.0.9"
action = "accept"
"#;

#[test]
fn what_a_person_changes_is_saved_to_the_file_natgate_was_started_with() {
    let dir = tempfile::tempdir().unwrap();
    let (file, socket) = (dir.path().join("gateway.toml"), dir.path().join("s.sock"));
    fs::write(&file, CONFIG).unwrap();
    let mut command = Command::new(BINARY);
    command
        .args(["run", "-c", "gateway.toml"])
        .current_dir(dir.path())
        .env(
            "NATGATE__SYSTEM__INSTANCE",
            format!("run-{}", std::process::id()),
        )
        .env("NATGATE__API__SOCKET", &socket)
        .env("NATGATE__METRICS__LISTEN", "");
    let mut natgate = Process::start(command, &socket, &dir.path().join("log"));
    natgate.wait_until_ready();

    let page = include_str!("../docs/running-configuration.md");
    // What the shell would do to a line is another matter: quotes apart, none of these needs it.
    let commands = page
        .split("```")
        .filter_map(|part| part.strip_prefix("sh\n"))
        .filter(|part| part.starts_with("natgate "))
        .flat_map(str::lines)
        .filter(|line| !line.contains('<'));
    let mut ran = 0;
    for line in commands {
        let mut words = line.split(' ').map(|word| word.trim_matches('\''));
        assert_eq!(words.next(), Some("natgate"), "{line}");
        natgate.ask(&words.collect::<Vec<_>>());
        ran += 1;
    }
    assert!(ran > 10, "the page has commands");
    natgate.ask(&["save"]);
    assert_eq!(natgate.ask(&["diff"]), "no difference\n");
    let saved = fs::read_to_string(&file).unwrap();
    assert!(saved.contains("udp = \"6m\""), "{saved}");
    assert!(saved.contains("# Everybody."), "comments stay: {saved}");
    natgate.stop();
}
