//! What a new configuration changes: in words for the operator, and what of it needs a restart.

use std::collections::{BTreeSet, HashMap};

use crate::config::validated::{Label, Validated};
use crate::control::api::{Failure, FailureKind};

/// Keys whose change needs a restart, each with what it was and would be. Empty: everything can change live.
pub fn needs_restart(old: &Validated, new: &Validated) -> Vec<String> {
    let mut keys = Keys::default();
    let (a, b) = (&old.system, &new.system);
    keys.compare("system.workers", &a.workers, &b.workers);
    keys.compare("system.cores", &a.cores, &b.cores);
    keys.compare("system.hugepages", &a.hugepages, &b.hugepages);
    keys.compare("system.memory", &a.memory_bytes, &b.memory_bytes);
    keys.compare("system.sessions", &a.sessions, &b.sessions);
    if a.sessions == b.sessions {
        // Derived from the sessions unless given.
        keys.compare("system.subscribers", &a.subscribers, &b.subscribers);
    }
    keys.compare("system.fragments", &a.fragments, &b.fragments);
    keys.compare("system.idle", &a.idle, &b.idle);
    keys.compare("system.eal_args", &a.eal_args, &b.eal_args);
    keys.compare("system.instance", &a.instance, &b.instance);
    keys.compare("api.socket", &old.api.socket, &new.api.socket);
    keys.compare("api.group", &old.api.group, &new.api.group);
    keys.compare("metrics.listen", &old.metrics.listen, &new.metrics.listen);
    ports(old, new, &mut keys);
    keys.0
}

fn ports(old: &Validated, new: &Validated, keys: &mut Keys) {
    let names = |config: &Validated| {
        config
            .ports
            .iter()
            .map(|p| p.label.name.clone())
            .collect::<Vec<_>>()
    };
    if names(old) != names(new) {
        keys.compare("port", &names(old), &names(new));
        return;
    }
    for (a, b) in old.ports.iter().zip(&new.ports) {
        let key = |key: &str| format!("port[{}].{key}", a.label.name);
        keys.compare(&key("device"), &a.device.to_string(), &b.device.to_string());
        keys.compare(&key("queues"), &a.queues, &b.queues);
        keys.compare(&key("mtu"), &a.mtu, &b.mtu);
        keys.compare(&key("mac"), &a.mac, &b.mac);
        keys.compare(&key("promiscuous"), &a.promiscuous, &b.promiscuous);
        keys.compare(&key("descriptors"), &a.descriptors, &b.descriptors);
    }
}

/// The failure that names the keys.
pub fn restart_failure(what: &str, keys: Vec<String>) -> Failure {
    Failure::new(
        FailureKind::Refused,
        what,
        "some of what changed is fixed while natgate runs",
    )
    .hint("nothing was changed; restart natgate for these, or put them back")
    .report(keys)
}

#[derive(Default)]
struct Keys(Vec<String>);

impl Keys {
    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, key: &str, old: &T, new: &T) {
        if old != new {
            self.0.push(format!("{key}: {old:?} now, {new:?} wanted"));
        }
    }
}

/// What changes live, a line for each object.
pub fn describe(old: &Validated, new: &Validated) -> Vec<String> {
    let mut changes = Vec::new();
    if old.timeouts != new.timeouts {
        changes.push("timeouts changed".to_owned());
    }
    let (a, b) = (old.system.limits, new.system.limits);
    for (key, a, b) in [
        ("sessions_per_host", a.sessions, b.sessions),
        ("new_sessions_per_host", a.new_per_second, b.new_per_second),
        ("half_open_per_host", a.half_open, b.half_open),
    ] {
        if a != b {
            changes.push(format!("system.{key} {a} -> {b}"));
        }
    }
    if a.error != b.error {
        changes.push("system.quota_error changed".to_owned());
    }
    if old.system.tcp_pickup != new.system.tcp_pickup {
        changes.push(format!("system.tcp_pickup {}", new.system.tcp_pickup));
    }
    for name in old
        .sets
        .keys()
        .chain(new.sets.keys())
        .collect::<BTreeSet<_>>()
    {
        if old.sets.get(name) != new.sets.get(name) {
            changes.push(format!("set {name} changed"));
        }
    }
    if old.log != new.log {
        changes.push("log changed".to_owned());
    }
    let (default, established) = (old.filter.default, old.filter.established);
    if (default, established) != (new.filter.default, new.filter.established) {
        changes.push("filter defaults changed".to_owned());
    }
    objects(
        "filter.rule",
        &old.filter.rules,
        &new.filter.rules,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "interface",
        &old.interfaces,
        &new.interfaces,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "route",
        &old.routes,
        &new.routes,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "neighbour",
        &old.neighbours,
        &new.neighbours,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "pool",
        &old.pools,
        &new.pools,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "exempt",
        &old.exempts,
        &new.exempts,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "source-nat",
        &old.source_nat,
        &new.source_nat,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "static-nat",
        &old.static_nat,
        &new.static_nat,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "port-forward",
        &old.port_forwards,
        &new.port_forwards,
        |x| &mut x.label,
        &mut changes,
    );
    objects(
        "service",
        &old.services,
        &new.services,
        |x| &mut x.label,
        &mut changes,
    );
    changes
}

