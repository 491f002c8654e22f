//! The running configuration, edited object by object: the real command line against the real daemon.

use crate::gateway::{Gateway, natgate, wait_for};
use crate::{MASQUERADE, refusal};
use natgate::config::edit::Edit;
use natgate::control::api::{EditRequest, FailureKind, ReloadRequest, Terms};
use natgate::control::backend::Backend;

/// The names of a listing, in order.
fn names(gateway: &Gateway, what: &str) -> Vec<String> {
    let listing = gateway.json(&format!("show {what}"));
    let key = what.split(' ').next().unwrap().replace('-', "_");
    let list = listing[&key].as_array().unwrap();
    list.iter()
        .map(|object| object["name"].as_str().unwrap().to_owned())
        .collect()
}

fn hash(gateway: &Gateway) -> String {
    let config = gateway.json("show config");
    config["hash"].as_str().unwrap().to_owned()
}

#[test]
fn rules_are_added_moved_between_others_and_deleted_and_sessions_stay() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(5);
    let done = gateway.json("add source-nat name=first src=10.9.0.0/16 via=none --before office");
    assert_eq!(
        (&done["generation"], &done["changes"][0]),
        (&2.into(), &"source-nat first added".into())
    );
    gateway.ask("add source-nat src=10.8.0.0/16 via=none --origin vm-manager");
    assert_eq!(
        names(&gateway, "source-nat"),
        ["first", "office", "vm-manager-1"]
    );
    gateway.ask("set source-nat.first.src 10.7.0.0/16");
    gateway.ask("set timeouts.udp 6m");
    let rules = gateway.json("show source-nat");
    assert_eq!(rules["source_nat"][0]["src"], "10.7.0.0/16");
    assert_eq!(rules["source_nat"][1]["hits"], 5, "counters go by the name");
    gateway.ask("delete source-nat 1");
    gateway.ask("delete source-nat vm-manager-1");
    assert_eq!(names(&gateway, "source-nat"), ["office"]);
    assert_eq!(gateway.json("show status")["sessions"], 5);
    let causes = gateway.json("show history")["history"].clone();
    assert_eq!(causes.as_array().unwrap().len(), 7, "{causes}");
    assert_eq!(
        (&causes[4]["cause"], &causes[4]["summary"]),
        (&"edit".into(), &"timeouts changed".into())
    );
}

#[test]
fn a_refused_edit_changes_nothing_and_names_the_key() {
    let gateway = Gateway::start(1, MASQUERADE);
    let before = (hash(&gateway), gateway.json("show history"));
    for (words, code, parts) in [
        (
            "add source-nat name=x via=pool:missing",
            5,
            &["source-nat[x].via", "missing", "natgate.toml:"][..],
        ),
        (
            "add source-nat name=office via=none",
            5,
            &["office", "taken"],
        ),
        (
            "add source-nat colour=red via=none",
            5,
            &["colour", "unknown key"],
        ),
        ("add port name=p device=null:", 5, &["restart", "port"]),
        ("set system.workers 2", 5, &["system.workers: 1 now, 2"]),
        ("set timeouts.udp soon", 5, &["timeouts.udp", "duration"]),
        ("set timeouts.upd 5m", 5, &["did you mean \"udp\""]),
        ("delete source-nat offic", 3, &["did you mean \"office\""]),
        ("delete --origin nobody", 3, &["nobody"]),
        ("delete set bad", 3, &["@bad"]),
        (
            "delete address wan0 203.0.113.77/24",
            3,
            &["203.0.113.77/24"],
        ),
        ("set wan0 up", 2, &["TABLE.KEY"]),
        ("add source-nat via", 2, &["KEY=VALUE"]),
        ("add nonsense a=b", 2, &["nonsense"]),
        ("delete", 2, &["--origin"]),
        ("rollback", 3, &["no earlier configuration"]),
        ("rollback 77", 3, &["generation 77"]),
        ("confirm", 3, &["no change waits"]),
    ] {
        let text = refusal(&gateway, words, code);
        for part in parts {
            assert!(text.contains(part), "{words}: {part} in {text}");
        }
    }
    assert_eq!(before, (hash(&gateway), gateway.json("show history")));
}

