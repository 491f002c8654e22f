//! nat/POSTROUTING: source translation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::emit::Table;
use super::Importer;
use super::conditions::{Conditions, Operand, port_text};
use super::flatten::Flat;
use super::lots::drawn;
use super::rule::{Refusal, Rule};
use super::values::port;
use crate::config::MOST_ADDRESSES;
use crate::config::validated::Interface;

/// A range of addresses that packets leave with.
struct Span {
    first: IpAddr,
    last: IpAddr,
    pool: String,
    persistent: bool,
}

/// What was written so far.
#[derive(Default)]
pub(super) struct Source {
    /// By their first address; none overlaps another.
    spans: BTreeMap<IpAddr, Span>,
    count: usize,
    /// The line of a rule that takes everything.
    all: Option<usize>,
}

impl Importer<'_> {
    /// Writes the list as rules; exclusions that stand before everything else and ask for nothing but a destination become one
    /// exemption.
    pub(super) fn postrouting(&mut self, list: &[Flat<'_>]) {
        let leading = list
            .iter()
            .take_while(|f| f.keeps() && f.when.only_destination().is_some())
            .count();
        let rest_translates = list[leading..].iter().all(|f| !f.keeps());
        let (exempt, rules) = list.split_at(if rest_translates { leading } else { 0 });
        if let Some(first) = exempt.first() {
            let nets: Vec<String> = exempt
                .iter()
                .filter_map(|f| f.when.only_destination())
                .map(ToString::to_string)
                .collect();
            for flat in exempt {
                let text = flat.when.dst.values().join(",");
                self.ok(flat.rule.line, format!("exempt {text}"));
            }
            let origin = self.origin(first.rule.line);
            self.tables.push(
                Table::new("[[exempt]]")
                    .list("dst", &nets)
                    .text("origin", &origin),
            );
        }
        let any = |f: &Flat<'_>| f.when.src.only.is_none() && f.when.dst.only.is_none();
        if self.options.base.is_none() && !self.v6 && rules.iter().any(any) {
            let text =
                "rules without addresses translate IPv6, too, if the gateway has it (--base tells)";
            self.report.note(self.file, "", text);
        }
        let mut source = Source::default();
        let mut at = 0;
        while let Some(flat) = rules.get(at) {
            at += 1;
            let mut ports = None;
            if flat.rule.lot.is_some() {
                match drawn(&rules[at - 1..]) {
                    Ok(drawn) => {
                        for other in &rules[at..at - 1 + drawn.count] {
                            let text = format!("drawn from with line {}", flat.rule.line);
                            self.ok(other.rule.line, text);
                        }
                        at += drawn.count - 1;
                        ports = Some(drawn.ports);
                    }
                    Err((code, why)) => {
                        self.reject(flat.rule.line, code, why);
                        continue;
                    }
                }
            }
            if let Err((code, why)) = self.source_rule(flat, ports, &mut source) {
                self.reject(flat.rule.line, code, why);
            }
        }
    }

    /// Writes a rule; `drawn`: the ports of a draw, in place of its own.
    fn source_rule(
        &mut self,
        flat: &Flat<'_>,
        drawn: Option<String>,
        source: &mut Source,
    ) -> Result<(), Refusal> {
        let (rule, target) = (flat.rule, &flat.rule.target);
        if !flat.when.ingress.values().is_empty() {
            return Err(("E-SYNTAX", "-i is not possible in POSTROUTING".to_owned()));
        }
        let mut when = flat.when.clone();
        let own = Operand::Set("@self".to_owned());
        if when.dst.not.contains(&own) {
            when.dst.not.retain(|operand| *operand != own);
            let place = self.place(rule.line);
            let text =
                "packets to the gateway itself never reach source NAT: ! --dst-type LOCAL left out";
            self.report.note(&place, "", text);
        }
        if let Some(line) = source.all {
            self.warn(
                rule.line,
                "W-SHADOWED",
                format!("can never match: the rule of line {line} takes everything"),
            );
        }
        let mut ports = None;
        let via = match target.name.as_str() {
            _ if flat.keeps() => "none".to_owned(),
            "MASQUERADE" => {
                ports = target
                    .to
                    .as_deref()
                    .map(|text| port_range(text, rule))
                    .transpose()?;
                ports = drawn.or(ports);
                "interface".to_owned()
            }
            "SNAT" => {
                let to = target
                    .to
                    .as_deref()
                    .ok_or(("E-SYNTAX", "SNAT needs --to-source".to_owned()))?;
                let (first, last, range) = endpoint(to, self.v6)?;
                ports = range.map(|text| port_range(text, rule)).transpose()?;
                format!("pool:{}", self.pool(rule, (first, last), source)?)
            }
            "NETMAP" => return self.static_nat(flat, false),
            name => return Err(self.no_target(name)),
        };
        let random = target.random || target.fully;
        if target.random && !target.fully {
            self.warn(rule.line, "W-RANDOM", "--random read as --random-fully");
        }
        if when.is_any() && rule.either.is_none() {
            source.all = Some(rule.line);
        }
        for when in either(&self.of_family(when, self.v6), rule)? {
            source.count += 1;
            let text = self.describe(&when);
            self.ok(
                rule.line,
                format!("source-nat #{}{text} via={via}", source.count),
            );
            let table = self.conditions(
                Table::new("[[source-nat]]").maybe("comment", rule.comment.as_deref()),
                &when,
            );
            let table = table.text("via", &via).maybe("ports", ports.as_deref());
            let table = if random && !flat.keeps() {
                table.text("select", "random")
            } else {
                table
            };
            let origin = self.origin(rule.line);
            self.tables.push(table.text("origin", &origin));
        }
        Ok(())
    }

    /// The pool of a range of addresses, made when it is first met.
    fn pool(
        &mut self,
        rule: &Rule,
        (first, last): (IpAddr, IpAddr),
        source: &mut Source,
    ) -> Result<String, Refusal> {
        let persistent = rule.target.persistent;
        if let Some(known) = source.spans.get(&first).filter(|s| s.last == last) {
            if known.persistent != persistent && first != last {
                return Err((
                    "E-MATCH",
                    format!(
                        "{first}-{last} with and without --persistent: one pool cannot be both"
                    ),
                ));
            }
            return Ok(known.pool.clone());
        }
        let below = source.spans.range(..=last).next_back();
        if let Some((_, other)) = below.filter(|(_, s)| first <= s.last) {
            let text = format!(
                "{first}-{last} overlaps {}-{} of pool {:?}: an address belongs to one pool",
                other.first, other.last, other.pool
            );
            return Err(("E-MATCH", text));
        }
        if distance(first, last) >= MOST_ADDRESSES {
            let text = format!("{first}-{last}: more than {MOST_ADDRESSES} addresses for one pool");
            return Err(("E-MATCH", text));
        }
        // Both families' drop-ins may be read together.
        let start = if self.v6 { "v6-p" } else { "p" };
        let name = format!("{start}{}", source.spans.len() + 1);
        let base = self.options.base.as_ref();
        let own = base.and_then(|base| {
            base.interfaces
                .iter()
                .find(|i| i.addresses().any(|own| own == first))
        });
        let alone = |interface: &Interface| {
            let alike = interface.addresses();
            alike.filter(|a| a.is_ipv6() == first.is_ipv6()).count() == 1
        };
        let addresses = match (first == last, own) {
            (true, Some(interface)) if alone(interface) => {
                format!("interface:{}", interface.label.name)
            }
            (_, Some(interface)) => {
                let name = &interface.label.name;
                let text = format!(
                    "{first} is one of several, or the first of a range, and an address of {name} itself: no pool can say so"
                );
                return Err(("E-MATCH", text));
            }
            (true, None) => first.to_string(),
            (false, None) => format!("{first}-{last}"),
        };
        let local = base.is_some_and(|base| {
            base.interfaces
                .iter()
                .any(|i| i.is_connected(first) && i.is_connected(last))
        });
        if !local {
            let condition = if base.is_some() {
                ""
            } else {
                ", if it is on no local subnet"
            };
            self.warn(
                rule.line,
                "W-POOL-UNROUTED",
                format!("the upstream needs a route to {addresses}{condition}"),
            );
        }
        let pairing = match (first == last, persistent) {
            (true, _) => None,
            (false, true) => Some("paired"),
            (false, false) => Some("spread"),
        };
        let shown = pairing.map_or_else(String::new, |p| format!(" pairing={p}"));
        self.ok(rule.line, format!("pool {name:?} = {addresses}{shown}"));
        let origin = self.origin(rule.line);
        let table = Table::new("[[pool]]")
            .text("name", &name)
            .list("addresses", &[addresses])
            .maybe("pairing", pairing);
        self.tables.push(table.text("origin", &origin));
        let span = Span {
            first,
            last,
            pool: name.clone(),
            persistent,
        };
        source.spans.insert(first, span);
        Ok(name)
    }
}

