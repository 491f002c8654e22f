//! Exemptions: prefixes of the configuration and of followed files, compiled into one table for each rule.

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use super::Compiler;
use super::rules::MAX_RULES;
use super::sets::addresses;
use crate::base::RuleId;
use crate::config::validated::{self, AddressList, Label, Validated};
use crate::gateway::lpm::Lpm;
use crate::nat::family::Family;
use crate::nat::policy::RuleInfo;
use crate::nat::rules::{Exempt, Exemption};

/// What counted prefixes are called among the rules.
pub const KIND: &str = "exempt-prefix";

/// Rules with more prefixes are counted as a whole.
const COUNTED: usize = 256;

/// A destination of an exemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The prefix.
    pub net: IpNet,
    /// It is translated after all.
    pub force: bool,
    /// Where it is written: `builtin link-local`, `default rfc1918`, `file PATH:LINE`, or the place of the rule.
    pub origin: String,
}

/// The destinations of a rule: its own, those of its file, and those it forces.
pub fn destinations(config: &Validated, rule: &validated::Exempt) -> Vec<Destination> {
    let here = |net: IpNet, force: bool| Destination {
        net,
        force,
        origin: rule.label.origin.clone(),
    };
    let own = own_destinations(config, rule).into_iter();
    let mut list: Vec<Destination> = own.map(|net| here(net, false)).collect();
    for entry in rule.file.iter().flat_map(|file| &file.list) {
        list.push(Destination {
            net: entry.net,
            force: false,
            origin: entry.origin.clone(),
        });
    }
    list.extend(rule.force.iter().map(|net| here(*net, true)));
    list
}

/// The name under which a destination of a rule is counted.
pub fn count_name(label: &Label, net: &IpNet) -> String {
    format!("{} {net}", label.name)
}

/// `dst` as prefixes, whose lengths matter; what it excludes is cut out of them.
fn own_destinations(config: &Validated, rule: &validated::Exempt) -> Vec<IpNet> {
    let set = &rule.dst;
    if set.exclude.is_empty() {
        let Some(list) = &set.include else {
            return vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
        };
        let own = AddressList {
            prefixes: Vec::new(),
            ..list.clone()
        };
        let own = own.resolve(&config.interfaces);
        return list.prefixes.iter().copied().chain(own).collect();
    }
    let v4 = addresses::<u32>(set, &config.interfaces);
    let v6 = addresses::<u128>(set, &config.interfaces);
    let v4 = v4
        .ranges()
        .iter()
        .flat_map(|&(first, last)| Ipv4Subnets::new(first.into(), last.into(), 0).map(IpNet::V4));
    let v6 = v6
        .ranges()
        .iter()
        .flat_map(|&(first, last)| Ipv6Subnets::new(first.into(), last.into(), 0).map(IpNet::V6));
    v4.chain(v6).collect()
}

/// The destinations of an exemption, with the numbers they are counted under.
pub(super) struct Numbered(Vec<(IpNet, Exemption)>);

impl Compiler<'_> {
    pub(super) fn number_exempt(&mut self, rule: &validated::Exempt) -> Numbered {
        let list = destinations(self.config, rule);
        let text = format!("in={} src={} dst={}", rule.in_, rule.src, rule.dst);
        let whole = self.rule("exempt", &rule.label, text);
        let each = list.len() <= COUNTED;
        let number = |destination: &Destination| {
            let what = match destination.force {
                true => Exemption::Force,
                false if each => Exemption::Leave(self.prefix(rule, &destination.net, whole)),
                false => Exemption::Leave(whole),
            };
            (destination.net, what)
        };
        Numbered(list.iter().map(number).collect())
    }

    /// The exemptions as one family sees them.
    pub(super) fn exempts<A: Family>(&self, numbers: &[Numbered]) -> Vec<Exempt<A>> {
        let mut rules = Vec::new();
        for (rule, numbered) in self.config.exempts.iter().zip(numbers) {
            let entries = numbered.0.iter().filter_map(|(net, what)| {
                Some((A::from_ip(net.network())?, net.prefix_len(), *what))
            });
            rules.push(Exempt {
                ingress: self.interfaces_of(&rule.in_),
                source: self.addresses_of(&rule.src),
                destinations: Lpm::build(entries),
            });
        }
        rules
    }

    /// The number a prefix is counted under. Files come and go with new prefixes all the time and must not use up the
    /// numbers of rules: when half of them are taken, further prefixes are counted with their rule.
    fn prefix(&mut self, rule: &validated::Exempt, net: &IpNet, whole: RuleId) -> RuleId {
        let label = Label {
            name: count_name(&rule.label, net),
            ..rule.label.clone()
        };
        let known = |rules: &[RuleInfo]| {
            rules
                .iter()
                .find(|r| r.kind == KIND && r.name == label.name)
                .map(|r| r.id)
        };
        if let Some(id) = known(&self.rules) {
            return id;
        }
        let before = self.previous.map_or(&[][..], |p| &p.rules);
        let highest = before.iter().chain(&self.rules).map(|r| r.id.index()).max();
        let full = highest.is_some_and(|highest| highest >= MAX_RULES / 2);
        if full && known(before).is_none() {
            return whole;
        }
        self.rule(KIND, &label, format!("dst={net}"))
    }
}
