//! `cnat translation add`: a service and its backends.

use std::net::IpAddr;

use super::super::emit::Table;
use super::super::host;
use super::super::report::Level;
use super::words::Words;
use crate::config::nearest;

/// Why a statement is left out: a code, and a text.
pub(super) type Refusal = (&'static str, String);

/// What VPP takes for a protocol, and what it is called here.
const PROTOCOLS: &[&str] = &["tcp", "udp", "sctp", "icmp", "icmp6"];

/// An address and a port as a command names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub at: At,
    /// `None`: not given, or 0.
    pub port: Option<u16>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    Address(IpAddr),
    /// An interface's first address of a family.
    Interface {
        name: String,
        v6: bool,
    },
}

/// A path: what becomes of a flow's source and destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub source: Option<IpAddr>,
    pub to: IpAddr,
    pub port: Option<u16>,
    pub direct: bool,
    pub weight: u32,
}

/// A translation that can be said.
#[derive(Clone, Debug)]
pub(super) struct Translation {
    pub at: Endpoint,
    pub real: bool,
    pub proto: &'static str,
    /// `None`: the command does not say.
    pub maglev: Option<bool>,
    pub paths: Vec<Path>,
    /// More to say about it.
    pub remarks: Vec<(Level, &'static str, String)>,
}

fn syntax(text: impl Into<String>) -> Refusal {
    ("E-SYNTAX", text.into())
}

impl Endpoint {
    /// `IP [PORT]` or `IFACE [v6] [PORT]`.
    fn read(words: &mut Words<'_>, what: &str) -> Result<Endpoint, Refusal> {
        let text = words.next().unwrap_or_default();
        let looks_like_address =
            text.contains(':') || text.starts_with(|c: char| c.is_ascii_digit());
        let at = match host(text) {
            Some(address) => At::Address(address),
            None if text.is_empty() || looks_like_address || ["->", ":nonat"].contains(&text) => {
                return Err(syntax(format!("{what}: {text:?} is no address of a host")));
            }
            None => At::Interface {
                name: text.to_owned(),
                v6: words.take("v6"),
            },
        };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let port = match words.peek().filter(|text| is_number(text)) {
            None => 0,
            Some(digits) => {
                words.next();
                let port = digits.parse::<u16>();
                port.map_err(|_| ("E-PORTS", format!("{what}: {digits} is no port, 0–65535")))?
            }
        };
        Ok(Endpoint {
            at,
            port: (port != 0).then_some(port),
        })
    }

    /// How the endpoint stands in a report.
    pub fn shown(&self) -> String {
        let port = self
            .port
            .map_or_else(String::new, |port| format!(":{port}"));
        match &self.at {
            At::Address(IpAddr::V4(address)) => format!("{address}{port}"),
            At::Address(IpAddr::V6(address)) => format!("[{address}]{port}"),
            At::Interface { name, .. } => {
                let port = self
                    .port
                    .map_or_else(String::new, |port| format!(" port {port}"));
                format!("address=\"interface:{name}\"{port}")
            }
        }
    }
}

impl Translation {
    /// Reads what follows `cnat translation [add]`.
    pub fn read(words: &mut Words<'_>) -> Result<Translation, Refusal> {
        let mut at = None;
        let mut proto = "tcp";
        let mut maglev = None;
        let mut paths: Vec<Path> = Vec::new();
        let mut remarks = Vec::new();
        while let Some(word) = words.next() {
            match word {
                "proto" => proto = protocol(words.next().unwrap_or_default())?,
                "vip" | "real" if at.is_none() => {
                    at = Some((Endpoint::read(words, word)?, word == "real"));
                }
                "vip" | "real" => return Err(syntax("a translation has one address")),
                "to" => paths.push(path(words)?),
                "maglev" | "default" => maglev = Some(word == "maglev"),
                "noclient" | "no-client" => remarks.push((
                    Level::Note,
                    "",
                    format!("{word}: services are asked on every interface here"),
                )),
                other => return Err(unknown(other)),
            }
        }
        let (at, real) = at.ok_or_else(|| syntax("neither vip nor real says which address"))?;
        if paths.is_empty() {
            return Err(syntax("no backend (to ->ADDRESS PORT)"));
        }
        let mut translation = Translation {
            at,
            real,
            proto,
            maglev,
            paths,
            remarks,
        };
        translation.fits()?;
        Ok(translation)
    }

    /// What natgate's language cannot say of it.
    fn fits(&mut self) -> Result<(), Refusal> {
        let v6 = match &self.at.at {
            At::Address(address) => address.is_ipv6(),
            At::Interface { v6, .. } => *v6,
        };
        if let Some(path) = self.paths.iter().find(|path| path.to.is_ipv6() != v6) {
            let text = format!("{} is of another address family than the service", path.to);
            return Err(("E-MATCH", text));
        }
        let differs = |path: &&Path| path.source.is_some_and(|s| s.is_ipv6() != v6);
        if let Some(source) = self.paths.iter().find(differs).and_then(|p| p.source) {
            let text = format!("{source} is of another address family than the service");
            return Err(("E-MATCH", text));
        }
        if self.proto.starts_with("icmp") {
            return Err((
                "E-MATCH",
                "icmp cannot be a service (ping = true lets an address answer)".to_owned(),
            ));
        }
        for mut path in std::mem::take(&mut self.paths) {
            let moved = path.port.is_some() && path.port != self.at.port;
            if path.direct && (moved || path.source.is_some()) {
                let text = format!(
                    "{}: with :nonat neither port nor source is rewritten",
                    path.to
                );
                self.remarks.push((Level::Note, "", text));
                path.port = path.port.filter(|_| !moved);
                path.source = None;
            }
            add(path, &mut self.paths)?;
        }
        Ok(())
    }

