//! What one exemption file says, in the dialect of the program it was written for.
//!
//! | | ip-masq-agent | Azure | Cilium |
//! |---|---|---|---|
//! | the list absent | the defaults | nothing | nothing |
//! | prefix with host bits | error | error | masked |
//! | prefixes at most | `cidrLimit`, else 64 | 64 in each file | any number |
//! | `resyncInterval` | read | ignored | ignored |
//!
//! Keys match in any case, unknown ones are noted, of repeated ones the last counts. Every mistake is found in one go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::document::{self, Node, Value};
use super::{Format, duration};

/// Something about a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is to be said.
    pub text: String,
}

/// A prefix of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The prefix, without host bits.
    pub net: IpNet,
    /// Its line.
    pub line: usize,
    /// How it was written, if it had host bits.
    pub written: Option<String>,
}

/// The content of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// It has no byte at all.
    pub empty: bool,
    /// `nonMasqueradeCIDRs`; `None` when the key is absent.
    pub prefixes: Option<Vec<Listed>>,
    /// `masqueradeCIDRs` and `forceMasqueradeCIDRs`: keys that were asked for but that no program reads.
    pub force: Vec<Listed>,
    /// `cidrLimit`.
    pub limit: Option<usize>,
    /// `resyncInterval`.
    pub resync: Option<Duration>,
    /// `masqLinkLocal`: 169.254.0.0/16 is translated like everything else.
    pub link_local: bool,
    /// `masqLinkLocalIPv6`: the same for fe80::/10.
    pub link_local_v6: bool,
    /// Keys without effect.
    pub remarks: Vec<Remark>,
}

/// The keys, and which dialects heed them.
const KEYS: &[(&str, Key, &[Format])] = &[
    ("nonMasqueradeCIDRs", Key::Prefixes, Format::ALL),
    ("masqLinkLocal", Key::LinkLocal, Format::ALL),
    ("masqLinkLocalIPv6", Key::LinkLocalV6, Format::ALL),
    ("cidrLimit", Key::Limit, &[Format::IpMasqAgent]),
    ("resyncInterval", Key::Resync, &[Format::IpMasqAgent]),
    ("masqueradeCIDRs", Key::Force, Format::ALL),
    ("forceMasqueradeCIDRs", Key::Force, Format::ALL),
];

#[derive(Clone, Copy, PartialEq)]
enum Key {
    Prefixes,
    LinkLocal,
    LinkLocalV6,
    Limit,
    Resync,
    Force,
}

/// Reads a file's text.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, format: Format) -> Result<Content, Vec<Remark>> {
    let root = document::parse(text).map_err(|error| {
        vec![Remark {
            line: error.line,
            text: format!("column {}: {}", error.column, error.message),
        }]
    })?;
    of_node(&root, format, text.is_empty())
}

/// The content of a document that is read already.
fn of_node(root: &Node, format: Format, empty: bool) -> Result<Content, Vec<Remark>> {
    let mut content = Content {
        empty,
        ..Content::default()
    };
    let mut mistakes = Vec::new();
    if !matches!(root.value, Value::Map(_) | Value::Null) {
        let text = format!("the document is {} (it must be a map of keys)", root.kind());
        return Err(vec![Remark {
            line: root.line,
            text,
        }]);
    }
    for (key, value) in root.entries() {
        let known = KEYS
            .iter()
            .find(|(name, ..)| name.eq_ignore_ascii_case(&key.text));
        let mut remark = |text: String| {
            content.remarks.push(Remark {
                line: key.line,
                text,
            })
        };
        match known {
            None => remark(format!("unknown key {:?}: it has no effect", key.text)),
            Some((name, _, heeding)) if !heeding.contains(&format) => {
                remark(format!("{name} has no effect in {format} files"));
            }
            Some((name, what, _)) => {
                if let Err(found) = content.set(*what, name, value, format) {
                    mistakes.extend(found);
                }
            }
        }
    }
    match mistakes.is_empty() {
        true => Ok(content),
        false => Err(mistakes),
    }
}

