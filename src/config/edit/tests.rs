use super::*;
use crate::config::{self, difference};

const FILE: &str = r#"# The gateway of the office.
schema = 1

# Ports
port = [{ name = "a", device = "null:" }, { name = "b", device = "null:" }]
interface = [
  { name = "lan", port = "a", address = ["10.0.0.1/24"] },   # inside
  { name = "wan.7", port = "b", address = "203.0.113.1/24" },
]

[timeouts]
udp = "5m" # games

# --- Source NAT ---

# guests have a pool of their own
[[source-nat]]
name = "guests"
in = "lan"
src = "10.0.0.128/25"
via = "pool:cgn"

# everybody else
[[source-nat]]
via = "interface" # masquerade

[[pool]]
name = "cgn"
addresses = ["203.0.113.64-203.0.113.127"]
[pool.block]
size = 64

[sets]
bad = [
  "192.0.2.0/24", # a neighbour
  "198.51.100.7",
]
one = "192.0.2.1"
"#;

fn documents(texts: &[(&str, &str)]) -> Documents {
    let text = |(name, content): &(&str, &str)| Text {
        name: (*name).to_owned(),
        content: (*content).to_owned(),
    };
    let texts: Vec<Text> = texts.iter().map(text).collect();
    Documents::of(&texts).unwrap()
}

fn file() -> Documents {
    documents(&[("f", FILE)])
}

fn apply(documents: &mut Documents, edit: Edit) -> String {
    documents.apply(&edit, "api:cli").unwrap();
    text(documents)
}

fn text(documents: &Documents) -> String {
    let texts = documents.texts();
    let text = texts.last().unwrap().content.clone();
    config::read(texts, &[]).unwrap_or_else(|report| panic!("{report}\n{text}"));
    text
}

fn add(kind: &str, words: &str, place: Place) -> Edit {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    };
    Edit::Add {
        kind: kind.to_owned(),
        values: words.split_whitespace().map(pair).collect(),
        place,
    }
}

fn delete(kind: &str, object: &str) -> Edit {
    Edit::Delete {
        kind: kind.to_owned(),
        object: object.to_owned(),
    }
}

fn set(key: &str, value: Option<&str>) -> Edit {
    Edit::Set {
        key: key.to_owned(),
        value: value.map(str::to_owned),
    }
}

/// The lines of `after` that are not in `before`, and the other way round.
fn changed(before: &str, after: &str) -> (Vec<String>, Vec<String>) {
    let only = |a: &str, b: &str| {
        let lines = a
            .lines()
            .filter(|line| !b.lines().any(|other| other == *line));
        lines.map(str::to_owned).collect()
    };
    (only(after, before), only(before, after))
}

#[test]
fn a_text_nobody_edits_stays_byte_for_byte() {
    assert_eq!(text(&file()), FILE);
}

#[test]
fn an_object_is_written_in_the_order_of_the_language_where_it_belongs() {
    let mut doc = file();
    let words = "via=interface src=10.0.0.0/8,!10.9.0.0/16 in=lan name=office sport=1-2,9";
    let after = apply(
        &mut doc,
        add("source-nat", words, Place::Before("2".into())),
    );
    let added = "\n[[source-nat]]\nname = \"office\"\norigin = \"api:cli\"\nin = \"lan\"\n\
                 src = [\"10.0.0.0/8\", \"!10.9.0.0/16\"]\nsport = [\"1-2\", \"9\"]\nvia = \"interface\"\n";
    let expected = FILE.replace("\n# everybody else", &format!("{added}\n# everybody else"));
    assert_eq!(after, expected);
    let first = apply(&mut doc, add("source-nat", "name=x via=none", Place::First));
    let order: Vec<&str> = first
        .lines()
        .filter(|l| l.starts_with("name = ") || l.starts_with("via = \"i"))
        .collect();
    assert_eq!(
        order[..3],
        ["name = \"x\"", "name = \"guests\"", "name = \"office\""]
    );
    let last = apply(&mut doc, add("source-nat", "name=y via=none", Place::Last));
    let at = |needle: &str| last.find(needle).unwrap();
    assert!(at("# masquerade") < at("name = \"y\"") && at("name = \"y\"") < at("[[pool]]"));
}