#[test]
fn several_edits_are_made_together_or_not_at_all() {
    let gateway = Gateway::start(1, MASQUERADE);
    let live = &gateway.daemon.as_ref().unwrap().live;
    let set = |key: &str, value: &str| Edit::Set {
        key: key.into(),
        value: Some(value.into()),
    };
    let add = Edit::AddMembers {
        set: "s".into(),
        members: vec!["192.0.2.1".into()],
    };
    let request = |last: Edit| EditRequest {
        edits: vec![add.clone(), last],
        client: Some("feed".into()),
        ..EditRequest::default()
    };
    let before = hash(&gateway);
    let refused = live
        .edit(&request(set("timeouts.udp", "soon")))
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::Refused);
    assert_eq!(before, hash(&gateway));
    let done = live.edit(&request(set("timeouts.udp", "6m"))).unwrap();
    assert_eq!(done.changes, ["timeouts changed", "set s changed"]);
    assert!(gateway.ask("show config").contains("origin = \"api:feed\""));
}

/// AT-4.14.
#[test]
fn clients_objects_survive_a_reload_and_go_with_their_client() {
    let gateway = Gateway::start(1, MASQUERADE);
    for words in [
        "add port-forward name=web in=wan0 dst=203.0.113.1 dport=80 to=10.0.0.2 --origin vm-orchestrator",
        "add set guests 10.0.0.4 10.0.0.5 --origin vm-orchestrator",
        "add filter src=@guests action=drop --origin vm-orchestrator",
        "add filter name=mine action=accept",
        "set timeouts.udp 9m",
    ] {
        gateway.ask(words);
    }
    gateway.edit(|text| {
        text + "[[port-forward]]\nname = \"ssh\"\nin = \"wan0\"\ndst = \"203.0.113.1\"\ndport = \"22\"\nto = \"10.0.0.2\"\n"
    });
    let done = gateway.json("reload");
    assert_eq!(
        done["changes"],
        serde_json::json!(["timeouts changed", "port-forward ssh added"])
    );
    assert_eq!(names(&gateway, "port-forwards").len(), 2);
    assert_eq!(
        names(&gateway, "filter"),
        ["vm-orchestrator-1", "mine", "default"]
    );
    // The set is used by a rule of the same client: both go at once.
    gateway.ask("delete --origin vm-orchestrator");
    assert_eq!(names(&gateway, "port-forwards"), ["ssh"]);
    assert_eq!(names(&gateway, "filter"), ["mine", "default"]);
    assert!(!gateway.ask("show config").contains("guests"));
    gateway.ask("delete --origin api:cli");
    assert_eq!(gateway.ask("diff"), "no difference\n");
    assert_eq!(
        gateway.json("show status")["unsaved"],
        true,
        "the text is still another"
    );
    assert!(gateway.ask("reload").starts_with("nothing changed\n"));
    assert_eq!(gateway.json("show status")["unsaved"], false);
}

