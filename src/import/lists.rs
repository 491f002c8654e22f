//! The lists of ip-masq-agent and its dialects: destinations that are not masqueraded, everything else is.

use super::emit::{Table, quoted};
use super::{Input, Options, Report};
use crate::config::Validated;
use crate::config::exemptions::content::{self, Content, Listed};
use crate::config::exemptions::{DEFAULT_LIMIT, Format, LINK_LOCAL, RESERVED, RFC1918};

/// Imports the files of one agent.
pub(super) fn import(
    format: Format,
    inputs: &[Input],
    options: &Options,
    report: &mut Report,
) -> Result<Vec<Table>, String> {
    let contents = contents(format, inputs, options, report);
    let live = match (format, inputs) {
        (Format::Azure, [first, ..]) => first
            .path
            .as_ref()
            .and_then(|p| p.parent())
            .map(std::path::Path::to_path_buf),
        (_, [only]) => only.path.clone(),
        _ => None,
    };
    let live = live.and_then(|path| std::path::absolute(path).ok());
    let origin = inputs.first().map_or("", |input| input.name.as_str());
    let source = Source {
        format,
        path: live.map_or_else(
            || format.default_path().to_owned(),
            |p| p.display().to_string(),
        ),
        origin: format!("import:{origin}"),
    };
    tables(&source, &contents, options, report)
}

/// Where lists come from.
pub(super) struct Source {
    pub format: Format,
    /// What `--live` follows.
    pub path: String,
    pub origin: String,
}

/// What each file says; mistakes go into the report.
pub(super) fn contents(
    format: Format,
    inputs: &[Input],
    options: &Options,
    report: &mut Report,
) -> Vec<(String, Content)> {
    let mut contents = Vec::new();
    for input in inputs {
        match content::parse(&input.text, format) {
            Ok(content) => {
                check(format, &input.name, &content, options, report);
                contents.push((input.name.clone(), content));
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    report.refuse(&place(&input.name, mistake.line), mistake.text);
                }
            }
        }
    }
    contents
}

fn place(name: &str, line: usize) -> String {
    match line {
        0 => name.to_owned(),
        line => format!("{name}:{line}"),
    }
}

/// What makes a file invalid as a whole, although each line can be read.
fn check(format: Format, name: &str, content: &Content, options: &Options, report: &mut Report) {
    let listed = content.prefixes.as_ref();
    let count = listed.map_or_else(|| defaults(format, content, options).0.len(), Vec::len);
    let limit = content.limit.unwrap_or(DEFAULT_LIMIT);
    if format != Format::Cilium && count > limit {
        report.refuse(
            name,
            format!("{count} prefixes, at most {limit} are allowed (link-local ones not counted)"),
        );
    }
    for prefix in listed.into_iter().flatten().chain(&content.force) {
        if prefix.net.addr().is_ipv6() && !options.enable_ipv6 {
            let text = format!(
                "{} is an IPv6 prefix, but IPv6 is off (--enable-ipv6)",
                prefix.net
            );
            report.refuse(&place(name, prefix.line), text);
        }
    }
}

/// The list of a file without one, and its name.
fn defaults(
    format: Format,
    content: &Content,
    options: &Options,
) -> (&'static [&'static str], &'static str) {
    match format {
        Format::IpMasqAgent if options.all_reserved => (RESERVED, "reserved"),
        Format::IpMasqAgent => (RFC1918, "rfc1918"),
        Format::Cilium if content.empty => (RESERVED, "reserved"),
        Format::Cilium | Format::Azure => (&[], "empty"),
    }
}

