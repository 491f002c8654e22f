//! The filter and its rules.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::filtering::{
    Filter, FilterRule, ICMP_TYPES, ICMP6_TYPES, IcmpMatch, REJECT_DEFAULT, REJECT_WITH, SharedSet,
    StateMatch,
};
use super::super::matching::{PortSet, ProtocolSet};
use super::super::raw::{self, Many};
use super::super::report::{Findings, nearest};
use super::operands::{self, Names, check_families, element_path};
use super::{choice, label, required};
use crate::nat::filter::conditions::{IcmpKind, States};
use crate::nat::filter::flows::has_ports;
use crate::nat::filter::{Action, Answer};
use crate::wire::{ICMP, ICMPV6, TCP};

/// Sets of addresses by their text: written in thousands of rules, a named set is expanded once.
#[derive(Default)]
struct Sets(HashMap<Vec<String>, SharedSet>);

impl Sets {
    fn get(
        &mut self,
        path: &str,
        written: Option<&Many>,
        names: &Names,
        findings: &mut Findings,
    ) -> SharedSet {
        let text = written.map(|many| many.0.as_slice()).unwrap_or_default();
        // An empty list is a mistake, which has to be reported wherever it is made.
        if let Some(known) = self
            .0
            .get(text)
            .filter(|_| written.is_none() || !text.is_empty())
        {
            return known.clone();
        }
        let set = SharedSet(Arc::new(names.prefixes(path, written, findings)));
        if !findings.is_broken(path) {
            self.0.insert(text.to_vec(), set.clone());
        }
        set
    }
}

pub(super) fn filter(raw: &raw::Filter, names: &Names, findings: &mut Findings) -> Filter {
    let actions = [
        ("accept", Action::Accept),
        ("drop", Action::Drop),
        ("reject", Action::Reject(REJECT_DEFAULT)),
    ];
    let established = [("accept", true), ("filter", false)];
    let default = choice("filter.default", &raw.default, &actions, findings);
    let established = choice(
        "filter.established",
        &raw.established,
        &established,
        findings,
    );
    let mut sets = Sets::default();
    let rules: Vec<FilterRule> = (raw.rule.iter().enumerate())
        .map(|(index, raw)| {
            let path = format!("filter.rule[{index}]");
            rule(&path, raw, names, &mut sets, findings)
        })
        .collect();
    shadowed(&rules, findings);
    Filter {
        default: default.unwrap_or(Action::Drop),
        established: established.unwrap_or(true),
        rules,
    }
}

fn rule(
    path: &str,
    raw: &raw::FilterRule,
    names: &Names,
    sets: &mut Sets,
    findings: &mut Findings,
) -> FilterRule {
    let at = |key: &str| format!("{path}.{key}");
    let proto = operands::protocols(&at("proto"), raw.proto.as_ref(), findings);
    let mut ports = |key: &str, written: Option<&Many>| {
        let ports = operands::ports(&at(key), written, findings);
        check_readable(&at(key), &proto, &ports, findings);
        ports
    };
    let (sport, dport, orig_dport) = (
        ports("sport", raw.sport.as_ref()),
        ports("dport", raw.dport.as_ref()),
        ports("orig_dport", raw.orig_dport.as_ref()),
    );
    let mut addresses =
        |key: &str, written: Option<&Many>| sets.get(&at(key), written, names, findings);
    let (src, dst, orig_dst) = (
        addresses("src", raw.src.as_ref()),
        addresses("dst", raw.dst.as_ref()),
        addresses("orig_dst", raw.orig_dst.as_ref()),
    );
    check_families(&at("dst"), &src, &dst, findings);
    FilterRule {
        label: label(&raw.label, path, findings),
        in_: names.interfaces(&at("in"), raw.in_.as_ref(), findings),
        out: names.interfaces(&at("out"), raw.out.as_ref(), findings),
        src,
        dst,
        orig_dst,
        sport,
        dport,
        orig_dport,
        icmp: icmp(&at("icmp_type"), raw.icmp_type.as_ref(), &proto, findings),
        state: state(&at("state"), raw.state.as_ref(), findings),
        action: action(path, raw, &proto, findings),
        proto,
    }
}

/// Reports a condition on ports of protocols whose ports natgate does not read.
fn check_readable(path: &str, proto: &ProtocolSet, ports: &PortSet, findings: &mut Findings) {
    if proto.is_any() || ports.is_any() {
        return;
    }
    if let Some(without) = proto.iter().find(|p| !has_ports(*p)) {
        let name = ProtocolSet::name(without);
        let message =
            format!("the filter reads no ports of {name} (allowed with ports: tcp, udp, sctp)");
        findings.error(path, message);
    }
}