/// AT-0.12.
#[test]
fn a_saved_configuration_is_the_one_a_restart_reads() {
    let gateway = Gateway::start(1, MASQUERADE);
    let comment = "# the office\n[[source-nat]]";
    gateway.edit(|text| text.replace("[[source-nat]]", comment));
    gateway.ask("reload");
    let drop_ins = gateway.file().with_extension("d");
    std::fs::create_dir(&drop_ins).unwrap();
    let drop_in = drop_ins.join("10-guests.toml");
    std::fs::write(
        &drop_in,
        "# guests\n[[exempt]]\nname = \"guests\"\nsrc = \"10.5.0.0/16\"\ndst = \"10.6.0.0/16\"\n",
    )
    .unwrap();
    gateway.ask("reload");
    for words in [
        "add source-nat name=lab src=10.9.0.0/16 via=none --before office",
        "set exempt.guests.dst 10.0.0.0/8",
        "add address wan0 203.0.113.4/24",
    ] {
        gateway.ask(words);
    }
    assert!(gateway.ask("show status").contains("natgate save"));
    let difference = gateway.ask("diff");
    assert_eq!(difference.lines().count(), 5, "{difference}");
    assert!(difference.contains(
        "- source-nat lab: origin = \"api:cli\", src = \"10.9.0.0/16\", via = \"none\"\n"
    ));
    let before = std::fs::read_to_string(gateway.file()).unwrap();
    assert_eq!(gateway.ask("save").lines().count(), 2);
    assert_eq!(gateway.ask("save"), "the files say it already\n");
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    assert!(
        text.contains(comment) && text.contains("name = \"lab\""),
        "{text}"
    );
    assert_eq!(
        std::fs::read_to_string(format!("{}~", gateway.file().display())).unwrap(),
        before
    );
    let text = std::fs::read_to_string(&drop_in).unwrap();
    assert!(
        text.starts_with("# guests\n") && text.contains("dst = \"10.0.0.0/8\""),
        "{text}"
    );
    natgate().arg("check").arg(gateway.file()).assert().code(0);
    assert_eq!(gateway.ask("diff"), "no difference\n");
    assert_eq!(gateway.json("show status")["unsaved"], false);
    // What a daemon would show that starts from the file now.
    let read = natgate::config::load(&gateway.file(), &[]).unwrap();
    assert_eq!(gateway.ask("show config"), read.text());
    // Another file, put into force and saved.
    let other = gateway.directory.path().join("other.toml");
    std::fs::write(&other, before.replace("\"office\"", "\"bureau\"")).unwrap();
    gateway.ask(&format!("reload {}", other.display()));
    let text = refusal(&gateway, "save", 5);
    assert!(
        text.contains("10-guests.toml") && text.contains("not running"),
        "{text}"
    );
    std::fs::remove_file(&drop_in).unwrap();
    gateway.ask("save --force");
    let read = natgate::config::load(&gateway.file(), &[]).unwrap();
    assert_eq!(gateway.ask("show config"), read.text());
    assert_eq!(names(&gateway, "source-nat"), ["lab", "bureau"]);
}

#[test]
fn a_file_somebody_changed_meanwhile_is_not_written_over() {
    let gateway = Gateway::start(1, MASQUERADE);
    gateway.ask("set timeouts.udp 6m");
    gateway.edit(|text| text + "# a note\n");
    let text = refusal(&gateway, "save", 5);
    assert!(text.contains("was changed since"), "{text}");
    assert!(
        std::fs::read_to_string(gateway.file())
            .unwrap()
            .ends_with("# a note\n")
    );
    gateway.ask("save --force");
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    assert!(text.contains("udp = \"6m\"") && !text.contains("# a note"));
}

#[test]
fn two_editors_do_not_overwrite_each_other() {
    let gateway = Gateway::start(1, MASQUERADE);
    let seen = hash(&gateway);
    gateway.ask(&format!("set timeouts.udp 6m --expect {seen}"));
    let text = refusal(&gateway, &format!("set timeouts.udp 7m --expect {seen}"), 5);
    assert!(text.contains("changed meanwhile"), "{text}");
    let text = refusal(&gateway, &format!("reload --expect {seen}"), 5);
    assert!(text.contains("changed meanwhile"), "{text}");
    // Without a condition, edits of different objects all arrive.
    let live = &gateway.daemon.as_ref().unwrap().live;
    std::thread::scope(|scope| {
        for editor in 0..4 {
            scope.spawn(move || {
                for n in 0..5 {
                    let edit = Edit::AddMembers {
                        set: format!("s{editor}"),
                        members: vec![format!("192.0.2.{n}")],
                    };
                    live.edit(&EditRequest {
                        edits: vec![edit],
                        ..EditRequest::default()
                    })
                    .unwrap();
                }
            });
        }
    });
    let text = gateway.ask("show config");
    for editor in 0..4 {
        let all =
            "members = [\"192.0.2.0\", \"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\", \"192.0.2.4\"]";
        let written = format!("[sets.s{editor}]\norigin = \"api:cli\"\n{all}");
        assert!(text.contains(&written), "{text}");
    }
}