#[test]
fn kinds_that_are_not_there_yet_and_inline_lists_take_objects_too() {
    let mut doc = file();
    let after = apply(&mut doc, add("filter", "src=@bad action=drop", Place::Last));
    assert!(
        after.contains("[[filter.rule]]\nname = \"cli-1\"\norigin = \"api:cli\""),
        "{after}"
    );
    let after = apply(&mut doc, add("filter", "action=accept", Place::First));
    assert!(
        after.find("cli-2").unwrap() < after.find("cli-1").unwrap(),
        "{after}"
    );
    let after = apply(
        &mut doc,
        add(
            "interfaces",
            "name=dmz port=b vlan=9 address=192.0.2.1/30",
            Place::After("lan".into()),
        ),
    );
    let (new, gone) = changed(FILE, &after);
    let line = "  { name = \"dmz\", origin = \"api:cli\", port = \"b\", vlan = 9, address = \"192.0.2.1/30\" },";
    assert!(
        new.iter()
            .any(|l| l.starts_with(line.trim_end_matches(','))),
        "{after}"
    );
    assert!(gone.is_empty(), "{gone:?}");
    let after = apply(
        &mut doc,
        add(
            "pool",
            "name=q addresses=192.0.2.9 block.size=128 block.idle=1m",
            Place::Last,
        ),
    );
    assert!(
        after.contains("block = { idle = \"1m\", size = 128 }"),
        "{after}"
    );
}

#[test]
fn deleting_takes_the_comment_above_and_leaves_the_heading() {
    let mut doc = file();
    let after = apply(&mut doc, delete("source-nat", "guests"));
    let (new, gone) = changed(FILE, &after);
    assert!(new.is_empty(), "{new:?}");
    assert!(gone.contains(&"# guests have a pool of their own".to_owned()));
    assert!(
        after.contains("# --- Source NAT ---\n\n# everybody else\n[[source-nat]]"),
        "{after}"
    );
    let after = apply(&mut doc, delete("source-nat", "1"));
    assert!(
        !after.contains("[[source-nat]]") && after.contains("# --- Source NAT ---"),
        "{after}"
    );
    let error = doc
        .apply(&delete("source-nat", "1"), "api:cli")
        .unwrap_err();
    assert!(error.missing, "{error}");
    let error = doc.apply(&delete("sorce-nat", "1"), "api:cli").unwrap_err();
    assert!(
        !error.missing && error.why.contains("source-nat"),
        "{error}"
    );
}

#[test]
fn keys_are_set_where_they_stand() {
    for (key, value, line) in [
        ("timeouts.udp", "6m", "udp = \"6m\" # games"),
        ("source-nat.2.via", "none", "via = \"none\" # masquerade"),
        ("source-nat[guests].via", "interface", "via = \"interface\""),
        ("pool.cgn.block.size", "32", "size = 32"),
        ("pool[cgn].parity", "true", "parity = true"),
        (
            "interface.wan.7.urpf",
            "strict",
            "  { name = \"wan.7\", port = \"b\", address = \"203.0.113.1/24\" , urpf = \"strict\" },",
        ),
        ("filter.default", "drop", "default = \"drop\""),
        ("system.cores", "2", "cores = [2]"),
        ("sets.one", "[\"192.0.2.9\"]", "one = [\"192.0.2.9\"]"),
    ] {
        let after = apply(&mut file(), set(key, Some(value)));
        let (new, gone) = changed(FILE, &after);
        let squeezed = |text: &str| text.replace(' ', "");
        assert!(
            new.iter().any(|l| squeezed(l) == squeezed(line)),
            "{key}: {new:?}"
        );
        assert!(gone.len() <= 1, "{key}: {gone:?}");
    }
    let mut doc = file();
    let after = apply(&mut doc, set("timeouts.udp", None));
    assert!(!after.contains("games"), "{after}");
    doc.apply(&set("pool.cgn.block.size", None), "api:cli")
        .unwrap();
    let texts = doc.texts();
    assert!(!texts[0].content.contains("size ="), "{texts:?}");
    for key in [
        "timeouts",
        "tmeouts.udp",
        "pool.nowhere.hold",
        "pool.cgn",
        "pool[cgn",
        "",
    ] {
        assert!(doc.apply(&set(key, Some("1")), "api:cli").is_err(), "{key}");
    }
    assert!(
        doc.apply(&set("timeouts.udp", Some("[1")), "api:cli")
            .is_err()
    );
}