/// What a rule does with packets that match.
fn action(
    path: &str,
    raw: &raw::FilterRule,
    proto: &ProtocolSet,
    findings: &mut Findings,
) -> Action {
    let at = |key: &str| format!("{path}.{key}");
    let what = "write \"accept\", \"drop\" or \"reject\"";
    let words = [
        ("accept", Action::Accept),
        ("drop", Action::Drop),
        ("reject", Action::Reject(REJECT_DEFAULT)),
    ];
    let action = required(&at("action"), raw.action.as_deref(), what, findings)
        .and_then(|word| choice(&at("action"), word, &words, findings));
    let Some(with) = raw.reject_with.as_deref() else {
        return action.unwrap_or(Action::Drop);
    };
    let answer = choice(&at("reject_with"), with, REJECT_WITH, findings);
    match (action, answer) {
        (Some(Action::Reject(_)), Some(answer)) => {
            if answer == Answer::Reset && !proto.iter().eq([TCP]) {
                let message = "a reset needs a rule about TCP alone (write proto = \"tcp\")";
                findings.error(&at("reject_with"), message);
            }
            Action::Reject(answer)
        }
        (Some(other), _) => {
            let message = "means nothing unless action = \"reject\" (leave it out)";
            findings.error(&at("reject_with"), message);
            other
        }
        (None, _) => Action::Drop,
    }
}

/// Types by name or number, with a code behind a slash, each possibly negated.
fn icmp(
    path: &str,
    written: Option<&Many>,
    proto: &ProtocolSet,
    findings: &mut Findings,
) -> IcmpMatch {
    let Some(Many(list)) = written else {
        return IcmpMatch::default();
    };
    let names = match (proto.iter().eq([ICMP]), proto.iter().eq([ICMPV6])) {
        (true, _) => ICMP_TYPES,
        (_, true) => ICMP6_TYPES,
        _ => {
            let message = "needs proto = \"icmp\" or proto = \"icmp6\", whose types differ";
            findings.error(path, message);
            return IcmpMatch {
                ranges: Some(Vec::new()),
                text: list.join(","),
            };
        }
    };
    let (mut include, mut exclude) = (Vec::new(), Vec::new());
    for (index, element) in list.iter().enumerate() {
        let (half, text) = match element.trim().strip_prefix('!') {
            Some(rest) => (&mut exclude, rest.trim()),
            None => (&mut include, element.trim()),
        };
        match icmp_type(text, names) {
            Ok(range) => half.push(range),
            Err(message) => findings.error(&element_path(path, index, findings), message),
        }
    }
    if list.is_empty() {
        findings.error(path, "is empty, so nothing would match (leave the key out)");
    }
    // Types with their codes are numbers of 16 bits, as ports are.
    let included = match include.is_empty() {
        true => PortSet::any(),
        false => PortSet::new(include),
    };
    let left = included.without(&PortSet::new(exclude));
    if left.ranges().is_empty() {
        findings.error(path, "excludes every type it includes");
    }
    IcmpMatch {
        ranges: Some(left.ranges().to_vec()),
        text: list.join(","),
    }
}

fn icmp_type(text: &str, names: &[(&str, u8, Option<u8>)]) -> Result<(u16, u16), String> {
    let of = |kind: u8, code: Option<u8>| match code {
        Some(code) => {
            let number = IcmpKind { kind, code }.number();
            (number, number)
        }
        None => IcmpMatch::all_codes(kind),
    };
    if let Some((_, kind, code)) = names.iter().find(|(name, ..)| *name == text) {
        return Ok(of(*kind, *code));
    }
    let (kind, code) = match text.split_once('/') {
        Some((kind, code)) => (kind.parse(), code.parse().map(Some)),
        None => (text.parse(), Ok(None)),
    };
    match (kind, code) {
        (Ok(kind), Ok(code)) => Ok(of(kind, code)),
        _ => {
            let near = nearest(text, names.iter().map(|(name, ..)| *name));
            let hint = near.map_or_else(
                || "write a name as iptables has it, TYPE or TYPE/CODE".to_owned(),
                |near| format!("did you mean {near:?}?"),
            );
            Err(format!("{text:?} is no type ({hint})"))
        }
    }
}

/// States by name, each possibly negated.
fn state(path: &str, written: Option<&Many>, findings: &mut Findings) -> StateMatch {
    let mut state = StateMatch::default();
    let Some(Many(list)) = written else {
        return state;
    };
    if list.is_empty() {
        findings.error(path, "is empty, so nothing would match (leave the key out)");
    }
    for (index, element) in list.iter().enumerate() {
        let (half, name) = match element.trim().strip_prefix('!') {
            Some(rest) => (&mut state.exclude, rest.trim()),
            None => (&mut state.include, element.trim()),
        };
        let at = element_path(path, index, findings);
        if let Some(known) = choice(&at, name, &States::ALL, findings) {
            *half = *half | known;
        }
    }
    state
}

/// Rules behind one that matches everything never decide.
fn shadowed(rules: &[FilterRule], findings: &mut Findings) {
    let takes_all = |rule: &FilterRule| {
        let interfaces = rule.in_.is_any() && rule.out.is_any();
        let addresses = rule.src.is_any() && rule.dst.is_any() && rule.orig_dst.is_any();
        let ports = rule.sport.is_any() && rule.dport.is_any() && rule.orig_dport.is_any();
        interfaces
            && addresses
            && ports
            && rule.proto.is_any()
            && rule.icmp.ranges.is_none()
            && rule.state == StateMatch::default()
    };
    let first = rules.iter().position(takes_all);
    if let Some(next) = first.map(|at| at + 1).filter(|next| *next < rules.len()) {
        let message = format!(
            "W-SHADOWED: can never match, because the rule before it ({}) takes everything",
            rules[next - 1].label.origin
        );
        findings.warn(&format!("filter.rule[{next}]"), message);
    }
}
