//! The target that edits: any sequence of edits, from texts as a command line would give them.

use natgate::base::Random;
use natgate::config::edit::{Documents, Edit, Place};
use natgate::config::{self, Text};

use crate::common::mutate::{blindly, pick};
use crate::engine::{Target, fuzz, signature};

/// Words that mean something somewhere in an edit.
const WORDS: [&str; 34] = [
    "add",
    "delete",
    "origin",
    "set",
    "unset",
    "member",
    "no-member",
    "address",
    "source-nat",
    "filter",
    "pool",
    "route",
    "interface",
    "exempt",
    "sets",
    "wan0",
    "lan0",
    "first",
    "1",
    "2",
    "name=x",
    "via=none",
    "src=@bad,!10.0.0.0/8",
    "block.size=64",
    "block={",
    "to=[\"a\"]",
    "timeouts.udp",
    "pool[p].block.size",
    "filter.rule.1.action",
    "6m",
    "[",
    "\"",
    "=",
    ".",
];

/// One edit a line: what to do, and its words.
fn edit(line: &str) -> Option<Edit> {
    let mut words = line.split(' ');
    let verb = words.next()?;
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (first, second) = (next(), next());
    let rest: Vec<String> = words.map(str::to_owned).collect();
    Some(match verb {
        "add" => Edit::Add {
            kind: first,
            place: match second.as_str() {
                "first" => Place::First,
                "last" => Place::Last,
                object if object.len().is_multiple_of(2) => Place::Before(object.to_owned()),
                object => Place::After(object.to_owned()),
            },
            values: rest
                .iter()
                .filter_map(|word| word.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        },
        "delete" => Edit::Delete {
            kind: first,
            object: second,
        },
        "origin" => Edit::DeleteOrigin { origin: first },
        "set" => Edit::Set {
            key: first,
            value: Some(second),
        },
        "unset" => Edit::Set {
            key: first,
            value: None,
        },
        "member" => Edit::AddMembers {
            set: first,
            members: vec![second],
        },
        "no-member" => Edit::DeleteMembers {
            set: first,
            members: vec![second],
        },
        "address" => Edit::AddAddress {
            interface: first,
            replace: second.len().is_multiple_of(2),
            address: second,
        },
        _ => return None,
    })
}

/// What is edited: both forms of lists, comments, a drop-in.
fn texts() -> Vec<Text> {
    let main = format!(
        "{}# rules\nsource-nat = [\n  {{ out = \"wan0\", via = \"interface\" }}, # all\n]\n[sets]\nbad = [\"192.0.2.1\"] # few\n",
        crate::common::LAB
            .replacen("schema = 1", "schema = 1\n# lab", 1)
            .replace(
                "[[port]]\nname = \"p-lan\"",
                "# inside\n[[port]]\nname = \"p-lan\""
            )
    );
    // A list in a line must come before the first table.
    let (tables, lists) = main.split_at(main.find("# rules").unwrap());
    let (list, sets) = lists.split_at(lists.find("[sets]").unwrap());
    let text = |name: &str, content: String| Text {
        name: name.to_owned(),
        content,
    };
    vec![
        text("main", format!("{list}{tables}{sets}")),
        text(
            "drop-in",
            "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.77\"]\n[pool.block]\nsize = 128\n"
                .into(),
        ),
    ]
}

/// Edits what can be edited; every text stays TOML, every object whole, and reading it never fails without a reason.
fn edit_all(input: &str) -> u64 {
    let start = texts();
    let mut documents = Documents::of(&start).unwrap();
    let mut outcomes = Vec::new();
    for edit in input.lines().filter_map(edit) {
        let mut tried = documents.clone();
        match tried.apply(&edit, "api:fuzz") {
            Ok(()) => {
                let texts = tried.texts();
                Documents::of(&texts).expect("an edited text is TOML");
                documents = tried;
                outcomes.push(0);
            }
            Err(error) => {
                assert!(!error.why.is_empty(), "{edit:?} fails without a reason");
                outcomes.push(1 + u64::from(error.missing));
            }
        }
    }
    let texts = documents.texts();
    let (again, _) = Documents::reloaded(&start, &texts).expect("clients' objects fit");
    let read = |texts| match config::read(texts, &[]) {
        Ok(_) => 0,
        Err(report) => {
            assert!(report.errors().next().is_some(), "refused without a reason");
            1
        }
    };
    outcomes.dedup();
    signature((
        outcomes.len().min(6),
        outcomes.first(),
        read(texts),
        read(again),
    ))
}

struct Edits;

impl Target for Edits {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        vec![edit_all(&String::from_utf8_lossy(input))]
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut text = pick(corpus, random).cloned().unwrap_or_default();
        let other = pick(corpus, random).cloned().unwrap_or_default();
        match random.below(4) {
            0 => blindly(&mut text, 0, &other, random),
            1 => {
                text.push(b'\n');
                text.extend(other);
                text.truncate(400);
            }
            _ => {
                let line = String::from_utf8_lossy(&text).into_owned();
                let mut words: Vec<&str> = line.split(' ').collect();
                let at = random.below(words.len() as u32) as usize;
                words[at] = pick(&WORDS, random).unwrap();
                text = words.join(" ").into_bytes();
            }
        }
        text
    }
}

#[test]
fn edits() {
    let corpus = [
        "add source-nat first name=x src=10.0.0.0/8 via=none\ndelete source-nat 1\nset source-nat.x.via interface",
        "add filter last src=@bad action=drop\nadd filter 1 name=y action=accept\nset filter.rule.1.action accept",
        "member bad 192.0.2.2\nmember new 10.0.0.0/8\nno-member bad 192.0.2.1\norigin fuzz",
        "address wan0 203.0.113.2/24\naddress wan0 203.0.113.2/2\nunset pool[p].block.size\nset pool[p].block.size 64",
        "delete port 1\ndelete port 1\nadd pool last name=q addresses=192.0.2.7 block.size=64\norigin drop-in",
        "set timeouts.udp 6m\nset system.workers two\nset filter.default drop\nunset timeouts.udp",
        "delete route 2\nadd route first prefix=10.9.0.0/16 via=10.0.0.2\ndelete set bad\norigin main",
    ];
    let corpus = corpus.iter().map(|text| text.as_bytes().to_vec()).collect();
    fuzz("edit", &Edits, corpus, 8);
}
