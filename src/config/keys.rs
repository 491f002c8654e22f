//! Every key of the configuration language with its kind and default: the one list behind the check for misspelt
//! keys, the check of types, the defaults, and the test of `configs/default.toml`.

/// What may stand behind a key.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number within these bounds, inclusive.
    Int(i64, i64),
    /// A string.
    Text,
    /// A duration with units, `"5m"`.
    Duration,
    /// A size in bytes with unit, `"1GiB"`.
    Size,
    /// A string or number, or a list of them.
    List,
    /// A list of whole numbers from 0.
    Numbers,
    /// An inline table with these keys.
    Inline(&'static [Key]),
    /// A string, or an inline table with a string for each of [`PROTOCOLS`].
    PerProtocol,
    /// A list of tables within the table or object, with these keys.
    Tables(&'static [Key]),
    /// Part of the language, but of a later version.
    Later,
}

/// A key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What may stand behind it.
    pub kind: Kind,
    /// Its default as TOML. `None`: required, or absent means something of its own.
    pub default: Option<&'static str>,
}

/// What a top-level name is.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A single value.
    Value(Kind),
    /// `[name]`.
    Table(&'static [Key]),
    /// `[[name]]`.
    Tables(&'static [Key]),
    /// `[sets]`: any names, each a list, or a table with the keys of [`SET`].
    Sets,
}

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key {
        name,
        kind,
        default: Some(default),
    }
}

const fn bare(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        default: None,
    }
}

const NAME: Key = bare("name", Kind::Text);
const COMMENT: Key = key("comment", Kind::Text, "\"\"");
const ORIGIN: Key = bare("origin", Kind::Text);

/// The top level.
pub const TOP: &[(&str, Shape)] = &[
    ("schema", Shape::Value(Kind::Int(i64::MIN, i64::MAX))),
    ("system", Shape::Table(SYSTEM)),
    ("timeouts", Shape::Table(TIMEOUTS)),
    ("api", Shape::Table(API)),
    ("metrics", Shape::Table(METRICS)),
    ("port", Shape::Tables(PORT)),
    ("interface", Shape::Tables(INTERFACE)),
    ("route", Shape::Tables(ROUTE)),
    ("neighbour", Shape::Tables(NEIGHBOUR)),
    ("sets", Shape::Sets),
    ("exempt", Shape::Tables(EXEMPT)),
    ("pool", Shape::Tables(POOL)),
    ("source-nat", Shape::Tables(SOURCE_NAT)),
    ("static-nat", Shape::Tables(STATIC_NAT)),
    ("port-forward", Shape::Tables(PORT_FORWARD)),
    ("service", Shape::Tables(SERVICE)),
    ("filter", Shape::Table(FILTER)),
    ("log", Shape::Table(LOG)),
];

/// `[system]`.
pub const SYSTEM: &[Key] = &[
    key("workers", Kind::Int(1, 64), "1"),
    key("cores", Kind::Numbers, "[]"),
    key("hugepages", Kind::Bool, "true"),
    key("memory", Kind::Size, "\"1GiB\""),
    key("sessions", Kind::Int(1, 1_000_000_000), "1_000_000"),
    key("sessions_per_host", Kind::Int(0, 1_000_000_000), "0"),
    key("new_sessions_per_host", Kind::Int(0, 1_000_000), "0"),
    key("half_open_per_host", Kind::Int(0, 1_000_000_000), "0"),
    key("quota_error", Kind::Text, "\"none\""),
    key("fragments", Kind::Int(0, 1_000_000), "4096"),
    key("subscribers", Kind::Int(0, 100_000_000), "0"),
    key("tcp_pickup", Kind::Bool, "false"),
    key("idle", Kind::Text, "\"adaptive\""),
    key("eal_args", Kind::List, "[]"),
    key("instance", Kind::Text, "\"natgate\""),
    bare("state_directory", Kind::Text),
];

/// `[timeouts]`.
pub const TIMEOUTS: &[Key] = &[
    key("udp", Kind::Duration, "\"5m\""),
    key("udp_unreplied", Kind::Duration, "\"2m\""),
    key("tcp", Kind::Duration, "\"2h4m\""),
    key("tcp_transitory", Kind::Duration, "\"4m\""),
    bare("tcp_opening", Kind::Duration),
    bare("tcp_closing", Kind::Duration),
    key("tcp_reset", Kind::Duration, "\"4m\""),
    key("icmp", Kind::Duration, "\"60s\""),
    key("expected", Kind::Duration, "\"2m\""),
    key("sctp", Kind::Duration, "\"10m\""),
    key("sctp_transitory", Kind::Duration, "\"2m\""),
    key("other", Kind::Duration, "\"10m\""),
];

