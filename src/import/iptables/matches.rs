//! Matches of the filter: states, ICMP types, TCP flags; and what REJECT answers.

use std::collections::BTreeSet;

use super::conditions::Clash;
use super::rule::{Place, Refusal};
use crate::config::filtering::{ICMP_TYPES, ICMP6_TYPES};

/// A condition on the state of a packet's flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct States {
    /// One of these, if there are any.
    pub only: Option<BTreeSet<&'static str>>,
    /// None of these.
    pub not: BTreeSet<&'static str>,
}

/// States as rules name them, by their names here.
const STATES: &[(&str, &str)] = &[
    ("NEW", "new"),
    ("ESTABLISHED", "established"),
    ("RELATED", "related"),
    ("INVALID", "invalid"),
    ("DNAT", "dnat"),
    ("SNAT", "snat"),
];

/// Translation goes with any other state; the others exclude each other.
const TRANSLATED: [&str; 2] = ["dnat", "snat"];

impl States {
    /// `NEW,RELATED` and the like.
    pub fn read(&mut self, text: &str, negated: bool) -> Result<(), Refusal> {
        let mut found = BTreeSet::new();
        for word in text.split(',') {
            let known = STATES.iter().find(|(theirs, _)| *theirs == word);
            let (_, ours) =
                known.ok_or_else(|| ("E-MATCH", format!("the state {word} has no equivalent")))?;
            found.insert(*ours);
        }
        let added = match negated {
            true => States {
                only: None,
                not: found,
            },
            false => States {
                only: Some(found),
                not: BTreeSet::new(),
            },
        };
        *self = self.and(&added).map_err(|_| {
            (
                "E-MATCH",
                "two conditions on the state that do not make one".to_owned(),
            )
        })?;
        Ok(())
    }

    /// Both at once.
    pub fn and(&self, other: &States) -> Result<States, Clash> {
        let translated = |set: &BTreeSet<&str>| TRANSLATED.iter().any(|name| set.contains(name));
        let only = match (&self.only, &other.only) {
            (one, None) | (None, one) => one.clone(),
            (Some(a), Some(b)) if a == b => Some(a.clone()),
            (Some(a), Some(b)) if translated(a) || translated(b) => {
                return Err(Clash::Unsayable("two conditions on translation at once"));
            }
            (Some(a), Some(b)) => Some(a & b),
        };
        let not = &self.not | &other.not;
        let nothing = only
            .as_ref()
            .is_some_and(|only| !translated(only) && only.is_subset(&not));
        match nothing {
            true => Err(Clash::Never),
            false => Ok(States { only, not }),
        }
    }

    pub fn is_any(&self) -> bool {
        *self == States::default()
    }

    /// Whether packets of this state may satisfy it.
    pub fn allows(&self, state: &str) -> bool {
        let translated = |only: &BTreeSet<&str>| TRANSLATED.iter().any(|t| only.contains(t));
        let only = self.only.as_ref();
        only.is_none_or(|only| only.contains(state) || translated(only))
            && !self.not.contains(state)
    }

    /// Whether every new flow satisfies it, or none; otherwise it depends on translation.
    pub fn holds_for_new_flows(&self) -> Option<bool> {
        let all = self.only.iter().flatten().chain(&self.not);
        if all.into_iter().any(|name| TRANSLATED.contains(name)) {
            return None;
        }
        Some(self.allows("new"))
    }

    /// As a value of natgate's language.
    pub fn values(&self) -> Vec<String> {
        let only = self.only.iter().flatten().map(|name| (*name).to_owned());
        only.chain(self.not.iter().map(|name| format!("!{name}")))
            .collect()
    }
}

/// A condition on the type of an ICMP message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Icmp {
    pub only: Option<String>,
    pub not: Vec<String>,
}

impl Icmp {
    /// A name, `TYPE` or `TYPE/CODE`.
    pub fn read(&mut self, text: &str, negated: bool, v6: bool) -> Result<(), Refusal> {
        if text == "any" || text == "255" && !v6 {
            return match negated {
                true => Err(("E-MATCH", "! --icmp-type any matches nothing".to_owned())),
                false => Ok(()),
            };
        }
        let names = if v6 { ICMP6_TYPES } else { ICMP_TYPES };
        let named = names
            .iter()
            .find(|(name, ..)| name.eq_ignore_ascii_case(text));
        let numbers =
            text.split('/').all(|part| part.parse::<u8>().is_ok()) && text.split('/').count() <= 2;
        let value = match named {
            Some((name, ..)) => (*name).to_owned(),
            None if numbers => text.to_owned(),
            None => return Err(("E-SYNTAX", format!("{text:?} is no ICMP type"))),
        };
        match (negated, self.is_any()) {
            (true, true) => self.not.push(value),
            (false, true) => self.only = Some(value),
            (_, false) => return Err(("E-MATCH", "two ICMP types at once".to_owned())),
        }
        Ok(())
    }

    /// Both at once.
    pub fn and(&self, other: &Icmp) -> Result<Icmp, Clash> {
        let only = match (&self.only, &other.only) {
            (one, None) | (None, one) => one.clone(),
            (a, b) if a == b => a.clone(),
            _ => return Err(Clash::Unsayable("two conditions on ICMP types")),
        };
        let mut not = self.not.clone();
        not.extend(other.not.iter().filter(|o| !self.not.contains(o)).cloned());
        match (only.is_some(), not.is_empty()) {
            (true, false) => Err(Clash::Unsayable("two conditions on ICMP types")),
            _ => Ok(Icmp { only, not }),
        }
    }

