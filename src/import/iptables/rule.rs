//! One rule: words into conditions, target, and everything that cannot be taken.

use std::net::IpAddr;

use super::super::Level;
use super::conditions::{Addresses, Clash, Conditions, Operand, other_ports};
use super::matches;
use super::options::{NEGATABLE, OPTIONS, REFUSED, TAKEN, option};
use super::save::{Statement, unknown};
use super::values::{network, ports};

/// Why something cannot be taken: code and text.
pub(super) type Refusal = (&'static str, String);

/// Where a rule stands, as far as that changes what its words can mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In nat: it is asked about new flows alone.
    Nat,
    /// In filter, and everywhere else: it is asked about every packet.
    Filter,
}

/// What a rule does with a packet that satisfies its conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name; empty without `-j`.
    pub name: String,
    /// `-g` instead of `-j`.
    pub goto: bool,
    /// `--to-source`, `--to-destination`, `--to-ports`, `--to`, `--set-mss`, `--reject-with`.
    pub to: Option<String>,
    pub random: bool,
    pub fully: bool,
    pub persistent: bool,
    pub clamp: bool,
}

/// A rule.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub line: usize,
    pub when: Conditions,
    /// `-m multiport --ports`: either side; then the rule stands for two.
    pub either: Option<Vec<(u16, u16)>>,
    pub comment: Option<String>,
    pub target: Target,
    /// `-m statistic --mode random`: with what probability it matches.
    pub lot: Option<f64>,
    /// `--tcp-flags`: those to look at, and those of them that must be set.
    pub flags: Option<(String, String)>,
    /// Why it cannot be taken.
    pub refused: Vec<Refusal>,
    /// What is to be said about it.
    pub remarks: Vec<(Level, &'static str, String)>,
    /// It can never match.
    pub never: bool,
}

impl Rule {
    /// Reads a statement.
    pub fn read(statement: &Statement, v6: bool, place: Place) -> Rule {
        let mut rule = Rule {
            line: statement.line,
            ..Rule::default()
        };
        let mut words = Words {
            list: &statement.words,
            at: 0,
        };
        while let Some(word) = words.next() {
            let negated = word == "!";
            let word = match negated {
                true => words.next().unwrap_or_default(),
                false => word,
            };
            if let Err((code, why)) = rule.option(word, negated, &mut words, v6) {
                rule.refused.push((code, why));
            }
        }
        rule.check(place);
        rule
    }

    fn refuse(&mut self, code: &'static str, why: impl Into<String>) {
        self.refused.push((code, why.into()));
    }