#[test]
fn what_does_not_fit_is_found_when_the_text_is_read() {
    let mut doc = file();
    doc.apply(&set("pool[cgn].hold_max", Some("many")), "api:cli")
        .unwrap();
    let report = config::read(doc.texts(), &[]).unwrap_err().to_string();
    assert!(
        report.starts_with("f:") && report.contains("pool[cgn].hold_max"),
        "{report}"
    );
}

#[test]
fn members_come_and_go_and_the_layout_stays() {
    let mut doc = file();
    let members = |set: &str, members: &[&str]| {
        let members = members.iter().map(|m| (*m).to_owned()).collect();
        (set.to_owned(), members)
    };
    let (name, list) = members(
        "bad",
        &["192.0.2.0/24", "203.0.113.0/28", "198.51.100.7/32"],
    );
    let after = apply(
        &mut doc,
        Edit::AddMembers {
            set: name,
            members: list,
        },
    );
    assert_eq!(
        changed(FILE, &after).0,
        ["  \"203.0.113.0/28\","],
        "{after}"
    );
    let (name, list) = members("@bad", &["198.51.100.7/32"]);
    let after = apply(
        &mut doc,
        Edit::DeleteMembers {
            set: name,
            members: list,
        },
    );
    let lines = "bad = [\n  \"192.0.2.0/24\", # a neighbour\n  \"203.0.113.0/28\",\n]";
    assert!(after.contains(lines), "{after}");
    let (name, list) = members("one", &["192.0.2.2"]);
    let after = apply(
        &mut doc,
        Edit::AddMembers {
            set: name,
            members: list,
        },
    );
    assert!(
        after.contains("one = [\"192.0.2.1\", \"192.0.2.2\"]"),
        "{after}"
    );
    let (name, list) = members("new", &["192.0.2.3"]);
    let after = apply(
        &mut doc,
        Edit::AddMembers {
            set: name,
            members: list,
        },
    );
    assert!(
        after.contains("[sets.new]\norigin = \"api:cli\"\nmembers = [\"192.0.2.3\"]"),
        "{after}"
    );
    let (name, list) = members("new", &["192.0.2.3", "192.0.2.4"]);
    let absent = Edit::DeleteMembers {
        set: name,
        members: list,
    };
    let error = doc.clone().apply(&absent, "api:cli").unwrap_err();
    assert!(error.missing && error.why.contains("192.0.2.4"), "{error}");
    let after = apply(&mut doc, delete("set", "new"));
    assert!(!after.contains("sets.new"), "{after}");
}

#[test]
fn an_address_takes_the_place_of_its_family() {
    let mut doc = file();
    let add = |address: &str, replace| Edit::AddAddress {
        interface: "wan.7".into(),
        address: address.into(),
        replace,
    };
    let after = apply(&mut doc, add("2001:db8::1/64", false));
    assert!(
        after.contains("address = [\"203.0.113.1/24\", \"2001:db8::1/64\"]"),
        "{after}"
    );
    let after = apply(&mut doc, add("203.0.113.2/24", true));
    assert!(
        after.contains("address = [\"203.0.113.2/24\", \"2001:db8::1/64\"]"),
        "{after}"
    );
    let gone = Edit::DeleteAddress {
        interface: "wan.7".into(),
        address: "2001:db8::1/64".into(),
    };
    let after = apply(&mut doc, gone.clone());
    assert!(after.contains("address = [\"203.0.113.2/24\"]"), "{after}");
    assert!(doc.apply(&gone, "api:cli").unwrap_err().missing);
}

