//! `[log]`.

use super::super::log::{Log, LogTarget};
use super::super::raw;
use super::super::report::Findings;
use super::super::validated::{Validated, Via};
use super::operands::element_path;
use super::{checked, choice};
use crate::nat::journal::{Logging, Mappings};

/// What may be logged, as it is written.
const MAPPINGS: &[(&str, Mappings)] = &[
    ("off", Mappings::Off),
    ("auto", Mappings::Auto),
    ("block", Mappings::Block),
    ("session", Mappings::Session),
];

/// Whether datagrams leave by the host's network, as it is written.
const THROUGH: &[(&str, bool)] = &[("gateway", false), ("host", true)];

pub(super) fn log(raw: &raw::Log, findings: &mut Findings) -> Log {
    let wanted = choice("log.mappings", &raw.mappings, MAPPINGS, findings).unwrap_or_default();
    let through = choice("log.through", &raw.through, THROUGH, findings);
    let host = through.unwrap_or_default();
    let mut to = Vec::new();
    for (index, written) in raw.to.0.iter().enumerate() {
        let path = element_path("log.to", index, findings);
        let Some(target) = checked(&path, LogTarget::parse(written, host), findings) else {
            continue;
        };
        if to.contains(&target) {
            findings.error(&path, format!("{written:?} is named twice"));
        } else {
            to.push(target);
        }
    }
    if raw.to.0.is_empty() && matches!(wanted, Mappings::Block | Mappings::Session) {
        let message = format!(
            "{:?} needs a sink (add log.to = \"file:/var/log/natgate/nat.json\")",
            raw.mappings
        );
        findings.error("log.mappings", message);
    }
    let mappings = match to.is_empty() {
        true => Mappings::Off,
        false => wanted,
    };
    Log {
        logging: Logging {
            mappings,
            destinations: raw.destinations,
        },
        to,
    }
}

/// Says what blocks alone leave out.
pub(super) fn cross(config: &Validated, findings: &mut Findings) {
    if config.log.logging.mappings != Mappings::Block {
        return;
    }
    let in_blocks = |via: &Via| match via {
        Via::None => true,
        Via::Interface => false,
        Via::Pool(id) => (config.pools.get(id.index()))
            .is_some_and(|pool| pool.block.is_some() || pool.deterministic.is_some()),
    };
    if let Some(rule) = config.source_nat.iter().find(|rule| !in_blocks(&rule.via)) {
        let message = format!(
            "\"block\" logs nothing of the flows of {:?}, whose ports are in no block (\"auto\" logs their sessions)",
            rule.label.name
        );
        findings.warn("log.mappings", message);
    }
}
