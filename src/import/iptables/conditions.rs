//! What a rule asks of a packet, and both of two such questions as one.
//!
//! Chains are flattened, so the conditions of a jump and of a rule behind it must hold together. Where natgate's language
//! cannot say "both", the rule is refused rather than widened.

use ipnet::IpNet;

use super::matches::{Icmp, States};

/// A condition on addresses: at most one positive operand, and any number of excluded ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub only: Option<Operand>,
    pub not: Vec<Operand>,
}

/// A prefix or a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Net(IpNet),
    /// As natgate writes it: `a-b`.
    Range(String),
    /// A set of natgate's language: `@self`.
    Set(String),
}

/// A condition on an interface, as patterns of natgate's language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interfaces {
    pub only: Option<String>,
    pub not: Vec<String>,
}

/// A condition on the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Protocols {
    pub only: Option<u8>,
    pub not: Vec<u8>,
}

/// Ports as sorted ranges; `None`: any.
pub(super) type Ports = Option<Vec<(u16, u16)>>;

/// All conditions of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    pub src: Addresses,
    pub dst: Addresses,
    pub ingress: Interfaces,
    pub egress: Interfaces,
    pub proto: Protocols,
    pub sport: Ports,
    pub dport: Ports,
    /// The destination before its translation.
    pub orig_dst: Addresses,
    pub orig_dport: Ports,
    pub icmp: Icmp,
    pub state: States,
}

/// Why two conditions do not make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Clash {
    /// Nothing satisfies both.
    Never,
    /// natgate cannot say it.
    Unsayable(&'static str),
}

impl Conditions {
    /// Both at once.
    pub fn and(&self, other: &Conditions) -> Result<Conditions, Clash> {
        Ok(Conditions {
            src: self.src.and(&other.src)?,
            dst: self.dst.and(&other.dst)?,
            ingress: self.ingress.and(&other.ingress)?,
            egress: self.egress.and(&other.egress)?,
            proto: self.proto.and(&other.proto)?,
            sport: both_ports(&self.sport, &other.sport)?,
            dport: both_ports(&self.dport, &other.dport)?,
            orig_dst: self.orig_dst.and(&other.orig_dst)?,
            orig_dport: both_ports(&self.orig_dport, &other.orig_dport)?,
            icmp: self.icmp.and(&other.icmp)?,
            state: self.state.and(&other.state)?,
        })
    }

    /// Whether every packet satisfies them.
    pub fn is_any(&self) -> bool {
        *self == Conditions::default()
    }

    /// Whether they ask for nothing but one destination prefix.
    pub fn only_destination(&self) -> Option<&IpNet> {
        let rest = Conditions {
            dst: Addresses::default(),
            ..self.clone()
        };
        match (&self.dst.only, rest.is_any() && self.dst.not.is_empty()) {
            (Some(Operand::Net(net)), true) => Some(net),
            _ => None,
        }
    }
}

impl Operand {
    fn text(&self) -> String {
        match self {
            Operand::Net(net) => net.to_string(),
            Operand::Range(text) | Operand::Set(text) => text.clone(),
        }
    }
}

impl Addresses {
    fn and(&self, other: &Addresses) -> Result<Addresses, Clash> {
        let only = match (&self.only, &other.only) {
            (one, None) | (None, one) => one.clone(),
            (Some(a), Some(b)) if a == b => Some(a.clone()),
            (Some(Operand::Net(a)), Some(Operand::Net(b))) if a.contains(b) => other.only.clone(),
            (Some(Operand::Net(a)), Some(Operand::Net(b))) if b.contains(a) => self.only.clone(),
            (Some(Operand::Net(_)), Some(Operand::Net(_))) => return Err(Clash::Never),
            _ => {
                return Err(Clash::Unsayable(
                    "two conditions on one address, one of them a range or a set",
                ));
            }
        };
        let mut not = self.not.clone();
        not.extend(other.not.iter().filter(|o| !self.not.contains(o)).cloned());
        let covers = |out: &Operand| match (out, &only) {
            (Operand::Net(out), Some(Operand::Net(only))) => out.contains(only),
            (Operand::Net(out), None) => out.prefix_len() == 0,
            (out, only) => only.as_ref() == Some(out),
        };
        if not.iter().any(covers) {
            return Err(Clash::Never);
        }
        let symbolic = matches!(only, Some(Operand::Range(_) | Operand::Set(_)));
        if symbolic && not.iter().any(|out| !matches!(out, Operand::Set(_))) {
            return Err(Clash::Unsayable(
                "a range or a set of addresses less others",
            ));
        }
        Ok(Addresses { only, not })
    }

