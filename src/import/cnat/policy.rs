//! What cnat's SNAT is told: the address, the policy, its interfaces and prefixes, and where it is switched on.

use ipnet::IpNet;

use super::super::emit::Table;
use super::super::host;
use super::translation::{At, Refusal};
use super::words::Words;

/// Which flows are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All that the feature sees.
    All,
    /// Those from included interfaces to prefixes that are not excluded.
    Included,
    /// The same, with the exceptions Kubernetes needs.
    Kubernetes,
    /// Those a prefix is rewritten of; with or without an own source for the others of them.
    Rewritten { allocate: bool },
}

impl Kind {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Kind); 5] = [
        ("none", Kind::All),
        ("if-pfx", Kind::Included),
        ("k8s", Kind::Kubernetes),
        ("dnat", Kind::Rewritten { allocate: true }),
        ("dnat-only", Kind::Rewritten { allocate: false }),
    ];

    pub fn name(self) -> &'static str {
        let found = Kind::ALL.iter().find(|(_, kind)| *kind == self);
        found.map_or("", |(name, _)| name)
    }

    /// Whether it asks which interface a packet came in on.
    pub fn asks_interfaces(self) -> bool {
        matches!(self, Kind::Included | Kind::Kubernetes)
    }
}

/// The tables of interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    IncludedV4,
    IncludedV6,
    Pods,
    Hosts,
}

impl Group {
    pub const ALL: [(&'static str, Group); 4] = [
        ("include-v4", Group::IncludedV4),
        ("include-v6", Group::IncludedV6),
        ("k8s", Group::Pods),
        ("host", Group::Hosts),
    ];
}

/// The source to translate to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Addresses as a pool takes them.
    pub addresses: Vec<String>,
    pub v4: bool,
    pub v6: bool,
    pub place: String,
}

/// A prefix, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub net: IpNet,
    /// As written, if that has host bits.
    pub written: Option<String>,
    pub by_source: bool,
    /// What takes its place.
    pub rewritten: Option<IpNet>,
    pub place: String,
}

/// An interface on which the translation is switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feature {
    pub interface: String,
    pub v4: bool,
    pub v6: bool,
    /// `set cnat feature`, which translates what leaves; the others translate what comes in.
    pub output: bool,
    pub place: String,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    pub source: Option<Source>,
    pub kind: Option<(Kind, String)>,
    /// Said in the words of 2020, whose SNAT always asks the prefixes.
    pub is_old: bool,
    pub groups: Vec<(Group, String, String)>,
    pub prefixes: Vec<Prefix>,
    pub features: Vec<Feature>,
}

/// `ADDRESS/LENGTH`, its network, and what was written if that has host bits.
fn net(text: &str) -> Result<(IpNet, Option<String>), Refusal> {
    let syntax = || {
        (
            "E-SYNTAX",
            format!("{text:?} is no prefix such as 10.0.0.0/8"),
        )
    };
    let net: IpNet = match text.parse() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<std::net::IpAddr>().map_err(|_| syntax())?),
    };
    let written = (net != net.trunc()).then(|| text.to_owned());
    Ok((net.trunc(), written))
}

/// Rules of other tables than the first have realms here, and nothing but `in` tells realms apart.
pub(super) fn first_table(words: &mut Words<'_>) -> Result<(), Refusal> {
    match words.take_number("fib").map_err(|why| ("E-SYNTAX", why))? {
        None | Some(0) => Ok(()),
        Some(table) => Err((
            "E-MATCH",
            format!(
                "fib {table} is a realm here: give its interfaces vrf = \"{table}\" and write the rule with in = those interfaces"
            ),
        )),
    }
}

