//! `ACL` policies of Windows nodes as rules of the filter.
//!
//! "Out" is what the endpoint sends: its own addresses and ports are the local ones.

use super::emit::Table;
use super::windows::{find, net_of};
use crate::config::document::{Node, Value};

/// Settings that are read, or mean nothing to a gateway.
const KNOWN: &[&str] = &[
    "type",
    "action",
    "direction",
    "protocol",
    "protocols",
    "localaddresses",
    "remoteaddresses",
    "localports",
    "remoteports",
    "priority",
    "id",
    "ruletype",
];

/// A rule with its priority.
///
/// # Errors
/// Why it has no equivalent.
pub(super) fn rule(settings: &Node) -> Result<(u64, Table), String> {
    let word = |key: &str| find(settings, key).map(text).unwrap_or_default();
    for (key, _) in settings.entries() {
        if !KNOWN.contains(&key.text.to_ascii_lowercase().as_str()) {
            return Err(format!("{} has no equivalent", key.text));
        }
    }
    let action = match word("Action").to_ascii_lowercase().as_str() {
        "allow" => "accept",
        "block" => "drop",
        other => return Err(format!("the action {other:?} has no equivalent")),
    };
    if !word("Direction").eq_ignore_ascii_case("out") {
        return Err(
            "only what endpoints send (Direction Out) passes a gateway's filter".to_owned(),
        );
    }
    let protocols = [list(&word("Protocol")), list(&word("Protocols"))].concat();
    let number = |p: &String| p.parse::<u8>().is_ok();
    if !protocols.iter().all(number) {
        return Err(format!("{} are no protocol numbers", protocols.join(",")));
    }
    let (sport, dport) = (list(&word("LocalPorts")), list(&word("RemotePorts")));
    let asks_ports = !sport.is_empty() || !dport.is_empty();
    let readable = !protocols.is_empty() && protocols.iter().all(|p| p == "6" || p == "17");
    if asks_ports && !readable {
        return Err("ports without the protocol 6 or 17".to_owned());
    }
    let port = |text: &String| {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u16>().ok();
        number(low)
            .zip(number(high))
            .is_some_and(|(low, high)| low <= high)
    };
    if !sport.iter().chain(&dport).all(port) {
        return Err("ports must be numbers or ranges of them".to_owned());
    }
    let addresses = |key: &str| -> Result<Vec<String>, String> {
        let one = |text: &String| {
            let (net, _) = net_of(text).ok_or(format!("{key}: {text:?} is no prefix"))?;
            Ok(net.to_string())
        };
        list(&word(key)).iter().map(one).collect()
    };
    let (src, dst) = (addresses("LocalAddresses")?, addresses("RemoteAddresses")?);
    let family = |list: &[String], v6: bool| list.iter().any(|net| net.contains(':') == v6);
    let mixed =
        family(&src, true) && family(&dst, false) || family(&src, false) && family(&dst, true);
    if mixed {
        return Err("addresses of both families".to_owned());
    }
    let priority = match word("Priority").as_str() {
        "" => u64::from(u16::MAX),
        text => text
            .parse()
            .map_err(|_| format!("the priority {text:?} is no number"))?,
    };
    let rule = Table::new("[[filter.rule]]")
        .values("src", &src)
        .values("dst", &dst)
        .values("proto", &protocols)
        .values("sport", &sport)
        .values("dport", &dport)
        .text("action", action);
    Ok((priority, rule))
}

/// A value as it is written.
fn text(value: &Node) -> String {
    match &value.value {
        Value::Text(text) | Value::Number(text) => text.clone(),
        _ => String::new(),
    }
}

/// Elements between commas.
fn list(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
