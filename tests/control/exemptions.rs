//! Exemptions that follow a file: what changes in the file changes what new flows meet, and nothing else does.

use crate::common::{LAN, udp};
use crate::gateway::{Gateway, natgate, wait_for};
use serde_json::Value;
use std::path::Path;

fn rules(file: &Path, more: &str) -> String {
    format!(
        "[[exempt]]\nname = \"agent\"\nin = \"lan0\"\nforce = [\"10.8.0.0/16\"]\nfile = {{ path = \"{}\"{more} }}\n\
         [[source-nat]]\nin = \"lan0\"\nout = \"wan0\"\nvia = \"interface\"\n",
        file.display()
    )
}

/// The rows of `show exempt` that have a prefix, as `PREFIX ORIGIN`.
fn listed(gateway: &Gateway) -> Vec<String> {
    let rows = gateway.json("show exempt")["exempt"].clone();
    let prefixes = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["dst"] != "");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    prefixes
        .map(|row| format!("{} {}", text(row, "dst"), text(row, "origin")))
        .collect()
}

/// What is said of the file.
fn state(gateway: &Gateway) -> String {
    let rows = gateway.json("show exempt");
    rows["exempt"][0]["state"].as_str().unwrap().to_owned()
}

/// The source that a new flow to `destination` leaves with.
fn source(gateway: &Gateway, port: u16, destination: &'static str) -> String {
    let frame = udp(LAN, ("10.0.0.2", port), (destination, 53), b"x");
    gateway.send(LAN, 0, &[frame], 1);
    let session = gateway.json(&format!("show sessions ip 10.0.0.2 port {port}"));
    let end = &session["sessions"][0]["forward"]["translated_source"]["address"];
    end.as_str()
        .unwrap_or_else(|| panic!("{session}"))
        .to_owned()
}

fn metric(gateway: &Gateway, name: &str) -> String {
    let (_, text) = gateway.http("/metrics");
    let line = text
        .lines()
        .find(|l| l.starts_with(&format!("natgate_{name}{{")));
    line.unwrap().rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn the_file_is_followed_and_a_bad_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ip-masq-agent");
    let gateway = Gateway::start(1, &rules(&file, ", resync = \"300ms\""));
    assert_eq!(source(&gateway, 4000, "172.16.5.5"), "10.0.0.2");
    assert_eq!(source(&gateway, 4001, "10.8.1.1"), "203.0.113.1", "forced");
    assert_eq!(source(&gateway, 4002, "100.64.3.3"), "203.0.113.1");
    let default = [
        "169.254.0.0/16 builtin link-local",
        "fe80::/10 builtin link-local",
        "10.0.0.0/8 default rfc1918",
        "172.16.0.0/12 default rfc1918",
        "192.168.0.0/16 default rfc1918",
    ];
    let forced = |list: Vec<String>| list.into_iter().filter(|row| !row.starts_with("10.8."));
    assert_eq!(forced(listed(&gateway)).collect::<Vec<_>>(), default);
    let rows = gateway.json("show exempt");
    let hit = rows["exempt"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["dst"] == "172.16.0.0/12");
    assert_eq!(
        (&hit.unwrap()["hits"], &hit.unwrap()["packets"]),
        (&1.into(), &1.into())
    );

    std::fs::write(&file, "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n").unwrap();
    let from_file = format!("10.0.0.0/8 file {}:2", file.display());
    wait_for("the list is taken up", || {
        listed(&gateway).contains(&from_file)
    });
    assert_eq!(source(&gateway, 4003, "172.16.5.5"), "203.0.113.1");
    assert_eq!(source(&gateway, 4005, "10.9.9.9"), "10.0.0.2");
    assert_eq!(
        gateway.json("show sessions ip 10.0.0.2 port 4000")["sessions"][0]["forward"]["translated_source"]
            ["address"],
        "10.0.0.2",
        "a live session stays"
    );
    let history = gateway.json("show history");
    assert_eq!(
        history["history"].as_array().unwrap().last().unwrap()["cause"],
        "exempt-file"
    );
    assert!(state(&gateway).starts_with("good since "));
    assert_eq!(metric(&gateway, "exempt_file_stale"), "0");

    let good = listed(&gateway);
    std::fs::write(&file, "nonMasqueradeCIDRs: [11.0.0.0/8, 10.0.0.1/8]\n").unwrap();
    wait_for("the file is seen to be bad", || {
        state(&gateway).starts_with("stale since ")
    });
    let why = state(&gateway);
    assert!(
        why.contains("10.0.0.1/8") && why.contains("10.0.0.0/8"),
        "{why}"
    );
    assert_eq!(listed(&gateway), good);
    assert_eq!(source(&gateway, 4004, "10.9.9.9"), "10.0.0.2");
    wait_for("every attempt is counted", || {
        metric(&gateway, "exempt_file_config_errors_total")
            .parse::<u32>()
            .unwrap()
            >= 3
    });
    assert_eq!(metric(&gateway, "exempt_file_stale"), "1");
    assert!(gateway.ask("show status").contains("10.0.0.1/8"));
    let table = gateway.ask("show exempt");
    assert!(table.contains("stale since"), "{table}");
    // A reload for another reason keeps the last good list, and says that the file is bad.
    gateway.edit(|text| text + "[timeouts]\nudp = \"6m\"\n");
    let reload = gateway.json("reload");
    assert!(
        reload["warnings"].to_string().contains("10.0.0.1/8"),
        "{reload}"
    );
    assert_eq!(reload["changes"], serde_json::json!(["timeouts changed"]));
    assert_eq!(listed(&gateway), good);

    std::fs::remove_file(&file).unwrap();
    wait_for("the defaults are back", || {
        forced(listed(&gateway)).eq(default.map(str::to_owned))
    });
    assert!(state(&gateway).starts_with("good since "));
}