impl Policy {
    /// `[IP4] [IP6] [IFACE]`.
    pub fn read_source(words: &mut Words<'_>, place: &str) -> Result<Source, Refusal> {
        let mut source = Source {
            addresses: Vec::new(),
            v4: false,
            v6: false,
            place: place.to_owned(),
        };
        let mut ends: Vec<At> = Vec::new();
        while let Some(word) = words.next() {
            let at = match host(word) {
                Some(address) => At::Address(address),
                None if word.contains(':') || word.starts_with(|c: char| c.is_ascii_digit()) => {
                    return Err(("E-SYNTAX", format!("{word:?} is no address of a host")));
                }
                None => At::Interface {
                    name: word.to_owned(),
                    v6: false,
                },
            };
            ends.push(at);
        }
        for at in ends {
            let (v4, v6, text) = match at {
                At::Address(address) => (address.is_ipv4(), address.is_ipv6(), address.to_string()),
                At::Interface { name, .. } => (true, true, format!("interface:{name}")),
            };
            if v4 && source.v4 || v6 && source.v6 {
                let text = "a policy has one address of each family, or an interface";
                return Err(("E-SYNTAX", text.to_owned()));
            }
            source.v4 |= v4;
            source.v6 |= v6;
            source.addresses.push(text);
        }
        match source.addresses.is_empty() {
            true => Err(("E-SYNTAX", "no address".to_owned())),
            false => Ok(source),
        }
    }

    /// `PFX [src] [rw A] [fib N]`.
    pub fn read_prefix(words: &mut Words<'_>, place: &str) -> Result<Prefix, Refusal> {
        let (net, written) = net(words.next().unwrap_or_default())?;
        let by_source = words.take("src");
        let mut rewritten = None;
        if words.take("rw") {
            let text = words.next().unwrap_or_default();
            let address = host(text).filter(|address| address.is_ipv4() == net.addr().is_ipv4());
            let address = address.ok_or_else(|| {
                (
                    "E-SYNTAX",
                    format!("rw {text:?} is no address of the prefix's family"),
                )
            })?;
            let to = IpNet::new(address, net.prefix_len());
            rewritten = to.ok().map(|to| to.trunc());
        }
        first_table(words)?;
        Ok(Prefix {
            net,
            written,
            by_source,
            rewritten,
            place: place.to_owned(),
        })
    }

    /// The interfaces of a group.
    pub fn group(&self, wanted: Group) -> Vec<String> {
        let of = self.groups.iter().filter(|(group, ..)| *group == wanted);
        of.map(|(_, interface, _)| interface.clone()).collect()
    }

    /// Which flows are translated, as far as it is said.
    pub fn kind(&self) -> Kind {
        self.kind.as_ref().map_or(Kind::All, |(kind, _)| *kind)
    }

    /// Whether anything was said about SNAT.
    pub fn is_used(&self) -> bool {
        self.source.is_some()
            || self.kind.is_some()
            || !self.prefixes.is_empty()
            || !self.groups.is_empty()
    }

    /// Interfaces on which it is switched on for a family.
    pub fn switched_on(&self, v6: bool) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for feature in self
            .features
            .iter()
            .filter(|f| if v6 { f.v6 } else { f.v4 })
        {
            if !names.contains(&feature.interface) {
                names.push(feature.interface.clone());
            }
        }
        names
    }

    /// The static mappings that rewrites of destinations and sources make; two that mirror each other are one.
    pub fn mappings(&self) -> Vec<Mapping> {
        let mut found: Vec<Mapping> = Vec::new();
        for prefix in &self.prefixes {
            let Some(to) = prefix.rewritten else { continue };
            let (external, internal, direction) = match prefix.by_source {
                true => (to, prefix.net, "out"),
                false => (prefix.net, to, "in"),
            };
            let mirror = found.iter_mut().find(|m| {
                m.external == external && m.internal == internal && m.direction != direction
            });
            match mirror {
                Some(mapping) => mapping.direction = "both",
                None => found.push(Mapping {
                    external,
                    internal,
                    direction,
                    place: prefix.place.clone(),
                }),
            }
        }
        found
    }
}

/// A `[[static-nat]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub external: IpNet,
    pub internal: IpNet,
    pub direction: &'static str,
    pub place: String,
}

impl Mapping {
    pub fn table(&self) -> Table {
        let table = Table::new("[[static-nat]]")
            .text("external", &self.external.to_string())
            .text("internal", &self.internal.to_string());
        let table = match self.direction {
            "both" => table,
            direction => table.text("direction", direction),
        };
        table.text("origin", &format!("import:{}", self.place))
    }

    /// Whether natgate would find the two in each other's way.
    pub fn overlaps(&self, other: &Mapping) -> bool {
        let meet = |a: IpNet, b: IpNet| a.contains(&b) || b.contains(&a);
        meet(self.external, other.external) || meet(self.internal, other.internal)
    }
}