/// `[api]`.
pub const API: &[Key] = &[
    bare("socket", Kind::Text),
    key("group", Kind::Text, "\"natgate\""),
];

/// `[metrics]`.
pub const METRICS: &[Key] = &[key("listen", Kind::Text, "\"127.0.0.1:9464\"")];

/// `[log]`.
pub const LOG: &[Key] = &[
    key("mappings", Kind::Text, "\"auto\""),
    key("to", Kind::List, "[]"),
    key("through", Kind::Text, "\"gateway\""),
    key("destinations", Kind::Bool, "false"),
];

/// `[[port]]`.
pub const PORT: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("device", Kind::Text),
    bare("bond", Kind::Inline(BOND)),
    bare("queues", Kind::Int(1, 64)),
    key("mtu", Kind::Int(576, 9600), "1500"),
    bare("mac", Kind::Text),
    key("promiscuous", Kind::Bool, "false"),
    key("descriptors", Kind::Int(64, 16384), "1024"),
];

/// `[[port]] bond`.
pub const BOND: &[Key] = &[
    key("mode", Kind::Text, "\"active-backup\""),
    bare("members", Kind::List),
];

/// `[[interface]]`.
pub const INTERFACE: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("port", Kind::Text),
    bare("vlan", Kind::Int(1, 4094)),
    key("address", Kind::List, "[]"),
    key("vrf", Kind::Text, "\"main\""),
    key("forward", Kind::Bool, "true"),
    key("urpf", Kind::Text, "\"off\""),
    key("clamp_mss", Kind::Int(0, 9560), "0"),
    key("helpers", Kind::List, "[\"ftp\"]"),
    bare("mtu", Kind::Int(576, 9600)),
];

/// `[[route]]`.
pub const ROUTE: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("prefix", Kind::Text),
    key("via", Kind::List, "[]"),
    bare("interface", Kind::Text),
    bare("vrf", Kind::Text),
];

/// `[[neighbour]]`.
pub const NEIGHBOUR: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("interface", Kind::Text),
    bare("address", Kind::Text),
    bare("mac", Kind::Text),
];

/// A set in `[sets]` written as a table.
pub const SET: &[Key] = &[COMMENT, ORIGIN, bare("members", Kind::List)];

/// `[[exempt]]`.
pub const EXEMPT: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("in", Kind::List),
    bare("src", Kind::List),
    bare("dst", Kind::List),
    key("force", Kind::List, "[]"),
    bare("file", Kind::Inline(EXEMPT_FILE)),
];

/// `[[exempt]] file`.
pub const EXEMPT_FILE: &[Key] = &[
    bare("path", Kind::Text),
    key("format", Kind::Text, "\"ip-masq-agent\""),
    key("resync", Kind::Duration, "\"60s\""),
    key("limit", Kind::Int(0, 1_000_000), "64"),
    bare("missing", Kind::Text),
];

/// `[[pool]]`.
pub const POOL: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("addresses", Kind::List),
    key("exclude", Kind::List, "[]"),
    key("drain", Kind::List, "[]"),
    key("quarantine", Kind::List, "[]"),
    bare("ports", Kind::List),
    bare("select", Kind::Text),
    bare("low_ports", Kind::Bool),
    key("parity", Kind::Bool, "false"),
    key("pairing", Kind::Text, "\"paired\""),
    key("mapping", Kind::PerProtocol, "\"endpoint\""),
    key("filtering", Kind::PerProtocol, "\"address-port\""),
    key("answer_arp", Kind::Bool, "true"),
    key("exhaustion", Kind::Text, "\"drop\""),
    key("helpers", Kind::List, "[\"ftp\"]"),
    bare("block", Kind::Inline(BLOCK)),
    key("hold", Kind::Duration, "\"120s\""),
    key("hold_max", Kind::Int(0, 65536), "4096"),
    key("alarm_high", Kind::Int(0, 100), "80"),
    key("alarm_low", Kind::Int(0, 100), "70"),
    bare("deterministic", Kind::Inline(DETERMINISTIC)),
];

/// What behaviours can be set for.
pub const PROTOCOLS: &[Key] = &[
    bare("tcp", Kind::Text),
    bare("udp", Kind::Text),
    bare("icmp", Kind::Text),
    bare("sctp", Kind::Text),
];

/// `[[pool]] block`.
pub const BLOCK: &[Key] = &[
    bare("size", Kind::Int(1, 32768)),
    key("max_per_host", Kind::Int(1, 65535), "1"),
    key("idle", Kind::Duration, "\"2m\""),
];