#[test]
fn going_back_goes_back_and_forth() {
    let gateway = Gateway::start(1, MASQUERADE);
    let first = gateway.ask("show config");
    gateway.ask("set timeouts.udp 6m");
    gateway.ask("add exempt name=x dst=10.0.0.0/8");
    let third = gateway.ask("show config");
    assert_eq!(gateway.json("rollback")["changes"][0], "exempt x removed");
    assert_eq!(gateway.json("rollback")["changes"][0], "exempt x added");
    assert_eq!(gateway.ask("show config"), third);
    assert_eq!(
        gateway.ask("diff --generation 2"),
        "- exempt x: origin = \"api:cli\", dst = \"10.0.0.0/8\"\n"
    );
    gateway.ask("rollback 1");
    assert_eq!(gateway.ask("show config"), first);
    assert_eq!(gateway.json("show status")["unsaved"], false);
    assert_eq!(
        gateway.json("show history")["history"][5]["cause"],
        "rollback"
    );
}

#[test]
fn a_change_nobody_confirms_is_taken_back() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(3);
    let before = gateway.ask("show config");
    gateway.edit(|text| text + "[timeouts]\nudp = \"6m\"\n");
    assert!(
        gateway
            .ask("reload --confirm 60s")
            .contains("natgate confirm")
    );
    let left = gateway.json("show status")["confirm_seconds"]
        .as_u64()
        .unwrap();
    assert!((50..=60).contains(&left), "{left}");
    for words in ["reload", "set timeouts.udp 7m", "save", "rollback 1"] {
        assert!(refusal(&gateway, words, 5).contains("not confirmed"));
    }
    let (_, metrics) = gateway.http("/metrics");
    assert!(metrics.contains("natgate_config_unsaved 0\n"), "{metrics}");
    gateway.ask("confirm");
    assert_eq!(
        gateway.json("show status")["confirm_seconds"],
        serde_json::Value::Null
    );
    gateway.ask("set timeouts.udp 7m --confirm 60s");
    gateway.ask("rollback");
    assert!(gateway.ask("show timeouts").contains("6m"));
    // Nobody confirms: a second is over soon.
    let live = &gateway.daemon.as_ref().unwrap().live;
    let terms = Terms {
        confirm_seconds: Some(1),
        ..Terms::default()
    };
    let file = gateway.directory.path().join("before.toml");
    std::fs::write(&file, before.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    let request = ReloadRequest {
        file: Some(file),
        terms,
    };
    live.reload(&request).unwrap();
    assert!(gateway.ask("show timeouts").contains("5m"));
    wait_for("the configuration before comes back", || {
        gateway.ask("show timeouts").contains("6m")
    });
    let history = gateway.json("show history")["history"].clone();
    let last = history.as_array().unwrap().last().unwrap();
    assert_eq!(last["cause"], "unconfirmed");
    assert_eq!(gateway.json("show status")["sessions"], 3);
}

/// AT-1.6, in memory.
#[test]
fn a_replaced_address_ends_the_sessions_of_the_old_one() {
    let gateway = Gateway::start(2, MASQUERADE);
    gateway.open_sessions(4);
    gateway.ask("add address wan0 203.0.113.2/24 --replace");
    wait_for("sessions are forgotten", || {
        gateway.json("show status")["sessions"] == 0
    });
    gateway.open_sessions(1);
    let session = gateway.json("show sessions verbose")["sessions"][0].clone();
    assert_eq!(
        session["forward"]["translated_source"]["address"],
        "203.0.113.2"
    );
}