/// The conditions of a rule; two sets of them where ports of either side are asked for.
pub(super) fn either(when: &Conditions, rule: &Rule) -> Result<Vec<Conditions>, Refusal> {
    let Some(ports) = &rule.either else {
        return Ok(vec![when.clone()]);
    };
    let side = |source: bool| {
        let mut one = Conditions::default();
        *(if source {
            &mut one.sport
        } else {
            &mut one.dport
        }) = Some(ports.clone());
        when.and(&one)
            .map_err(|_| ("E-MATCH", "--ports and other ports at once".to_owned()))
    };
    Ok(vec![side(true)?, side(false)?])
}

/// `A-B` of `--to-ports` and the like, as natgate writes it.
fn port_range(text: &str, rule: &Rule) -> Result<String, Refusal> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (port(low)?, port(high)?);
    if low > high {
        return Err(("E-PORTS", format!("{text}: the end lies below the start")));
    }
    if low == 0 {
        return Err(("E-PORTS", format!("{text}: port 0 cannot be given out")));
    }
    if !rule.has_ports() && rule.when.proto.only != Some(1) {
        return Err((
            "E-PORTS",
            format!("{text}: ports without a protocol that has ports (-p)"),
        ));
    }
    Ok(port_text(&[(low, high)]))
}

/// How many addresses lie between two of a family.
pub(super) fn distance(first: IpAddr, last: IpAddr) -> u128 {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    number(last).saturating_sub(number(first))
}

