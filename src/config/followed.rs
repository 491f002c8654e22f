//! The files of `[[exempt]]` when a configuration is read.

use std::time::Duration;

use super::exemptions::{self, ExemptFile};
use super::validated::Exempt;
use super::{Diagnostic, Loaded, Report, Severity, Validated};

/// A file that an exemption follows, as it was found when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Position of the exemption.
    pub exempt: usize,
    /// Its version, taken before it was read.
    pub fingerprint: exemptions::Fingerprint,
    /// When to read it again.
    pub resync: Duration,
    /// What is wrong with it; then the list that counts without a file is in force.
    pub problem: Option<String>,
}

impl Loaded {
    /// Reads the files that exemptions follow. What is wrong with one is a warning, unless the configuration says that
    /// the file must be there.
    ///
    /// # Errors
    /// When one that must be there is not, or is bad.
    pub fn follow(mut self) -> Result<Loaded, Report> {
        let ipv6 = self.validated.has_ipv6();
        let mut refused = Vec::new();
        for (exempt, rule) in self.validated.exempts.iter_mut().enumerate() {
            let Some(file) = &mut rule.file else { continue };
            let finding = |severity, message| Diagnostic {
                severity,
                place: rule.label.origin.clone(),
                path: format!("exempt[{}].file", rule.label.name),
                message,
            };
            let fingerprint = file.fingerprint();
            let (mut resync, mut problem) = (file.resync, None);
            match file.read(ipv6) {
                Ok(list) => {
                    let remarks = list.remarks.into_iter();
                    self.warnings
                        .extend(remarks.map(|r| finding(Severity::Warning, r)));
                    resync = list.resync;
                    file.list = list.entries;
                }
                Err(mistakes) if file.missing == exemptions::Missing::Error => {
                    refused.extend(mistakes.into_iter().map(|m| finding(Severity::Error, m)));
                }
                Err(mistakes) => {
                    problem = Some(mistakes.join("; "));
                    let list = "the list that counts without the file is used instead";
                    let each = mistakes
                        .iter()
                        .map(|m| finding(Severity::Warning, format!("{m}; {list}")));
                    self.warnings.extend(each);
                }
            }
            self.followed.push(Followed {
                exempt,
                fingerprint,
                resync,
                problem,
            });
        }
        match refused.is_empty() {
            true => Ok(self),
            false => Err(Report {
                diagnostics: refused,
            }),
        }
    }

    /// The same with what is in force under `running` besides its text: the lists of the exemptions for which `which` says so,
    /// and the leases of interfaces that still ask for one at the same place.
    pub fn with_lists_of(
        mut self,
        running: &Validated,
        which: impl Fn(&Loaded, usize) -> bool,
    ) -> Loaded {
        for at in 0..self.validated.exempts.len() {
            if !which(&self, at) {
                continue;
            }
            let Some(rule) = self.validated.exempts.get_mut(at) else {
                continue;
            };
            let same = |known: &&Exempt| known.label.name == rule.label.name;
            let before = running.exempts.iter().find(same);
            let before: Option<&ExemptFile> = before.and_then(|rule| rule.file.as_ref());
            if let (Some(file), Some(before)) = (&mut rule.file, before)
                && file.is_like(before)
            {
                file.list.clone_from(&before.list);
            }
        }
        for on in self.validated.interfaces.iter_mut().filter(|on| on.dhcp) {
            let mut known = running.interfaces.iter();
            let before = known.find(|known| known.label.name == on.label.name);
            let before = before.filter(|known| (known.port, known.vlan) == (on.port, on.vlan));
            on.grant = before.and_then(|known| known.grant.clone());
        }
        self
    }
}
