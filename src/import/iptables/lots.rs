//! Rules that draw lots, as ip-masq-agent writes them to share ports out: each range of ports is drawn in proportion to
//! its size, which one rule with all ranges does here (E28).

use super::flatten::{End, Flat};
use super::rule::{Refusal, Target};
use super::values::port;

/// How far a probability may be from its fraction: the kernel keeps 31 bits of it.
const TOLERANCE: f64 = 1e-6;

/// Rules that become one: how many from the first on, and their ranges of ports.
pub(super) struct Drawn {
    pub count: usize,
    pub ports: String,
}

/// What the rules from the first on draw, which does draw lots.
///
/// # Errors
/// When that is no range of ports by its size.
pub(super) fn drawn(list: &[Flat<'_>]) -> Result<Drawn, Refusal> {
    let refusal = |why: &str| ("E-MATCH", format!("-m statistic: {why}"));
    let last = list.iter().position(|flat| flat.rule.lot.is_none());
    let last = last.ok_or_else(|| refusal("no rule without it takes what is left"))?;
    let run = &list[..=last];
    let first = &run[0];
    let without_ports = |target: &Target| Target {
        to: None,
        ..target.clone()
    };
    let alike = |flat: &Flat<'_>| {
        flat.when == first.when
            && flat.end == End::Target
            && flat.rule.target.name == "MASQUERADE"
            && without_ports(&flat.rule.target) == without_ports(&first.rule.target)
    };
    if !run.iter().all(alike) {
        return Err(refusal(
            "the rules of a draw differ in more than --to-ports",
        ));
    }
    let mut ranges = Vec::new();
    for flat in run {
        let text = flat.rule.target.to.as_deref();
        let text = text.ok_or_else(|| refusal("it draws something else than --to-ports"))?;
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (port(low)?, port(high)?);
        if low > high || low == 0 {
            return Err((
                "E-PORTS",
                format!("{text} is no range of ports to give out"),
            ));
        }
        ranges.push((text, f64::from(high - low) + 1.0));
    }
    let mut left: f64 = ranges.iter().map(|(_, size)| size).sum();
    for (flat, (text, size)) in run.iter().zip(&ranges) {
        let fair = size / left;
        if flat
            .rule
            .lot
            .is_some_and(|lot| (lot - fair).abs() > TOLERANCE)
        {
            return Err(refusal(&format!(
                "{text} is not drawn by its size ({fair:.6})"
            )));
        }
        left -= size;
    }
    let texts: Vec<&str> = ranges.iter().map(|(text, _)| *text).collect();
    Ok(Drawn {
        count: run.len(),
        ports: texts.join(","),
    })
}