/// `A`, `A-B`, each with ports behind a colon; of IPv6 what has ports is in brackets.
pub(super) fn endpoint(text: &str, v6: bool) -> Result<(IpAddr, IpAddr, Option<&str>), Refusal> {
    let wrong = |text: &str| {
        let family = if v6 { "IPv6" } else { "IPv4" };
        ("E-SYNTAX", format!("{text:?} is no {family} address"))
    };
    let bracketed = text.strip_prefix('[').filter(|_| v6);
    let (addresses, ports) = match bracketed.map(|rest| rest.split_once(']')) {
        Some(Some((addresses, ""))) => (addresses, None),
        Some(Some((addresses, rest))) => {
            let ports = rest.strip_prefix(':').ok_or_else(|| wrong(text))?;
            (addresses, Some(ports))
        }
        Some(None) => return Err(wrong(text)),
        None if v6 => (text, None),
        None => match text.split_once(':') {
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (text, None),
        },
    };
    let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
    let parse = |text: &str| {
        let address = text.parse::<IpAddr>().ok();
        let address = address.filter(|address| address.is_ipv6() == v6);
        address.ok_or_else(|| wrong(text))
    };
    let (first, last) = (parse(first)?, parse(last)?);
    match first <= last {
        true => Ok((first, last, ports)),
        false => Err((
            "E-RANGE-REVERSED",
            format!("{addresses}: the end lies below the start"),
        )),
    }
}