    fn option(
        &mut self,
        word: &str,
        negated: bool,
        words: &mut Words<'_>,
        v6: bool,
    ) -> Result<(), Refusal> {
        let Some(name) = option(word, &self.target.name) else {
            words.skip();
            if super::NO_EQUIVALENT.contains(&self.target.name.as_str()) {
                // It belongs to a target that is refused by its name.
                return Ok(());
            }
            let names = OPTIONS.iter().map(|(_, long, _)| *long);
            return Err(("E-UNKNOWN", unknown("option", word, names)));
        };
        let takes = OPTIONS
            .iter()
            .any(|(_, long, takes)| *long == name && *takes);
        let mut negated = negated;
        let mut value = String::new();
        if takes {
            value = words
                .next()
                .ok_or_else(|| ("E-SYNTAX", format!("{word} needs a value")))?
                .to_owned();
            if value == "!" {
                negated = true;
                self.remarks.push((
                    Level::Note,
                    "",
                    format!("\"{word} ! X\" is the old place of \"!\"; accepted"),
                ));
                value = words.next().unwrap_or_default().to_owned();
            }
        }
        if negated && !NEGATABLE.contains(&name) {
            return Err(("E-SYNTAX", format!("\"!\" cannot stand before {name}")));
        }
        match name {
            "--source" | "--src" => self.address(&value, negated, true, v6),
            "--destination" | "--dst" => self.address(&value, negated, false, v6),
            "--in-interface" | "--out-interface" => {
                self.interface(&value, negated, name == "--in-interface")
            }
            "--protocol" | "--proto" => self.protocol(&value, negated),
            "--match" => self.module(&value, words),
            "--jump" | "--goto" => {
                self.target.goto = name == "--goto";
                self.target.name = value;
                Ok(())
            }
            "--sport" | "--source-port" | "--sports" | "--source-ports" => {
                self.port(&value, negated, true)
            }
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                self.port(&value, negated, false)
            }
            "--ports" => {
                let ranges = ports(&value)?;
                self.either = Some(if negated {
                    other_ports(&ranges)
                } else {
                    ranges
                });
                Ok(())
            }
            "--src-range" | "--dst-range" => {
                self.range(&value, (negated, name == "--src-range"), v6)
            }
            "--tcp-flags" => {
                let set = words.next().unwrap_or_default();
                match negated {
                    true => Err((
                        "E-MATCH",
                        format!(
                            "! --tcp-flags {value} {set}: flags of single packets are not looked at"
                        ),
                    )),
                    false => {
                        self.flags = Some((value, set.to_owned()));
                        Ok(())
                    }
                }
            }
            "--syn" if negated => Err((
                "E-MATCH",
                "! --syn: flags of single packets are not looked at".to_owned(),
            )),
            "--syn" => {
                self.flags = Some(("FIN,SYN,RST,ACK".to_owned(), "SYN".to_owned()));
                Ok(())
            }
            "--fragment" => Err((
                "E-MATCH",
                "-f: whole packets are compared here, not fragments".to_owned(),
            )),
            "--comment" => {
                let short: String = value.chars().take(256).collect();
                self.comment = Some(short);
                Ok(())
            }
            "--state" | "--ctstate" => self.when.state.read(&value, negated),
            "--icmp-type" | "--icmpv6-type" if (name == "--icmpv6-type") != v6 => {
                Err(("E-SYNTAX", format!("{name} belongs to the other family")))
            }
            "--icmp-type" | "--icmpv6-type" => self.when.icmp.read(&value, negated, v6),
            "--ctorigdst" => {
                let (net, host) = network(&value, v6)?;
                if host {
                    let text = format!("{value} read as {net}");
                    self.remarks.push((Level::Warn, "W-HOSTBITS", text));
                }
                add(&mut self.when.orig_dst, Operand::Net(net), negated)
            }
            "--ctorigdstport" => {
                let ranges = ports(&value)?;
                self.when.orig_dport = Some(match negated {
                    true => other_ports(&ranges),
                    false => ranges,
                });
                Ok(())
            }
            "--dst-type" | "--src-type" => self.address_type(&value, negated, name == "--src-type"),
            "--to-source" | "--to-destination" | "--to-ports" | "--to" | "--set-mss"
            | "--reject-with" => match self.target.to.replace(value) {
                None => Ok(()),
                Some(_) => Err(("E-SYNTAX", format!("{name} is given twice"))),
            },
            "--random" => {
                self.target.random = true;
                Ok(())
            }
            "--random-fully" => {
                self.target.fully = true;
                Ok(())
            }
            "--persistent" => {
                self.target.persistent = true;
                Ok(())
            }
            "--clamp-mss-to-pmtu" => {
                self.target.clamp = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn module(&mut self, name: &str, words: &mut Words<'_>) -> Result<(), Refusal> {
        if TAKEN.contains(&name) {
            return Ok(());
        }
        let asked = words.skip();
        let lot = asked.strip_prefix("--mode random --probability ");
        if let Some(lot) = lot
            .and_then(|p| p.parse().ok())
            .filter(|_| name == "statistic")
        {
            self.lot = Some(lot);
            return Ok(());
        }
        let shown = format!("-m {name} {asked}");
        match REFUSED.iter().find(|(known, ..)| *known == name) {
            Some((_, code, why)) => {
                let removed = ["--cmd-owner", "--pid-owner", "--sid-owner"];
                let more = match removed.iter().any(|option| asked.contains(option)) {
                    true => "; iptables itself dropped this one",
                    false => "",
                };
                Err((*code, format!("\"{}\" {why}{more}", shown.trim())))
            }
            None => {
                let known = TAKEN
                    .iter()
                    .copied()
                    .chain(REFUSED.iter().map(|(known, ..)| *known));
                Err(("E-UNKNOWN", unknown("match", name, known)))
            }
        }
    }

    fn address(
        &mut self,
        value: &str,
        negated: bool,
        source: bool,
        v6: bool,
    ) -> Result<(), Refusal> {
        if value.contains(',') {
            return Err((
                "E-SYNTAX",
                format!(
                    "{value}: a list becomes several rules when it is loaded; iptables-save writes none"
                ),
            ));
        }
        let (net, host) = network(value, v6)?;
        if host {
            self.remarks
                .push((Level::Warn, "W-HOSTBITS", format!("{value} read as {net}")));
        }
        self.add(Operand::Net(net), negated, source)
    }

    fn range(
        &mut self,
        value: &str,
        (negated, source): (bool, bool),
        v6: bool,
    ) -> Result<(), Refusal> {
        let (first, last) = value.split_once('-').unwrap_or((value, value));
        match (first.parse::<IpAddr>(), last.parse::<IpAddr>()) {
            (Ok(first), Ok(last)) if first.is_ipv6() != v6 || last.is_ipv6() != v6 => Err((
                "E-SYNTAX",
                format!("{value} is no range of this family's addresses"),
            )),
            (Ok(first), Ok(last)) if first <= last => {
                self.add(Operand::Range(format!("{first}-{last}")), negated, source)
            }
            (Ok(_), Ok(_)) => Err((
                "E-RANGE-REVERSED",
                format!("{value}: the end lies below the start"),
            )),
            _ => Err(("E-SYNTAX", format!("{value} is no range of addresses"))),
        }
    }

    fn add(&mut self, operand: Operand, negated: bool, source: bool) -> Result<(), Refusal> {
        let addresses = match source {
            true => &mut self.when.src,
            false => &mut self.when.dst,
        };
        add(addresses, operand, negated)
    }

    /// `-m addrtype`: whose address it is.
    fn address_type(&mut self, kind: &str, negated: bool, source: bool) -> Result<(), Refusal> {
        let set = |name: &str| Operand::Set(name.to_owned());
        match (kind, source) {
            ("LOCAL", _) => self.add(set("@self"), negated, source),
            ("MULTICAST", false) => self.add(set("@multicast"), negated, source),
            // Only packets from and to single hosts are forwarded.
            ("UNICAST", _) if !negated => Ok(()),
            ("BROADCAST", false) => {
                self.never |= !negated;
                Ok(())
            }
            _ => Err((
                "E-MATCH",
                format!("-m addrtype: the type {kind} has no equivalent"),
            )),
        }
    }

    fn interface(&mut self, value: &str, negated: bool, ingress: bool) -> Result<(), Refusal> {
        if value.contains(':') {
            return Err((
                "E-IFALIAS",
                format!("{value} is an alias, no interface: the rule can never match"),
            ));
        }
        if value == "+" {
            self.never |= negated;
            return Ok(());
        }
        if value == "lo" {
            // Nothing that is forwarded comes or goes there.
            return match negated {
                true => Ok(()),
                false => Err((
                    "E-LOCAL",
                    "lo carries the gateway's own packets alone".to_owned(),
                )),
            };
        }
        if value.is_empty() || value.len() > 15 || value.contains(['/', '*', '!', '@', ',']) {
            return Err(("E-SYNTAX", format!("{value:?} is no name of an interface")));
        }
        let pattern = match value.strip_suffix('+') {
            Some(stem) => format!("{stem}*"),
            None => value.to_owned(),
        };
        let interfaces = match ingress {
            true => &mut self.when.ingress,
            false => &mut self.when.egress,
        };
        match negated {
            true => interfaces.not.push(pattern),
            false => interfaces.only = Some(pattern),
        }
        Ok(())
    }

    fn protocol(&mut self, value: &str, negated: bool) -> Result<(), Refusal> {
        let lower = value.to_ascii_lowercase();
        if lower == "all" || lower == "0" {
            self.never |= negated;
            return Ok(());
        }
        let named = crate::config::matching::ProtocolSet::NAMES
            .iter()
            .find(|(name, _)| *name == lower);
        let number = match lower.as_str() {
            "ipv6-icmp" | "icmpv6" => Some(58),
            _ => named.map(|(_, number)| *number).or(lower.parse().ok()),
        };
        let number = number.ok_or_else(|| ("E-SYNTAX", format!("{value:?} is no protocol")))?;
        match negated {
            true => self.when.proto.not.push(number),
            false => self.when.proto.only = Some(number),
        }
        Ok(())
    }

    fn port(&mut self, value: &str, negated: bool, source: bool) -> Result<(), Refusal> {
        let ranges = ports(value)?;
        let ranges = if negated {
            other_ports(&ranges)
        } else {
            ranges
        };
        self.never |= ranges.is_empty();
        let place = match source {
            true => &mut self.when.sport,
            false => &mut self.when.dport,
        };
        *place = Some(ranges);
        Ok(())
    }

    /// What only shows when all words were read.
    fn check(&mut self, place: Place) {
        let when = &self.when;
        let asks_ports = when.sport.is_some() || when.dport.is_some() || self.either.is_some();
        if asks_ports && !self.has_ports() {
            self.refuse(
                "E-PORTS",
                "ports are asked for without a protocol that has ports",
            );
        }
        if let Some((looked, set)) = &self.flags {
            match matches::flags(looked, set, place, &self.target.name) {
                Ok(opens) if opens => {
                    self.remarks
                        .push((Level::Note, "", "--syn read as the state new".to_owned()));
                    if let Err((code, why)) = self.when.state.read("NEW", false) {
                        self.refuse(code, why);
                    }
                }
                Ok(_) => {}
                Err((code, why)) => self.refuse(code, why),
            }
        }
        match place {
            Place::Nat => self.check_in_nat(),
            Place::Filter if self.lot.is_some() => {
                self.refuse("E-MATCH", "-m statistic: draws lots for packets");
            }
            Place::Filter => {}
        }
        match Conditions::default().and(&self.when) {
            Ok(when) => self.when = when,
            Err(Clash::Never) => self.never = true,
            Err(Clash::Unsayable(why)) => self.refuse("E-MATCH", why),
        }
        if self.target.name.is_empty() {
            self.remarks.push((
                Level::Note,
                "",
                "without a target the rule only counts".to_owned(),
            ));
        }
    }

    /// nat sees the first packet of a flow, and has no words for more than where it comes from and goes to.
    fn check_in_nat(&mut self) {
        let state = std::mem::take(&mut self.when.state);
        match state.holds_for_new_flows() {
            _ if state.is_any() => {}
            Some(true) => self.remarks.push((
                Level::Note,
                "",
                "the state is left out: translation rules see new flows only".to_owned(),
            )),
            Some(false) => self.never = true,
            None => self.refuse(
                "E-MATCH",
                "the states DNAT and SNAT have no place in a translation rule",
            ),
        }
        let draws = self.lot.is_some() && self.target.name != "MASQUERADE";
        if draws {
            self.refuse("E-MATCH", "-m statistic: draws lots for packets");
        }
        if !self.when.icmp.is_any() {
            self.refuse("E-MATCH", "ICMP types have no place in a translation rule");
        }
        if self.when.orig_dst != Addresses::default() || self.when.orig_dport.is_some() {
            self.refuse(
                "E-MATCH",
                "the destination before its translation has no place in a translation rule",
            );
        }
    }

    /// Whether it is about one protocol with ports.
    pub fn has_ports(&self) -> bool {
        matches!(self.when.proto.only, Some(6 | 17 | 33 | 132 | 136))
    }
}

/// The words of a rule, read one after the other.
struct Words<'a> {
    list: &'a [String],
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.list.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    /// Passes over what belongs to a match that is not understood: up to the next match or target. What it was.
    fn skip(&mut self) -> String {
        let mut skipped = Vec::new();
        while let Some(word) = self.list.get(self.at) {
            let ends = [
                "-m", "--match", "-j", "--jump", "-g", "--goto", "-s", "-d", "-i", "-o", "-p",
            ];
            let negates_one = word == "!"
                && self
                    .list
                    .get(self.at + 1)
                    .is_some_and(|next| ends.contains(&next.as_str()));
            if ends.contains(&word.as_str()) || negates_one {
                break;
            }
            skipped.push(word.as_str());
            self.at += 1;
        }
        skipped.join(" ")
    }
}

/// Adds an operand to a condition on addresses.
fn add(to: &mut Addresses, operand: Operand, negated: bool) -> Result<(), Refusal> {
    match (negated, &to.only) {
        (true, _) => to.not.push(operand),
        (false, None) => to.only = Some(operand),
        (false, Some(_)) => return Err(("E-MATCH", "two conditions on one address".to_owned())),
    }
    Ok(())
}