/// `[[pool]] deterministic`.
pub const DETERMINISTIC: &[Key] = &[
    bare("inside", Kind::List),
    bare("ports_per_host", Kind::Int(1, 65535)),
    bare("ratio", Kind::Int(1, 65535)),
    bare("reserved", Kind::List),
    bare("overflow", Kind::Inline(OVERFLOW)),
    key("algorithm", Kind::Text, "\"sequential\""),
];

/// `[[pool]] deterministic.overflow`.
pub const OVERFLOW: &[Key] = &[
    bare("block", Kind::Int(1, 32768)),
    key("max", Kind::Int(1, 65535), "1"),
];

/// `[[source-nat]]`.
pub const SOURCE_NAT: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("in", Kind::List),
    bare("out", Kind::List),
    bare("src", Kind::List),
    bare("dst", Kind::List),
    bare("proto", Kind::List),
    bare("sport", Kind::List),
    bare("dport", Kind::List),
    bare("via", Kind::Text),
    bare("ports", Kind::List),
    bare("select", Kind::Text),
];

/// `[[static-nat]]`.
pub const STATIC_NAT: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("external", Kind::Text),
    bare("internal", Kind::Text),
    key("vrf", Kind::Text, "\"main\""),
    bare("interface", Kind::Text),
    key("direction", Kind::Text, "\"both\""),
];

/// `[[port-forward]]`.
pub const PORT_FORWARD: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("in", Kind::List),
    bare("src", Kind::List),
    bare("dst", Kind::List),
    key("proto", Kind::List, "\"tcp\""),
    bare("dport", Kind::List),
    bare("to", Kind::List),
    key("vrf", Kind::Text, "\"main\""),
    key("spread", Kind::Text, "\"hash-source\""),
    key("hairpin", Kind::Bool, "true"),
    key("source", Kind::Text, "\"auto\""),
    key("allow", Kind::Bool, "true"),
];

/// `[[service]]`.
pub const SERVICE: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("address", Kind::Text),
    key("kind", Kind::Text, "\"virtual\""),
    key("proto", Kind::List, "\"tcp\""),
    bare("port", Kind::Int(1, 65535)),
    key("lb", Kind::Text, "\"hash\""),
    key(
        "hash",
        Kind::List,
        "[\"src\", \"dst\", \"sport\", \"dport\", \"proto\"]",
    ),
    key("maglev_size", Kind::Int(2, 5_000_000), "65537"),
    key("source", Kind::Text, "\"auto\""),
    key("affinity", Kind::Text, "\"none\""),
    key("affinity_timeout", Kind::Duration, "\"3h\""),
    key("unmatched", Kind::Text, "\"drop\""),
    key("empty", Kind::Text, "\"drop\""),
    key("ping", Kind::Bool, "false"),
    bare("drain", Kind::Text),
    bare("check", Kind::Inline(CHECK)),
    bare("backends", Kind::Tables(BACKEND)),
];

/// `[[service]] check`.
pub const CHECK: &[Key] = &[
    key("kind", Kind::Text, "\"tcp\""),
    bare("port", Kind::Int(1, 65535)),
    key("path", Kind::Text, "\"/\""),
    key("interval", Kind::Duration, "\"5s\""),
    key("timeout", Kind::Duration, "\"2s\""),
    key("rise", Kind::Int(1, 1000), "2"),
    key("fall", Kind::Int(1, 1000), "3"),
];

/// `[[service]] backends`.
pub const BACKEND: &[Key] = &[
    bare("to", Kind::Text),
    bare("source", Kind::Text),
    key("weight", Kind::Int(0, 65535), "1"),
    key("forward_only", Kind::Bool, "false"),
];

/// `[filter]`.
pub const FILTER: &[Key] = &[
    key("default", Kind::Text, "\"accept\""),
    key("established", Kind::Text, "\"accept\""),
    bare("rule", Kind::Tables(FILTER_RULE)),
];

/// `[[filter.rule]]`.
pub const FILTER_RULE: &[Key] = &[
    NAME,
    COMMENT,
    ORIGIN,
    bare("in", Kind::List),
    bare("out", Kind::List),
    bare("src", Kind::List),
    bare("dst", Kind::List),
    bare("proto", Kind::List),
    bare("sport", Kind::List),
    bare("dport", Kind::List),
    bare("orig_dst", Kind::List),
    bare("orig_dport", Kind::List),
    bare("icmp_type", Kind::List),
    bare("state", Kind::List),
    bare("action", Kind::Text),
    bare("reject_with", Kind::Text),
];