    pub fn is_any(&self) -> bool {
        *self == Icmp::default()
    }

    /// As a value of natgate's language.
    pub fn values(&self) -> Vec<String> {
        let only = self.only.iter().cloned();
        only.chain(self.not.iter().map(|n| format!("!{n}")))
            .collect()
    }
}

/// Whether TCP flags ask for the first packet of a connection; MSS clamping asks for both SYNs and changes them alone.
pub(super) fn flags(looked: &str, set: &str, place: Place, target: &str) -> Result<bool, Refusal> {
    let names = |text: &str| text.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
    let is = |text: &str, wanted: &[&str]| names(text).iter().eq(wanted.iter());
    if target == "TCPMSS"
        && is(set, &["SYN"])
        && (is(looked, &["RST", "SYN"]) || is(looked, &["SYN"]))
    {
        return Ok(false);
    }
    let opens = is(looked, &["ACK", "FIN", "RST", "SYN"]) && is(set, &["SYN"]);
    match (opens, place) {
        (true, Place::Filter) => Ok(true),
        (true, Place::Nat) => Err((
            "E-MATCH",
            "--syn: a translation rule sees the first packet of a flow, whatever its flags"
                .to_owned(),
        )),
        (false, _) => Err((
            "E-MATCH",
            format!("--tcp-flags {looked} {set}: flags of single packets are not looked at"),
        )),
    }
}

/// What REJECT answers, by name and alias, in the order in which iptables looks for them.
const ANSWERS_V4: &[(&str, &str)] = &[
    ("icmp-net-unreachable", "net-unreach"),
    ("icmp-host-unreachable", "host-unreach"),
    ("icmp-proto-unreachable", "proto-unreach"),
    ("icmp-port-unreachable", "port-unreach"),
    ("icmp-net-prohibited", "net-prohib"),
    ("icmp-host-prohibited", "host-prohib"),
    ("tcp-reset", "tcp-rst"),
    ("icmp-admin-prohibited", "admin-prohib"),
];

/// The same of ip6tables.
const ANSWERS_V6: &[(&str, &str)] = &[
    ("icmp6-no-route", "no-route"),
    ("icmp6-adm-prohibited", "adm-prohibited"),
    ("icmp6-addr-unreachable", "addr-unreach"),
    ("icmp6-port-unreachable", "port-unreach"),
    ("tcp-reset", "tcp-reset"),
    ("icmp6-policy-fail", "policy-fail"),
    ("icmp6-reject-route", "reject-route"),
];

/// The answer of `--reject-with`, and whether the text fits others as well: then iptables silently takes the first.
pub(super) fn answer(text: Option<&str>, v6: bool) -> Result<(&'static str, bool), Refusal> {
    let (answers, default) = match v6 {
        true => (ANSWERS_V6, "icmp6-port-unreachable"),
        false => (ANSWERS_V4, "icmp-port-unreachable"),
    };
    let Some(text) = text else {
        return Ok((default, false));
    };
    let wanted = text.to_ascii_lowercase();
    let exact = answers
        .iter()
        .find(|(name, alias)| *name == wanted || *alias == wanted);
    if let Some((name, _)) = exact {
        return Ok((name, false));
    }
    let fits =
        |(name, alias): &&(&str, &str)| name.starts_with(&wanted) || alias.starts_with(&wanted);
    let mut fitting = answers.iter().filter(fits);
    let first = fitting.next().filter(|_| !wanted.is_empty());
    match first {
        Some((name, _)) => Ok((name, fitting.next().is_some())),
        None => {
            let names = answers.iter().map(|(name, _)| *name);
            Err(("E-UNKNOWN", super::save::unknown("answer", text, names)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_by_name_alias_and_abbreviation() {
        let is = |text: &str| answer(Some(text), false);
        assert_eq!(answer(None, false), Ok(("icmp-port-unreachable", false)));
        assert_eq!(is("icmp-port"), Ok(("icmp-port-unreachable", false)));
        assert_eq!(is("PORT-unreach"), Ok(("icmp-port-unreachable", false)));
        assert_eq!(is("tcp-rst"), Ok(("tcp-reset", false)));
        assert_eq!(is("icmp"), Ok(("icmp-net-unreachable", true)));
        assert!(is("icmp6-no-route").is_err() && is("").is_err());
        assert_eq!(
            answer(Some("adm"), true),
            Ok(("icmp6-adm-prohibited", false))
        );
    }

    #[test]
    fn states_together() {
        let of = |text: &str, negated: bool| {
            let mut states = States::default();
            states.read(text, negated).unwrap();
            states
        };
        let both = of("NEW,RELATED", false).and(&of("RELATED,ESTABLISHED", false));
        assert_eq!(both.unwrap().values(), ["related"]);
        assert_eq!(of("NEW", false).and(&of("NEW", true)), Err(Clash::Never));
        assert_eq!(of("INVALID", true).holds_for_new_flows(), Some(true));
        assert_eq!(of("ESTABLISHED", false).holds_for_new_flows(), Some(false));
        assert_eq!(of("DNAT", false).holds_for_new_flows(), None);
        assert!(of("DNAT", false).allows("new") && !of("INVALID,NEW", true).allows("new"));
    }
}
