//! From `Raw` to `Validated`: every object on its own, then the objects against each other.
//!
//! Checking goes on after an error with a harmless stand-in, so that one report holds everything. The result is
//! only used when no error was found.

mod cross;
mod deterministic;
mod filter;
mod links;
mod log;
mod operands;
pub(super) mod pools;
mod rules;
mod services;
mod system;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use pools::blocks_of;

use super::raw::{self, Raw};
use super::report::{Findings, nearest};
use super::validated::{Interface, Label, Log, LogTarget, Validated};
use crate::gateway::dhcp::message::CLIENT_PORT;
use crate::nat::helpers::{Helper, Helpers};
use operands::{Names, element_path};

/// The ports the gateway itself sends from: of its DHCP clients, and of its log.
fn own_ports(interfaces: &[Interface], log: &Log) -> BTreeSet<u16> {
    let leased = interfaces.iter().filter(|interface| interface.dhcp);
    let logged = log.to.iter().filter_map(LogTarget::own_port);
    leased.map(|_| CLIENT_PORT).chain(logged).collect()
}

/// What speaks against a configuration with the addresses that were leased meanwhile.
pub(super) fn conflicts(config: &Validated) -> Vec<String> {
    let mut findings = Findings::default();
    cross::check(config, &mut findings);
    let report = findings.finish(Some(()), &[]).err();
    let report = report.as_ref();
    let errors = report.into_iter().flat_map(|report| report.errors());
    errors.map(|error| error.message.clone()).collect()
}

/// Checks everything about `raw`.
pub(super) fn validate(raw: &Raw, findings: &mut Findings) -> Validated {
    check_names(raw, findings);
    let names = Names {
        interfaces: (raw.interface.iter().enumerate())
            .map(|(index, i)| {
                i.label
                    .name
                    .clone()
                    .unwrap_or_else(|| format!("interface {}", index + 1))
            })
            .collect(),
        sets: raw
            .sets
            .iter()
            .map(|(name, set)| (name.clone(), set.members.0.clone()))
            .collect(),
    };
    names.check_sets(findings);
    let system = system::system(&raw.system, findings);
    let ports = links::ports(&raw.port, &system, findings);
    let realms = links::realms(raw);
    let interfaces = links::interfaces(&raw.interface, &ports, &realms, findings);
    let pools = pools::pools(&raw.pool, &names, findings);
    let pool_names: Vec<&str> = pools.iter().map(|pool| pool.label.name.as_str()).collect();
    let log = log::log(&raw.log, findings);
    let mut validated = Validated {
        timeouts: system::timeouts(&raw.timeouts, findings),
        api: system::api(&raw.api, &system.instance, findings),
        metrics: system::metrics(&raw.metrics, findings),
        routes: links::routes(&raw.route, &names, &interfaces, &realms, findings),
        neighbours: links::neighbours(&raw.neighbour, &names, &interfaces, findings),
        exempts: rules::exempts(&raw.exempt, &names, findings),
        source_nat: rules::source_nat(&raw.source_nat, &names, &pool_names, findings),
        static_nat: rules::static_nat(&raw.static_nat, &names, &realms, findings),
        port_forwards: rules::port_forwards(&raw.port_forward, &names, &realms, findings),
        services: services::services(&raw.service, &names, findings),
        filter: filter::filter(&raw.filter, &names, findings),
        own_ports: own_ports(&interfaces, &log),
        log,
        sets: names.sets,
        system,
        ports,
        realms,
        interfaces,
        pools,
    };
    let ipv6 = validated.has_ipv6();
    for file in validated
        .exempts
        .iter_mut()
        .filter_map(|rule| rule.file.as_mut())
    {
        file.list = file.fallback(ipv6);
    }
    cross::check(&validated, findings);
    services::cross(&validated, findings);
    log::cross(&validated, findings);
    validated
}

