//! mangle: MSS clamping, which belongs to an interface here.

use super::super::emit::Table;
use super::rule::{Place, Refusal, Rule};
use super::{Importer, read_rules, save};

/// IPv4 and TCP headers without options: what the MSS leaves of the MTU.
const HEADERS: u16 = 40;

impl Importer<'_> {
    pub(super) fn mangle(&mut self, table: &save::Table, v6: bool) {
        let chains = read_rules(table, v6, Place::Filter, |_| true);
        let mut written = Vec::new();
        for chain in &table.chains {
            for rule in chains.get(&chain.name).into_iter().flatten() {
                self.tell(rule);
                let forwarded = matches!(
                    chain.name.as_str(),
                    "FORWARD" | "POSTROUTING" | "PREROUTING"
                );
                if !rule.refused.is_empty() || rule.target.name != "TCPMSS" || !forwarded {
                    let text = format!(
                        "mangle/{}: only TCPMSS of forwarded packets has an equivalent",
                        chain.name
                    );
                    self.reject(rule.line, "E-TABLE", text);
                } else if let Err((code, why)) = self.clamp(rule, &mut written) {
                    self.reject(rule.line, code, why);
                }
            }
        }
    }

    /// A rule becomes a key of each interface it names.
    fn clamp(&mut self, rule: &Rule, written: &mut Vec<(String, u16)>) -> Result<(), Refusal> {
        if rule.flags.is_none() {
            return Err((
                "E-MATCH",
                "TCPMSS without --tcp-flags SYN,RST SYN".to_owned(),
            ));
        }
        let named = [&rule.when.ingress, &rule.when.egress];
        let names: Vec<&String> = named.iter().filter_map(|i| i.only.as_ref()).collect();
        let excluded = named.iter().any(|i| !i.not.is_empty());
        let [name] = names[..] else {
            return Err(("E-MATCH", "TCPMSS without one interface: write clamp_mss into each [[interface]] it is meant for".to_owned()));
        };
        if excluded || name.ends_with('*') {
            return Err(("E-MATCH", "TCPMSS for several interfaces: write clamp_mss into each [[interface]] it is meant for".to_owned()));
        }
        let name = self.interface(name);
        let mss = match (&rule.target.to, rule.target.clamp) {
            (Some(text), false) => {
                text.parse().ok().filter(|mss| *mss >= 536).ok_or_else(|| {
                    (
                        "E-SYNTAX",
                        format!("--set-mss {text}: natgate clamps to 536 and more"),
                    )
                })?
            }
            (None, true) => {
                let base = self.options.base.as_ref();
                let mtu = base.and_then(|base| {
                    Some(base.interfaces.get(base.interface(&name)?.index())?.mtu)
                });
                let mtu = mtu.ok_or_else(|| {
                    (
                        "E-MATCH",
                        format!(
                            "--clamp-mss-to-pmtu: the MTU of {name} is not known (give --base)"
                        ),
                    )
                })?;
                self.warn(
                    rule.line,
                    "",
                    format!("--clamp-mss-to-pmtu read as the MTU of {name} ({mtu}) less {HEADERS}"),
                );
                mtu.saturating_sub(HEADERS)
            }
            _ => {
                return Err((
                    "E-SYNTAX",
                    "TCPMSS needs --set-mss or --clamp-mss-to-pmtu".to_owned(),
                ));
            }
        };
        if let Some((_, other)) = written.iter().find(|(known, _)| *known == name) {
            return match *other == mss {
                true => {
                    self.ok(
                        rule.line,
                        format!("interface.clamp_mss = {mss} on {name}, as before"),
                    );
                    Ok(())
                }
                false => Err((
                    "E-MATCH",
                    format!("interface {name} is clamped to {other} already"),
                )),
            };
        }
        self.ok(rule.line, format!("interface.clamp_mss = {mss} on {name}"));
        let mut only = Vec::new();
        for (what, values) in [
            ("source", rule.when.src.values()),
            ("destination", rule.when.dst.values()),
        ] {
            only.extend(
                (!values.is_empty()).then(|| format!(", not only to {what} {}", values.join(","))),
            );
        }
        self.warn(
            rule.line,
            "",
            format!(
                "applies to the interface in both directions{}",
                only.concat()
            ),
        );
        let table = Table::new("[[interface]]").text("name", &name);
        self.tables.push(table.raw("clamp_mss", &mss.to_string()));
        written.push((name, mss));
        Ok(())
    }
}