#[test]
fn an_origin_goes_as_a_whole_and_nothing_else_does() {
    let mut doc = documents(&[
        ("f", FILE),
        (
            "g",
            "[[route]]\nprefix = \"10.9.0.0/16\"\nvia = \"10.0.0.2\"\n",
        ),
    ]);
    for edit in [
        add("filter", "action=accept", Place::First),
        add("source-nat", "via=none", Place::First),
        add("source-nat", "via=none", Place::Last),
        Edit::AddMembers {
            set: "s".into(),
            members: vec!["192.0.2.8".into()],
        },
    ] {
        doc.apply(&edit, "api:vm").unwrap();
    }
    doc.apply(
        &add("route", "prefix=10.8.0.0/16 via=10.0.0.2", Place::Last),
        "api:vm2",
    )
    .unwrap();
    let rid = |origin: &str| Edit::DeleteOrigin {
        origin: origin.into(),
    };
    doc.apply(&rid("vm"), "api:cli").unwrap();
    assert_eq!(doc.texts()[0].content, FILE);
    assert!(doc.apply(&rid("vm"), "api:cli").unwrap_err().missing);
    assert_eq!(doc.objects("route").len(), 2);
    doc.apply(&rid("g"), "api:cli").unwrap();
    assert_eq!(
        doc.objects("route").len(),
        1,
        "a file's own objects go by the file's name"
    );
    doc.apply(&rid("api:vm2"), "api:cli").unwrap();
    assert_eq!(doc.objects("route").len(), 0);
}

#[test]
fn a_reload_takes_the_files_objects_and_leaves_the_clients_where_they_stood() {
    let mut running = file();
    for edit in [
        add(
            "source-nat",
            "name=mine via=none src=10.0.0.9",
            Place::After("guests".into()),
        ),
        add("source-nat", "name=top via=none src=10.0.0.8", Place::First),
        add("filter", "name=f action=drop src=@s", Place::Last),
        add(
            "pool",
            "name=p addresses=192.0.2.77 block.size=64",
            Place::First,
        ),
        Edit::AddMembers {
            set: "s".into(),
            members: vec!["192.0.2.8".into()],
        },
    ] {
        running.apply(&edit, "api:vm").unwrap();
    }
    running
        .apply(&set("timeouts.udp", Some("9m")), "api:cli")
        .unwrap();
    let running = running.texts();
    let text = |content: &str| {
        vec![Text {
            name: "f".into(),
            content: content.into(),
        }]
    };
    let (same, notes) = Documents::reloaded(&text(FILE), &running).unwrap();
    let before = config::read(running.clone(), &[]).unwrap();
    let after = config::read(same.clone(), &[]).unwrap();
    assert_eq!(difference(&before, &after), ["- timeouts.udp = \"9m\""]);
    assert_eq!(notes, [""; 0]);
    assert!(
        same[0]
            .content
            .contains("# everybody else\n[[source-nat]]\nvia = \"interface\" # masquerade")
    );
    // The object it stood behind is gone: the one before that counts.
    let fewer = FILE.replace("name = \"guests\"", "name = \"others\"");
    let (new, _) = Documents::reloaded(&text(&fewer), &running).unwrap();
    let names: Vec<String> = config::read(new, &[])
        .unwrap()
        .validated
        .source_nat
        .iter()
        .map(|r| r.label.name.clone())
        .collect();
    assert_eq!(names, ["top", "mine", "others", "source-nat 4"]);
    // Saved objects of clients are not taken from the file again.
    let mut fewer = Documents::of(&running).unwrap();
    fewer
        .apply(
            &Edit::DeleteOrigin {
                origin: "vm".into(),
            },
            "api:cli",
        )
        .unwrap();
    let (new, notes) = Documents::reloaded(&running, &fewer.texts()).unwrap();
    assert!(!new[0].content.contains("api:vm"), "{}", new[0].content);
    assert_eq!(notes.len(), 5);
    assert!(
        notes.contains(&"source-nat mine of api:vm".to_owned()),
        "{notes:?}"
    );
}

#[test]
fn edits_travel_as_json_and_nonsense_is_refused() {
    let edits = [
        add("source-nat", "name=x", Place::Before("y".into())),
        set("timeouts.udp", None),
        Edit::DeleteOrigin { origin: "x".into() },
    ];
    for edit in edits {
        let text = serde_json::to_string(&edit).unwrap();
        assert_eq!(serde_json::from_str::<Edit>(&text).unwrap(), edit, "{text}");
    }
    assert!(serde_json::from_str::<Edit>(r#"{"set":{"key":"a.b","valeu":"1"}}"#).is_err());
}