impl Content {
    fn set(
        &mut self,
        what: Key,
        name: &str,
        value: &Node,
        format: Format,
    ) -> Result<(), Vec<Remark>> {
        let wrong = |text: String| {
            let line = value.line;
            let text = format!("{name}: {text}");
            vec![Remark { line, text }]
        };
        let is = |expected: &str| wrong(format!("is {} (expected {expected})", value.kind()));
        match (what, &value.value) {
            (Key::Prefixes, _) => self.prefixes = Some(prefixes(name, value, format)?),
            (Key::Force, _) => self.force = prefixes(name, value, format)?,
            (Key::LinkLocal | Key::LinkLocalV6 | Key::Limit, Value::Null) => {}
            (Key::LinkLocal, Value::Bool(flag)) => self.link_local = *flag,
            (Key::LinkLocalV6, Value::Bool(flag)) => self.link_local_v6 = *flag,
            (Key::LinkLocal | Key::LinkLocalV6, _) => return Err(is("true or false")),
            (Key::Limit, Value::Number(digits)) => {
                let number = digits
                    .parse()
                    .map_err(|_| wrong(format!("{digits} is no number of prefixes")))?;
                self.limit = Some(number);
            }
            (Key::Limit, _) => return Err(is("a number")),
            (Key::Resync, Value::Text(text)) => {
                self.resync = Some(duration::parse(text).map_err(wrong)?)
            }
            (Key::Resync, _) => return Err(is("a duration such as \"60s\"")),
        }
        Ok(())
    }
}

fn prefixes(name: &str, value: &Node, format: Format) -> Result<Vec<Listed>, Vec<Remark>> {
    if !matches!(value.value, Value::List(_) | Value::Null) {
        let text = format!("{name}: is {} (expected a list of prefixes)", value.kind());
        return Err(vec![Remark {
            line: value.line,
            text,
        }]);
    }
    let (mut list, mut mistakes) = (Vec::new(), Vec::new());
    for element in value.elements() {
        let line = element.line;
        let text = match &element.value {
            Value::Text(text) | Value::Number(text) => text.as_str(),
            _ => "",
        };
        let found = prefix(text).ok_or_else(|| {
            format!("{text:?} is no prefix (write it in full, such as \"10.0.0.0/8\")")
        });
        match found {
            Ok((net, true)) if format == Format::Cilium => list.push(Listed {
                net,
                line,
                written: Some(text.to_owned()),
            }),
            Ok((net, true)) => mistakes.push(Remark {
                line,
                text: format!("{name}: {text} has host bits set (the network is {net})"),
            }),
            Ok((net, false)) => list.push(Listed {
                net,
                line,
                written: None,
            }),
            Err(text) => mistakes.push(Remark {
                line,
                text: format!("{name}: {text}"),
            }),
        }
    }
    match mistakes.is_empty() {
        true => Ok(list),
        false => Err(mistakes),
    }
}

/// A prefix as these programs read it, without its host bits, and whether it had any. An IPv4 prefix in IPv6 clothes
/// (`::ffff:10.0.0.0/104`) is the IPv4 prefix.
pub fn prefix(text: &str) -> Option<(IpNet, bool)> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let (net, host) = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(v4) => v4_prefix(v4, length)?,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) if (96..=128).contains(&length) => v4_prefix(v4, length - 96)?,
            _ => v6_prefix(v6, length)?,
        },
    };
    Some((net, host))
}

fn v4_prefix(address: Ipv4Addr, length: u8) -> Option<(IpNet, bool)> {
    let net = Ipv4Net::new(address, length).ok()?;
    Some((net.trunc().into(), net.trunc() != net))
}