/// Names are unique within their kind and can be written on a command line; ports, interfaces and pools need one.
fn check_names(raw: &Raw, findings: &mut Findings) {
    fn kind<'a>(
        labels: impl Iterator<Item = &'a raw::Label>,
        table: &str,
        required: bool,
        findings: &mut Findings,
    ) {
        let mut first: BTreeMap<&str, String> = BTreeMap::new();
        for (index, label) in labels.enumerate() {
            let object = format!("{table}[{index}]");
            let path = format!("{object}.name");
            let Some(name) = label.name.as_deref() else {
                if required {
                    findings.error(&path, format!("is missing (give the {table} a name)"));
                }
                continue;
            };
            let referable =
                !name.is_empty() && !name.contains(['*', '!', '@', ',']) && name.trim() == name;
            if !referable {
                findings.error(&path, format!("{name:?} is no name (not empty, without '*', '!', '@', ',' or outer blanks)"));
            }
            if let Some(place) = first.get(name) {
                let place = place.clone();
                findings.error(
                    &path,
                    format!("{name:?} is taken by the {table} at {place} (names are unique)"),
                );
            } else {
                first.insert(name, findings.place(&object));
            }
        }
    }
    kind(raw.port.iter().map(|x| &x.label), "port", true, findings);
    kind(
        raw.interface.iter().map(|x| &x.label),
        "interface",
        true,
        findings,
    );
    kind(raw.pool.iter().map(|x| &x.label), "pool", true, findings);
    kind(raw.route.iter().map(|x| &x.label), "route", false, findings);
    kind(
        raw.neighbour.iter().map(|x| &x.label),
        "neighbour",
        false,
        findings,
    );
    kind(
        raw.exempt.iter().map(|x| &x.label),
        "exempt",
        false,
        findings,
    );
    kind(
        raw.source_nat.iter().map(|x| &x.label),
        "source-nat",
        false,
        findings,
    );
    kind(
        raw.static_nat.iter().map(|x| &x.label),
        "static-nat",
        false,
        findings,
    );
    kind(
        raw.port_forward.iter().map(|x| &x.label),
        "port-forward",
        false,
        findings,
    );
    kind(
        raw.service.iter().map(|x| &x.label),
        "service",
        false,
        findings,
    );
    kind(
        raw.filter.rule.iter().map(|x| &x.label),
        "filter.rule",
        false,
        findings,
    );
}

/// The label of the object at `path` (`pool[0]`).
fn label(written: &raw::Label, path: &str, findings: &Findings) -> Label {
    let (table, index) = path
        .trim_end_matches(']')
        .split_once('[')
        .unwrap_or((path, "0"));
    let number = index.parse::<usize>().map_or(0, |index| index + 1);
    Label {
        name: written
            .name
            .clone()
            .unwrap_or_else(|| format!("{table} {number}")),
        comment: written.comment.clone(),
        origin: written
            .origin
            .clone()
            .unwrap_or_else(|| findings.place(path)),
    }
}

/// One of a few words; the first is the stand-in after an error.
fn choice<T: Copy>(
    path: &str,
    written: &str,
    words: &[(&str, T)],
    findings: &mut Findings,
) -> Option<T> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == written) {
        return Some(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let hint = match nearest(written, known.iter().copied()) {
        Some(best) => format!("did you mean {best:?}?"),
        None => format!("possible: {}", known.join(", ")),
    };
    findings.error(path, format!("{written:?} is not possible here ({hint})"));
    words.first().map(|(_, value)| *value)
}

/// A list of helpers.
fn helpers(path: &str, written: &raw::Many, findings: &mut Findings) -> Helpers {
    let words = Helper::ALL.map(|helper| (helper.name(), helper));
    let mut on = Helpers::NONE;
    for (index, name) in written.0.iter().enumerate() {
        let at = element_path(path, index, findings);
        if let Some(helper) = choice(&at, name, &words, findings) {
            on = on.with(helper);
        }
    }
    on
}

/// A value that must be there.
fn required<'a>(
    path: &str,
    written: Option<&'a str>,
    what: &str,
    findings: &mut Findings,
) -> Option<&'a str> {
    if written.is_none() {
        findings.error(path, format!("is missing ({what})"));
    }
    written
}

/// The value, or its error reported at `path`.
fn checked<T>(path: &str, value: Result<T, String>, findings: &mut Findings) -> Option<T> {
    value.map_err(|message| findings.error(path, message)).ok()
}
