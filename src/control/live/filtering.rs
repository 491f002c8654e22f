//! The listing of the filter.

use std::collections::HashMap;

use crate::base::RuleId;
use crate::config::filtering::action_name;
use crate::config::validated::{self, Validated};
use crate::control::api::FilterRule;
use crate::dataplane::accounts::RuleCount;
use crate::nat::filter::KIND;
use crate::nat::policy::Policy;

/// The rules in order with what `counts` holds for them, then the default.
pub fn rules(config: &Validated, policy: &Policy, counts: &[RuleCount]) -> Vec<FilterRule> {
    let numbers: HashMap<&str, RuleId> = policy
        .rules
        .iter()
        .filter(|info| info.kind == KIND)
        .map(|info| (info.name.as_str(), info.id))
        .collect();
    let count = |id: RuleId| counts.get(id.index()).copied().unwrap_or_default();
    let mut all: Vec<FilterRule> = Vec::with_capacity(config.filter.rules.len() + 1);
    for (index, rule) in (1..).zip(&config.filter.rules) {
        let id = numbers.get(rule.label.name.as_str()).copied();
        all.push(view(index, rule, count(id.unwrap_or(RuleId::NONE))));
    }
    let any = || "any".to_owned();
    let default = count(policy.filter.default().rule);
    all.push(FilterRule {
        index: all.len() as u32 + 1,
        name: "default".to_owned(),
        packets: default.packets,
        bytes: default.bytes,
        hits: default.hits,
        ingress: any(),
        egress: any(),
        src: any(),
        dst: any(),
        proto: any(),
        sport: any(),
        dport: any(),
        orig_dst: any(),
        orig_dport: any(),
        icmp_type: any(),
        state: any(),
        action: action_name(config.filter.default),
        origin: String::new(),
    });
    all
}

fn view(index: u32, rule: &validated::FilterRule, count: RuleCount) -> FilterRule {
    FilterRule {
        index,
        name: rule.label.name.clone(),
        packets: count.packets,
        bytes: count.bytes,
        hits: count.hits,
        ingress: rule.in_.to_string(),
        egress: rule.out.to_string(),
        src: rule.src.to_string(),
        dst: rule.dst.to_string(),
        proto: rule.proto.to_string(),
        sport: rule.sport.to_string(),
        dport: rule.dport.to_string(),
        orig_dst: rule.orig_dst.to_string(),
        orig_dport: rule.orig_dport.to_string(),
        icmp_type: rule.icmp.to_string(),
        state: rule.state.to_string(),
        action: action_name(rule.action),
        origin: rule.label.origin.clone(),
    }
}