#[test]
fn swapped_links_are_seen_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, list) in [("v1", "10.0.0.0/8"), ("v2", "12.0.0.0/8")] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(
            at(version).join("f"),
            format!("nonMasqueradeCIDRs: [{list}]\n"),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink("v1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/f", at("f")).unwrap();
    let gateway = Gateway::start(2, &rules(&at("f"), ", resync = \"1h\""));
    let lists = |prefix: &str| listed(&gateway).iter().any(|row| row.starts_with(prefix));
    assert!(lists("10.0.0.0/8"));
    std::os::unix::fs::symlink("v2", at("next")).unwrap();
    std::fs::rename(at("next"), at("..data")).unwrap();
    wait_for("the new target is read", || lists("12.0.0.0/8"));
    assert!(!lists("10.0.0.0/8"));
}

#[test]
fn check_reads_the_file_as_a_reload_would() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list");
    let file = directory.path().join("natgate.toml");
    let check = |more: &str, content: Option<&str>| {
        let _ = std::fs::remove_file(&list);
        if let Some(text) = content {
            std::fs::write(&list, text).unwrap();
        }
        std::fs::write(
            &file,
            format!("{}{}", crate::common::LAB, rules(&list, more)),
        )
        .unwrap();
        let output = natgate().arg("check").arg(&file).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(check("", None), (Some(0), String::new()));
    let (code, text) = check("", Some("nonMasqueradeCIDRs: [10.0.0.1/8]"));
    assert!(
        code == Some(0)
            && text.contains("warning: exempt[agent].file")
            && text.contains("10.0.0.1/8"),
        "{text}"
    );
    let (code, text) = check(", missing = \"error\"", None);
    assert!(code == Some(1) && text.contains("does not exist"), "{text}");
    let (code, text) = check(
        ", format = \"agent\", resync = \"0s\", missing = \"none\"",
        None,
    );
    for part in [
        "file.format",
        "file.resync",
        "file.missing",
        "ip-masq-agent",
    ] {
        assert!(code == Some(1) && text.contains(part), "{part} in {text}");
    }
}