    /// The service; `address` is where it stands, in natgate's words.
    pub fn table(&self, address: &str, source: &str, origin: &str) -> Table {
        let mut table = Table::new("[[service]]").text("address", address);
        if self.real {
            table = table.text("kind", "real");
        }
        table = table.text("proto", self.proto);
        if let Some(port) = self.at.port {
            table = table.raw("port", &port.to_string());
        }
        let lb = if self.is_maglev() { "maglev" } else { "hash" };
        let backends: Vec<String> = self.paths.iter().map(Path::text).collect();
        table
            .text("lb", lb)
            .text("source", source)
            .raw("backends", &format!("[{}]", backends.join(", ")))
            .text("origin", origin)
    }

    pub fn is_maglev(&self) -> bool {
        self.maglev == Some(true)
    }

    /// The line of the report.
    pub fn shown(&self) -> String {
        let what = if self.real {
            "service real "
        } else {
            "service "
        };
        let mut text = format!("{what}{}/{}", self.at.shown(), self.proto);
        if self.maglev.is_some() {
            text += if self.is_maglev() {
                " lb=maglev"
            } else {
                " lb=hash"
            };
        }
        match &self.paths[..] {
            [one] => {
                text += &format!(", 1 backend {}", one.place());
                if let Some(source) = one.source {
                    text += &format!(" source={source}");
                }
            }
            many => text += &format!(", {} backends", many.len()),
        }
        if self.paths.iter().any(|path| path.direct) {
            let own = match &self.at.at {
                At::Address(address) => address.to_string(),
                At::Interface { name, .. } => format!("the address of {name}"),
            };
            text +=
                &format!(" forward_only=true (direct server return; the backend must own {own})");
        }
        text
    }
}

impl Path {
    fn place(&self) -> String {
        let at = Endpoint {
            at: At::Address(self.to),
            port: self.port,
        };
        match (self.to, self.port) {
            (IpAddr::V6(address), None) => address.to_string(),
            _ => at.shown(),
        }
    }

    fn text(&self) -> String {
        let mut keys = vec![format!("to = {:?}", self.place())];
        if let Some(source) = self.source {
            keys.push(format!("source = \"{source}\""));
        }
        if self.weight > 1 {
            keys.push(format!("weight = {}", self.weight));
        }
        if self.direct {
            keys.push("forward_only = true".to_owned());
        }
        format!("{{ {} }}", keys.join(", "))
    }
}

fn protocol(text: &str) -> Result<&'static str, Refusal> {
    let known = PROTOCOLS
        .iter()
        .find(|known| known.eq_ignore_ascii_case(text));
    known.copied().ok_or_else(|| {
        let hint = nearest(text, PROTOCOLS[..3].iter().copied());
        let hint = hint.map_or_else(String::new, |best| format!(" (did you mean {best:?}?)"));
        (
            "E-UNKNOWN",
            format!("proto {text:?} cannot be a service{hint}"),
        )
    })
}

fn unknown(word: &str) -> Refusal {
    let known = ["proto", "vip", "real", "to", "maglev", "default"];
    let hint =
        nearest(word, known).map_or_else(String::new, |best| format!(" (did you mean {best:?}?)"));
    let text = format!("cnat translation add knows no {word:?}{hint}");
    ("E-UNKNOWN", text)
}

/// `[SRC [PORT]]->DST [PORT][:nonat]`.
fn path(words: &mut Words<'_>) -> Result<Path, Refusal> {
    let source = match words.peek() {
        Some("->") => None,
        _ => Some(Endpoint::read(words, "the source of a backend")?),
    };
    if !words.take("->") {
        return Err(syntax("a backend is written ->ADDRESS PORT"));
    }
    let to = Endpoint::read(words, "the backend")?;
    let own = |at: At, what: &str| match at {
        At::Address(address) => Ok(address),
        At::Interface { name, .. } => {
            let text = format!("{what} is the interface {name}: write its address");
            Err(("E-MATCH", text))
        }
    };
    let source = match source {
        None => None,
        Some(Endpoint {
            port: Some(port), ..
        }) => {
            let text =
                format!("source port {port}: all flows of a backend from one port cannot be said");
            return Err(("E-PORTS", text));
        }
        Some(source) => Some(own(source.at, "the source of a backend")?),
    };
    Ok(Path {
        source,
        to: own(to.at, "a backend")?,
        port: to.port,
        direct: words.take(":nonat"),
        weight: 1,
    })
}

/// A backend listed again gets a larger share, as it has more buckets in VPP.
fn add(path: Path, paths: &mut Vec<Path>) -> Result<(), Refusal> {
    let rewritten = |path: &Path| path.port.filter(|_| !path.direct);
    let same = |known: &&mut Path| known.to == path.to && rewritten(known) == rewritten(&path);
    match paths.iter_mut().find(same) {
        None => paths.push(path),
        Some(known) if (known.source, known.direct) != (path.source, path.direct) => {
            let text = format!("{} is listed twice, with different rewrites", path.place());
            return Err(("E-MATCH", text));
        }
        Some(known) => known.weight += path.weight,
    }
    Ok(())
}