/// Compares two lists by name. Where an object is written, and its comment, make no difference.
fn objects<T: Clone + PartialEq>(
    kind: &str,
    old: &[T],
    new: &[T],
    label: impl Fn(&mut T) -> &mut Label,
    changes: &mut Vec<String>,
) {
    let named = |list: &[T]| -> Vec<(String, T)> {
        let strip = |object: &T| {
            let mut object = object.clone();
            let label = label(&mut object);
            (std::mem::take(label).name, object)
        };
        list.iter().map(strip).collect()
    };
    let (old, new) = (named(old), named(new));
    let index = |list: &[(String, T)]| -> HashMap<String, T> { list.iter().cloned().collect() };
    let (old_by_name, new_by_name) = (index(&old), index(&new));
    for (name, _) in old
        .iter()
        .filter(|(name, _)| !new_by_name.contains_key(name))
    {
        changes.push(format!("{kind} {name} removed"));
    }
    for (name, object) in &new {
        match old_by_name.get(name) {
            None => changes.push(format!("{kind} {name} added")),
            Some(before) if before != object => changes.push(format!("{kind} {name} changed")),
            Some(_) => {}
        }
    }
    let kept = |list: &[(String, T)], other: &HashMap<String, T>| -> Vec<String> {
        let both = list.iter().filter(|(name, _)| other.contains_key(name));
        both.map(|(name, _)| name.clone()).collect()
    };
    if kept(&old, &new_by_name) != kept(&new, &old_by_name) {
        changes.push(format!("{kind} order changed"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"schema = 1
[system]
workers = 1
[[port]]
name = "a"
device = "null:"
[[interface]]
name = "lan"
port = "a"
address = ["10.0.0.1/24"]
[[pool]]
name = "p"
addresses = ["192.0.2.1"]
block = { size = 64 }
[[source-nat]]
name = "x"
in = "lan"
via = "pool:p"
[[source-nat]]
name = "y"
via = "none"
"#;

    fn parse(text: &str) -> Validated {
        crate::config::parse_str("test", text).unwrap().validated
    }

    #[test]
    fn what_needs_a_restart_is_named_key_by_key() {
        let new = BASE
            .replace("workers = 1", "workers = 2\nsessions = 5000")
            .replace("null:", "tap:t0");
        let keys = needs_restart(&parse(BASE), &parse(&new));
        for key in [
            "system.workers: 1 now, 2",
            "system.sessions",
            "port[a].device",
        ] {
            assert!(keys.iter().any(|k| k.starts_with(key)), "{key} in {keys:?}");
        }
        assert!(needs_restart(&parse(BASE), &parse(BASE)).is_empty());
    }

    #[test]
    fn every_fixed_key_is_named_alone() {
        let base = &BASE.replace("workers = 1", "workers = 2");
        let system = |key: &str| base.replace("workers = 2", &format!("workers = 2\n{key}"));
        let port = |key: &str| base.replace("\"null:\"", &format!("\"null:\"\n{key}"));
        let table = |text: &str| format!("{base}{text}\n");
        let rows = [
            ("system.workers", base.replace("workers = 2", "workers = 3")),
            ("system.cores", system("cores = [0, 1]")),
            ("system.hugepages", system("hugepages = false")),
            ("system.memory", system("memory = \"2GiB\"")),
            ("system.sessions", system("sessions = 5000")),
            ("system.subscribers", system("subscribers = 77")),
            ("system.fragments", system("fragments = 77")),
            ("system.idle", system("idle = \"poll\"")),
            ("system.eal_args", system("eal_args = [\"-v\"]")),
            ("system.instance", system("instance = \"other\"")),
            ("api.socket", table("[api]\nsocket = \"/run/other.sock\"")),
            ("api.group", table("[api]\ngroup = \"adm\"")),
            (
                "metrics.listen",
                table("[metrics]\nlisten = \"127.0.0.1:1\""),
            ),
            ("port", table("[[port]]\nname = \"b\"\ndevice = \"null:\"")),
            ("port[a].device", base.replace("null:", "tap:t0")),
            ("port[a].queues", port("queues = 2")),
            ("port[a].mtu", port("mtu = 1400")),
            ("port[a].mac", port("mac = \"02:00:00:00:00:01\"")),
            ("port[a].promiscuous", port("promiscuous = true")),
            ("port[a].descriptors", port("descriptors = 512")),
        ];
        for (key, text) in rows {
            let named = needs_restart(&parse(base), &parse(&text));
            let of = named.iter().filter_map(|line| line.split(": ").next());
            assert!(of.clone().any(|k| k == key), "{key} in {named:?}");
            // The socket's default name and the queues' default number follow from other keys.
            let follows = ["api.socket", "port[a].queues", "system.subscribers"];
            let others: Vec<_> = of.filter(|k| *k != key && !follows.contains(k)).collect();
            assert!(others.is_empty(), "{key} drags {others:?} along");
        }
    }

    #[test]
    fn live_changes_are_told_by_name_and_places_do_not_count() {
        let moved = format!("# a comment\n\n{BASE}");
        assert_eq!(describe(&parse(BASE), &parse(&moved)), [""; 0]);
        let new = BASE
            .replace("name = \"y\"", "name = \"z\"")
            .replace("192.0.2.1", "192.0.2.1-192.0.2.4");
        let new = format!("{new}[timeouts]\nudp = \"6m\"\n");
        let changes = describe(&parse(BASE), &parse(&new));
        assert_eq!(
            changes,
            [
                "timeouts changed",
                "pool p changed",
                "source-nat y removed",
                "source-nat z added"
            ]
        );
        let swapped = BASE.replace(
            "name = \"x\"\nin = \"lan\"\nvia = \"pool:p\"",
            "name = \"y\"\nvia = \"none\"",
        );
        let swapped = swapped.replacen("name = \"y\"\nvia = \"none\"\n", "@", 1);
        let swapped = swapped.replace(
            "name = \"y\"\nvia = \"none\"",
            "name = \"x\"\nin = \"lan\"\nvia = \"pool:p\"",
        );
        let swapped = swapped.replace('@', "name = \"y\"\nvia = \"none\"\n");
        assert_eq!(
            describe(&parse(BASE), &parse(&swapped)),
            ["source-nat order changed"]
        );
    }
}