    /// As a value of natgate's language.
    pub fn values(&self) -> Vec<String> {
        let only = self.only.iter().map(Operand::text);
        only.chain(self.not.iter().map(|o| format!("!{}", o.text())))
            .collect()
    }
}

impl Interfaces {
    fn and(&self, other: &Interfaces) -> Result<Interfaces, Clash> {
        let within = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
            Some(stem) => name.starts_with(stem),
            None => name == pattern,
        };
        let only = match (&self.only, &other.only) {
            (one, None) | (None, one) => one.clone(),
            (Some(a), Some(b)) if within(a, b) => Some(a.clone()),
            (Some(a), Some(b)) if within(b, a) => Some(b.clone()),
            _ => return Err(Clash::Never),
        };
        let mut not = self.not.clone();
        not.extend(other.not.iter().filter(|o| !self.not.contains(o)).cloned());
        if only
            .as_ref()
            .is_some_and(|only| not.iter().any(|n| within(only, n)))
        {
            return Err(Clash::Never);
        }
        Ok(Interfaces { only, not })
    }

    /// As a value of natgate's language.
    pub fn values(&self) -> Vec<String> {
        let only = self.only.iter().cloned();
        only.chain(self.not.iter().map(|n| format!("!{n}")))
            .collect()
    }
}

impl Protocols {
    fn and(&self, other: &Protocols) -> Result<Protocols, Clash> {
        let mut not = self.not.clone();
        not.extend(other.not.iter().filter(|n| !self.not.contains(n)));
        let only = match (self.only, other.only) {
            (one, None) | (None, one) => one,
            (a, b) if a == b => a,
            _ => return Err(Clash::Never),
        };
        match only {
            Some(only) if not.contains(&only) => Err(Clash::Never),
            Some(_) => Ok(Protocols {
                only,
                not: Vec::new(),
            }),
            None => Ok(Protocols { only, not }),
        }
    }

    /// As a value of natgate's language.
    pub fn values(&self) -> Vec<String> {
        let name = crate::config::matching::ProtocolSet::name;
        let only = self.only.iter().map(|p| name(*p));
        only.chain(self.not.iter().map(|p| format!("!{}", name(*p))))
            .collect()
    }
}

fn both_ports(a: &Ports, b: &Ports) -> Result<Ports, Clash> {
    let (Some(a), Some(b)) = (a, b) else {
        return Ok(a.clone().or_else(|| b.clone()));
    };
    let mut both = Vec::new();
    for (low, high) in a {
        for (other_low, other_high) in b {
            let (low, high) = (low.max(other_low), high.min(other_high));
            if low <= high {
                both.push((*low, *high));
            }
        }
    }
    match both.is_empty() {
        true => Err(Clash::Never),
        false => Ok(Some(both)),
    }
}

/// All ports but these.
pub(super) fn other_ports(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let (mut left, mut next) = (Vec::new(), 0u32);
    for (low, high) in sorted {
        if u32::from(low) > next {
            left.push((next as u16, low - 1));
        }
        next = next.max(u32::from(high) + 1);
    }
    if next <= u32::from(u16::MAX) {
        left.push((next as u16, u16::MAX));
    }
    left
}

/// Ports as a value of natgate's language.
pub(super) fn port_text(ranges: &[(u16, u16)]) -> String {
    let text = |(low, high): &(u16, u16)| match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(net: &str) -> Conditions {
        Conditions {
            src: Addresses {
                only: Some(Operand::Net(net.parse().unwrap())),
                not: Vec::new(),
            },
            ..Conditions::default()
        }
    }

    #[test]
    fn both_is_the_narrower_or_nothing() {
        let (wide, narrow) = (from("10.0.0.0/8"), from("10.1.0.0/16"));
        assert_eq!(wide.and(&narrow), Ok(narrow.clone()));
        assert_eq!(narrow.and(&wide), Ok(narrow.clone()));
        assert_eq!(narrow.and(&from("11.0.0.0/8")), Err(Clash::Never));
        assert_eq!(other_ports(&[(0, 79), (90, 65535)]), [(80, 89)]);
        assert_eq!(port_text(&other_ports(&[(80, 80)])), "0-79,81-65535");
        let (web, low) = (Some(vec![(80, 80), (8080, 8090)]), Some(vec![(0, 1023)]));
        assert_eq!(both_ports(&web, &low), Ok(Some(vec![(80, 80)])));
        assert_eq!(
            both_ports(&low, &Some(vec![(5000, 5001)])),
            Err(Clash::Never)
        );
    }
}
