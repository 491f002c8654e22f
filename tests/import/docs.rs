//! The pages of docs/: their files are written, their commands run in order, and what they print is what the page says.

use std::path::Path;
use std::process::Command;

/// A fenced block: the words behind its fence, and its lines.
struct Block<'a> {
    kind: &'a str,
    file: Option<&'a str>,
    lines: Vec<&'a str>,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let (mut found, mut open): (Vec<Block>, bool) = (Vec::new(), false);
    for line in page.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(head), false) => {
                let mut words = head.split_whitespace();
                found.push(Block {
                    kind: words.next().unwrap_or_default(),
                    file: words.next(),
                    lines: Vec::new(),
                });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => found.last_mut().unwrap().lines.push(line),
            (None, false) => {}
        }
    }
    assert!(!open, "a block is not closed");
    found
}

/// Runs a command as a reader would, in the page's own directory.
fn run(command: &str, directory: &Path) -> String {
    let natgate = assert_cmd::cargo::cargo_bin!("natgate");
    let path = format!(
        "{}:{}",
        natgate.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new("sh")
        .args(["-c", &format!("{command} 2>&1")])
        .env("PATH", path)
        .current_dir(directory)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn page_says_what_happens(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    let page = std::fs::read_to_string(path).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut commands = 0;
    for block in blocks(&page) {
        if let Some(file) = block.file {
            std::fs::write(directory.path().join(file), block.lines.join("\n") + "\n").unwrap();
            continue;
        }
        assert_eq!(
            block.kind, "console",
            "a block that is neither a file nor commands"
        );
        let written = block.lines.join("\n") + "\n";
        let mut happened = String::new();
        for line in &block.lines {
            if let Some(command) = line.strip_prefix("$ ") {
                happened.push_str(&format!("{line}\n{}", run(command, directory.path())));
                commands += 1;
            }
        }
        assert_eq!(written, happened, "{name} says something else than happens");
    }
    assert!(commands > 4, "{name} has commands");
}

#[test]
fn coming_from_iptables() {
    page_says_what_happens("from-iptables.md");
}

#[test]
fn coming_from_ip_masq_agent() {
    page_says_what_happens("from-ip-masq-agent.md");
}

#[test]
fn coming_from_vpp() {
    page_says_what_happens("from-vpp.md");
}