fn v6_prefix(address: Ipv6Addr, length: u8) -> Option<(IpNet, bool)> {
    let net = Ipv6Net::new(address, length).ok()?;
    Some((net.trunc().into(), net.trunc() != net))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(text: &str) -> Result<Content, Vec<Remark>> {
        parse(text, Format::IpMasqAgent)
    }

    fn listed(content: &Content) -> Vec<String> {
        let list = content.prefixes.iter().flatten();
        list.map(|p| p.net.to_string()).collect()
    }

    fn mistakes(text: &str) -> String {
        let remarks = agent(text).expect_err(text);
        remarks
            .iter()
            .map(|r| format!("{}: {}\n", r.line, r.text))
            .collect()
    }

    #[test]
    fn both_languages_with_all_keys() {
        let yaml = "nonMasqueradeCIDRs:\n  - 172.16.0.0/12\n  - 10.0.0.0/8\ncidrLimit: 70\nmasqLinkLocal: true\nmasqLinkLocalIPv6: yes\nresyncInterval: 5m\n";
        let json = r#"{"nonMasqueradeCIDRs": ["172.16.0.0/12", "10.0.0.0/8"], "cidrLimit": 70, "masqLinkLocal": true, "masqLinkLocalIPv6": true, "resyncInterval": "\u0035\u006d"}"#;
        for text in [yaml, json] {
            let content = agent(text).unwrap();
            assert_eq!(listed(&content), ["172.16.0.0/12", "10.0.0.0/8"]);
            assert_eq!(content.limit, Some(70));
            assert_eq!(content.resync, Some(Duration::from_secs(300)));
            assert!(content.link_local && content.link_local_v6);
            assert!(content.remarks.is_empty());
        }
    }

    #[test]
    fn absent_null_and_empty_are_told_apart() {
        assert_eq!(
            agent("").unwrap(),
            Content {
                empty: true,
                ..Content::default()
            }
        );
        for text in [
            "null",
            "# nothing\n",
            "{}",
            "masqLinkLocal: null",
            "cidrLimit: ~",
        ] {
            assert_eq!(agent(text).unwrap(), Content::default(), "{text:?}");
        }
        for text in [
            "nonMasqueradeCIDRs: []",
            "nonMasqueradeCIDRs: null",
            "nonMasqueradeCIDRs:",
        ] {
            assert_eq!(agent(text).unwrap().prefixes, Some(Vec::new()), "{text:?}");
        }
        assert!(agent("resyncInterval: null").is_err());
    }

    #[test]
    fn keys_match_in_any_case_and_the_last_counts() {
        let content = agent(
            "NONMASQUERADEcidrs: [10.0.0.0/8]\nnonMasqueradeCIDRs: [11.0.0.0/8]\nnonmasqueradeCIDR: 1\n",
        );
        let content = content.unwrap();
        assert_eq!(listed(&content), ["11.0.0.0/8"]);
        assert_eq!(content.remarks[0].line, 3);
        assert!(content.remarks[0].text.contains("nonmasqueradeCIDR"));
    }

    #[test]
    fn every_mistake_is_found_with_its_line() {
        let text = "nonMasqueradeCIDRs:\n- abcdefg\n- 10.0.0.0/8\n- 10.0.0.1/8\n- ''\nresyncInterval: 60\nmasqLinkLocal: \"true\"\ncidrLimit: \"64\"\n";
        let found = mistakes(text);
        for part in [
            "2: ",
            "abcdefg",
            "4: ",
            "10.0.0.0/8",
            "5: ",
            "6: resyncInterval",
            "7: masqLinkLocal",
            "8: cidrLimit",
        ] {
            assert!(found.contains(part), "{part} in {found}");
        }
        for bad in [
            "10.256.0.0/16",
            "10.0.0.0",
            "10/8",
            "010.0.0.0/8",
            "\" 10.0.0.0/8\"",
            "10.0.0.0/255.0.0.0",
            "fe80::%1/64",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "\"\"",
            "~",
            "[]",
        ] {
            let found = mistakes(&format!("nonMasqueradeCIDRs: [{bad}]"));
            assert!(found.contains("no prefix"), "{bad}: {found}");
        }
        for text in [
            "*",
            "{*",
            "nonMasqueradeCIDRs: 10.0.0.0/8",
            "- a",
            "{} {}",
            "resyncInterval: \"60\"",
            "resyncInterval: -5s",
        ] {
            assert!(agent(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn odd_but_legal_prefixes() {
        let content = agent(
            "nonMasqueradeCIDRs: ['::ffff:10.0.0.0/104', 0.0.0.0/0, '2001:db8::/32', 10.0.0.0/08]",
        );
        assert_eq!(
            listed(&content.unwrap()),
            ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "10.0.0.0/8"]
        );
    }

    #[test]
    fn cilium_masks_and_ignores_what_it_does_not_know() {
        let content = parse(
            "nonMasqueradeCIDRs: [2.2.2.2/16]\nresyncInterval: 60\ncidrLimit: 1\n",
            Format::Cilium,
        )
        .unwrap();
        assert_eq!(listed(&content), ["2.2.0.0/16"]);
        assert_eq!(
            content.prefixes.unwrap()[0].written.as_deref(),
            Some("2.2.2.2/16")
        );
        assert_eq!(content.remarks.len(), 2);
    }
}