/// The exemption and the rules that translate the rest.
pub(super) fn tables(
    source: &Source,
    contents: &[(String, Content)],
    options: &Options,
    report: &mut Report,
) -> Result<Vec<Table>, String> {
    if report.invalid {
        return Ok(Vec::new());
    }
    let inside = options.inside()?;
    let mut list: Vec<String> = link_local(contents, options);
    let mut force = Vec::new();
    if contents.is_empty() {
        report.warn(
            &source.path,
            "W-DEFAULTS",
            format!(
                "no file found, the default list is used: {}",
                RFC1918.join(", ")
            ),
        );
        list.extend(RFC1918.iter().map(|p| (*p).to_owned()));
    }
    for (name, content) in contents {
        list.extend(prefixes(source.format, name, content, options, report));
        force.extend(forced(name, content, options, report));
        for remark in content.remarks.iter().filter(|r| !known_request(&r.text)) {
            report.warn(&place(name, remark.line), "", remark.text.clone());
        }
        words(name, content, options, report);
    }
    let mut seen = Vec::new();
    list.retain(|prefix| {
        !seen.contains(prefix) && {
            seen.push(prefix.clone());
            true
        }
    });
    let mut tables = Vec::new();
    let mut exempt = Table::new("[[exempt]]")
        .text("name", "ip-masq-agent")
        .list("in", &inside);
    if options.live {
        exempt = exempt.raw("file", &file(source, contents, options));
    } else if !list.is_empty() {
        exempt = exempt.list("dst", &list);
    }
    if !force.is_empty() {
        exempt = exempt.list("force", &force);
    }
    if options.live || !list.is_empty() || !force.is_empty() {
        tables.push(exempt.text("origin", &source.origin));
    }
    // An agent without IPv6 leaves IPv6 alone.
    let both = options.base.as_ref().is_none_or(Validated::has_ipv6);
    let family = (both && !options.enable_ipv6).then_some("0.0.0.0/0");
    let rule = || {
        let rule = Table::new("[[source-nat]]")
            .values("in", &inside)
            .maybe("src", family)
            .text("via", "interface");
        match options.keep_ports {
            true => rule,
            false => rule.text("select", "random"),
        }
    };
    if let Some(ports) = options.to_ports.as_deref() {
        match to_ports(ports) {
            Ok(()) => tables.push(
                rule()
                    .list("proto", &["tcp", "udp", "sctp"])
                    .text("ports", ports)
                    .text("origin", &source.origin),
            ),
            Err(why) => report.reject("--to-ports", "E-PORTS", why),
        }
    }
    tables.push(rule().text("origin", &source.origin));
    Ok(tables)
}

fn link_local(contents: &[(String, Content)], options: &Options) -> Vec<String> {
    let v4 = !contents.iter().any(|(_, c)| c.link_local);
    let v6 = options.enable_ipv6 && !contents.iter().any(|(_, c)| c.link_local_v6);
    let both = [(v4, LINK_LOCAL.0), (v6, LINK_LOCAL.1)];
    both.iter()
        .filter(|(on, _)| *on)
        .map(|(_, p)| (*p).to_owned())
        .collect()
}

/// The prefixes of a file, each with its line in the report.
fn prefixes(
    format: Format,
    name: &str,
    content: &Content,
    options: &Options,
    report: &mut Report,
) -> Vec<String> {
    let Some(listed) = &content.prefixes else {
        let (list, which) = defaults(format, content, options);
        let list: Vec<String> = list.iter().map(|p| (*p).to_owned()).collect();
        let shown = if list.is_empty() {
            "nothing".to_owned()
        } else {
            list.join(", ")
        };
        report.warn(
            name,
            "W-DEFAULTS",
            format!("nonMasqueradeCIDRs is absent, the default list ({which}) is used: {shown}"),
        );
        return list;
    };
    for (at, prefix) in listed.iter().enumerate() {
        let place = place(name, prefix.line);
        match &prefix.written {
            Some(written) => report.warn(
                &place,
                "W-HOSTBITS",
                format!("exempt {} (given {written})", prefix.net),
            ),
            None => report.ok(&place, format!("exempt {}", prefix.net)),
        }
        let around = listed
            .iter()
            .enumerate()
            .find(|(other, o)| *other != at && covers(o, prefix, *other < at));
        if let Some((_, around)) = around {
            report.note(
                &place,
                "",
                format!(
                    "{} lies in {} of line {}",
                    prefix.net, around.net, around.line
                ),
            );
        }
    }
    if listed.is_empty() {
        report.ok(
            name,
            "nonMasqueradeCIDRs is empty: everything but link-local is translated",
        );
    }
    listed.iter().map(|p| p.net.to_string()).collect()
}

