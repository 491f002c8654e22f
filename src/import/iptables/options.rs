//! Options and matches by name: which there are, and which have no equivalent.

/// Matches without an equivalent, by module.
pub(super) const REFUSED: &[(&str, &str, &str)] = &[
    (
        "owner",
        "E-OWNER",
        "asks which process sent the packet; forwarded packets have no local process (say who by in=, src= or a set)",
    ),
    ("mark", "E-MARK", "asks for a mark that other rules set"),
    ("connmark", "E-MARK", "asks for a mark that other rules set"),
    (
        "set",
        "E-SET",
        "asks for a kernel set; put its members into [sets]",
    ),
    (
        "physdev",
        "E-PHYSDEV",
        "asks for a port of a bridge; there are no bridges here",
    ),
    (
        "policy",
        "E-IPSEC-POLICY",
        "asks whether a packet will be encrypted; this gateway has no IPsec. Write the remote networks as [[exempt]]",
    ),
    ("limit", "E-MATCH", "has no equivalent"),
    ("hashlimit", "E-MATCH", "has no equivalent"),
    ("recent", "E-MATCH", "has no equivalent"),
    ("mac", "E-MATCH", "has no equivalent"),
    ("time", "E-MATCH", "has no equivalent"),
    ("string", "E-MATCH", "has no equivalent"),
    ("u32", "E-MATCH", "has no equivalent"),
    ("bpf", "E-MATCH", "has no equivalent"),
    ("length", "E-MATCH", "has no equivalent"),
    ("ttl", "E-MATCH", "has no equivalent"),
    ("dscp", "E-MATCH", "has no equivalent"),
    ("tos", "E-MATCH", "has no equivalent"),
    ("helper", "E-MATCH", "has no equivalent"),
    ("connlimit", "E-MATCH", "has no equivalent"),
    ("geoip", "E-MATCH", "has no equivalent"),
    ("statistic", "E-MATCH", "draws lots for packets"),
    (
        "rpfilter",
        "E-MATCH",
        "asks for the way back to the source: write urpf = \"strict\" (for --loose \"loose\") into the [[interface]]",
    ),
];

/// Matches that are understood.
pub(super) const TAKEN: &[&str] = &[
    "tcp",
    "udp",
    "sctp",
    "dccp",
    "udplite",
    "multiport",
    "iprange",
    "comment",
    "addrtype",
    "state",
    "conntrack",
    "icmp",
    "icmp6",
    "icmpv6",
    "ipv6-icmp",
];

/// Options with their short names and whether they take a word.
pub(super) const OPTIONS: &[(&str, &str, bool)] = &[
    ("-s", "--source", true),
    ("-s", "--src", true),
    ("-d", "--destination", true),
    ("-d", "--dst", true),
    ("-i", "--in-interface", true),
    ("-o", "--out-interface", true),
    ("-p", "--protocol", true),
    ("-p", "--proto", true),
    ("-m", "--match", true),
    ("-j", "--jump", true),
    ("-g", "--goto", true),
    ("-f", "--fragment", false),
    ("-w", "--wait", false),
    ("-4", "--ipv4", false),
    ("-6", "--ipv6", false),
    ("", "--sport", true),
    ("", "--source-port", true),
    ("", "--dport", true),
    ("", "--destination-port", true),
    ("", "--sports", true),
    ("", "--source-ports", true),
    ("", "--dports", true),
    ("", "--destination-ports", true),
    ("", "--ports", true),
    ("", "--tcp-flags", true),
    ("", "--syn", false),
    ("", "--src-range", true),
    ("", "--dst-range", true),
    ("", "--comment", true),
    ("", "--state", true),
    ("", "--ctstate", true),
    ("", "--ctorigdst", true),
    ("", "--ctorigdstport", true),
    ("", "--icmp-type", true),
    ("", "--icmpv6-type", true),
    ("", "--dst-type", true),
    ("", "--src-type", true),
    ("", "--to-source", true),
    ("", "--to-destination", true),
    ("", "--to-ports", true),
    ("", "--to", true),
    ("", "--random", false),
    ("", "--random-fully", false),
    ("", "--persistent", false),
    ("", "--set-mss", true),
    ("", "--clamp-mss-to-pmtu", false),
    ("", "--reject-with", true),
];

/// Options that "!" may stand before.
pub(super) const NEGATABLE: &[&str] = &[
    "--source",
    "--src",
    "--destination",
    "--dst",
    "--in-interface",
    "--out-interface",
    "--protocol",
    "--proto",
    "--sport",
    "--source-port",
    "--dport",
    "--destination-port",
    "--sports",
    "--source-ports",
    "--dports",
    "--destination-ports",
    "--ports",
    "--src-range",
    "--dst-range",
    "--dst-type",
    "--src-type",
    "--state",
    "--ctstate",
    "--ctorigdst",
    "--ctorigdstport",
    "--icmp-type",
    "--icmpv6-type",
    // These have no equivalent that way, which is said where they are read.
    "--tcp-flags",
    "--syn",
    "--fragment",
];

/// The option a word stands for: exact, or an abbreviation that fits only one (aliases count as one).
pub(super) fn option(word: &str, target: &str) -> Option<&'static str> {
    // What `--to` begins depends on the target.
    let own = match target {
        "SNAT" => &["--to-source"][..],
        "DNAT" => &["--to-destination"],
        "MASQUERADE" | "REDIRECT" => &["--to-ports"],
        "NETMAP" => &["--to"],
        _ => &[],
    };
    if word.len() > 3
        && let Some(fits) = own.iter().find(|name| name.starts_with(word))
    {
        return Some(*fits);
    }
    if let Some((_, long, _)) = OPTIONS
        .iter()
        .find(|(short, long, _)| *short == word || *long == word)
    {
        return Some(*long);
    }
    let mut fitting = OPTIONS
        .iter()
        .filter(|(_, long, _)| word.len() > 3 && long.starts_with(word));
    let first = fitting.next()?;
    let alone = fitting.all(|other| !other.0.is_empty() && other.0 == first.0);
    alone.then_some(first.1)
}