fn covers(outer: &Listed, inner: &Listed, earlier: bool) -> bool {
    outer.net.contains(&inner.net) && (outer.net != inner.net || earlier)
}

/// `masqueradeCIDRs`: asked for, never built; the original translates them only where the list does not say otherwise.
fn forced(name: &str, content: &Content, options: &Options, report: &mut Report) -> Vec<String> {
    for prefix in &content.force {
        let place = place(name, prefix.line);
        match options.accept_masquerade_cidrs {
            true => report.warn(
                &place,
                "",
                format!("force {}: the original ignores this key", prefix.net),
            ),
            false => report.warn(
                &place,
                "",
                format!(
                    "{}: no agent reads this key; ignored (--accept-masquerade-cidrs takes it)",
                    prefix.net
                ),
            ),
        }
    }
    let taken = content
        .force
        .iter()
        .filter(|_| options.accept_masquerade_cidrs);
    taken.map(|p| p.net.to_string()).collect()
}

/// Such a request has lines of its own.
fn known_request(text: &str) -> bool {
    text.starts_with("masqueradeCIDRs") || text.starts_with("forceMasqueradeCIDRs")
}

/// The other keys.
fn words(name: &str, content: &Content, options: &Options, report: &mut Report) {
    if let Some(resync) = content.resync {
        let text = format!("resyncInterval {}", humantime::format_duration(resync));
        match options.live {
            true => report.ok(name, text),
            false => report.note(
                name,
                "",
                format!("{text}: the list is copied, not followed (--live follows the file)"),
            ),
        }
    }
    if content.link_local {
        report.ok(name, "masqLinkLocal: 169.254.0.0/16 is translated");
    }
    if content.link_local_v6 {
        report.ok(name, "masqLinkLocalIPv6: fe80::/10 is translated");
    }
    if let Some(limit) = content.limit {
        report.ok(name, format!("cidrLimit {limit}"));
    }
}

/// `file = …` for `--live`.
fn file(source: &Source, contents: &[(String, Content)], options: &Options) -> String {
    let mut keys = vec![format!("path = {}", quoted(&source.path))];
    if source.format != Format::IpMasqAgent {
        keys.push(format!("format = {}", quoted(source.format.name())));
    }
    if let Some(resync) = contents.iter().find_map(|(_, c)| c.resync) {
        let text = match resync.subsec_nanos() {
            0 => format!("{}s", resync.as_secs()),
            _ => format!("{}ms", resync.as_millis().max(1)),
        };
        keys.push(format!("resync = {}", quoted(&text)));
    }
    if let Some(limit) = contents.iter().find_map(|(_, c)| c.limit) {
        keys.push(format!("limit = {limit}"));
    }
    if options.all_reserved && source.format == Format::IpMasqAgent {
        keys.push("missing = \"reserved\"".to_owned());
    }
    format!("{{ {} }}", keys.join(", "))
}

/// The agent's `--to-ports`: `A-B,C`, without blanks.
fn to_ports(text: &str) -> Result<(), String> {
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|n| digits && *n > 0)
        };
        match (number(low), number(high)) {
            (Some(low), Some(high)) if low <= high => {}
            (Some(_), Some(_)) => return Err(format!("{part}: the end lies below the start")),
            _ => return Err(format!("{part:?} is no port or range of ports, 1–65535")),
        }
    }
    Ok(())
}
