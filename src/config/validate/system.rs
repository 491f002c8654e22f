//! `[system]`, `[timeouts]`, `[api]`, `[metrics]`.

use std::path::PathBuf;
use std::time::Duration;

use super::super::raw;
use super::super::report::Findings;
use super::super::validated::{Api, Idle, Metrics, System, Timeouts};
use super::super::values;
use super::choice;
use crate::gateway::errors::ErrorKind;
use crate::nat::limits::HostLimits;

/// The longest path a unix socket can have, with its final zero.
const SOCKET_PATH: usize = 107;

/// What a host may hear of a refusal for its limits.
const QUOTA_ERRORS: &[(&str, Option<ErrorKind>)] = &[
    ("none", None),
    ("host-unreachable", Some(ErrorKind::HostUnreachable)),
    ("admin-prohibited", Some(ErrorKind::AdminProhibited)),
];

fn limits(raw: &raw::System, findings: &mut Findings) -> HostLimits {
    for (key, limit) in [
        ("sessions_per_host", raw.sessions_per_host),
        ("half_open_per_host", raw.half_open_per_host),
    ] {
        if limit > raw.sessions {
            let message = format!(
                "is above system.sessions = {}, so it limits nothing",
                raw.sessions
            );
            findings.warn(&format!("system.{key}"), message);
        }
    }
    let error = choice(
        "system.quota_error",
        &raw.quota_error,
        QUOTA_ERRORS,
        findings,
    );
    HostLimits {
        sessions: raw.sessions_per_host,
        new_per_second: raw.new_sessions_per_host,
        half_open: raw.half_open_per_host,
        error: error.flatten(),
    }
}

fn state_directory(raw: &raw::System, findings: &mut Findings) -> Option<PathBuf> {
    let written = raw.state_directory.as_ref()?;
    if !written.starts_with('/') {
        findings.error(
            "system.state_directory",
            format!("{written:?} is no absolute path (/var/lib/natgate is)"),
        );
    }
    Some(PathBuf::from(written))
}

pub(super) fn system(raw: &raw::System, findings: &mut Findings) -> System {
    if !raw.cores.is_empty() && raw.cores.len() != usize::from(raw.workers) {
        findings.error(
            "system.cores",
            format!(
                "names {} cores with workers = {} (name one core per worker, or none)",
                raw.cores.len(),
                raw.workers
            ),
        );
    }
    let mut sorted = raw.cores.clone();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        findings.error(
            "system.cores",
            format!(
                "core {} is named twice (each worker needs a core of its own)",
                pair[0]
            ),
        );
    }
    let fits_a_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !(1..=32).contains(&raw.instance.len()) || !raw.instance.chars().all(fits_a_name) {
        let message = format!(
            "{:?} is no instance name (1–32 letters, digits, '-' or '_')",
            raw.instance
        );
        findings.error("system.instance", message);
    }
    let words = [("adaptive", Idle::Adaptive), ("poll", Idle::Poll)];
    System {
        workers: raw.workers,
        cores: raw.cores.clone(),
        hugepages: raw.hugepages,
        memory_bytes: values::size(&raw.memory).unwrap_or(1 << 30),
        sessions: raw.sessions,
        limits: limits(raw, findings),
        fragments: raw.fragments,
        subscribers: match raw.subscribers {
            // Eight sessions a host is few: a household has dozens, an idle phone ten.
            0 => (raw.sessions / 8).max(1024),
            given => given,
        },
        tcp_pickup: raw.tcp_pickup,
        idle: choice("system.idle", &raw.idle, &words, findings).unwrap_or(Idle::Adaptive),
        eal_args: raw.eal_args.0.clone(),
        instance: raw.instance.clone(),
        state_directory: state_directory(raw, findings),
    }
}

/// The RFCs' minimum timers: key, seconds, requirement.
const MINIMA: &[(&str, u64, &str)] = &[
    ("udp", 120, "RFC 4787 REQ-5"),
    ("udp_unreplied", 120, "RFC 4787 REQ-5"),
    ("tcp", 7440, "RFC 5382 REQ-5"),
    ("tcp_transitory", 240, "RFC 5382 REQ-5"),
    ("tcp_closing", 240, "RFC 5382 REQ-5"),
    ("tcp_reset", 240, "RFC 7857 section 2.2"),
    ("icmp", 60, "RFC 5508 REQ-2"),
];

// Implements: U5, U5b, T5, T5a, I2, I2a.
pub(super) fn timeouts(raw: &raw::Timeouts, findings: &mut Findings) -> Timeouts {
    let mut read = |key: &str, written: &str| {
        let path = format!("timeouts.{key}");
        let value = values::duration(written).unwrap_or(Duration::from_secs(600));
        if value.is_zero() {
            findings.error(
                &path,
                "is zero, so no session would live (write a time above zero)",
            );
        }
        if let Some((_, minimum, requirement)) = MINIMA.iter().find(|(name, ..)| *name == key) {
            let minimum = Duration::from_secs(*minimum);
            if value < minimum && !value.is_zero() {
                let least = humantime::format_duration(minimum);
                findings.warn(
                    &path,
                    format!("{written} is below {requirement} (at least {least})"),
                );
            }
        }
        value
    };
    let transitory = read("tcp_transitory", &raw.tcp_transitory);
    let mut or_transitory = |key, written: &Option<String>| match written {
        Some(written) => read(key, written),
        None => transitory,
    };
    Timeouts {
        tcp_opening: or_transitory("tcp_opening", &raw.tcp_opening),
        tcp_closing: or_transitory("tcp_closing", &raw.tcp_closing),
        udp: read("udp", &raw.udp),
        udp_unreplied: read("udp_unreplied", &raw.udp_unreplied),
        tcp: read("tcp", &raw.tcp),
        tcp_reset: read("tcp_reset", &raw.tcp_reset),
        expected: read("expected", &raw.expected),
        icmp: read("icmp", &raw.icmp),
        sctp: read("sctp", &raw.sctp),
        sctp_transitory: read("sctp_transitory", &raw.sctp_transitory),
        other: read("other", &raw.other),
    }
}

pub(super) fn api(raw: &raw::Api, instance: &str, findings: &mut Findings) -> Api {
    let socket = raw
        .socket
        .clone()
        .unwrap_or_else(|| format!("/run/natgate/{instance}.sock"));
    if !socket.starts_with('/') || socket.len() > SOCKET_PATH {
        let message =
            format!("{socket:?} is no socket path (absolute, at most {SOCKET_PATH} bytes)");
        findings.error("api.socket", message);
    }
    Api {
        socket: PathBuf::from(socket),
        group: raw.group.clone(),
    }
}

pub(super) fn metrics(raw: &raw::Metrics, findings: &mut Findings) -> Metrics {
    let listen = match raw.listen.as_str() {
        "" => None,
        text => text.parse().map(Some).unwrap_or_else(|_| {
            let message = format!(
                "{text:?} is no listener (write 127.0.0.1:9464 or [::1]:9464, or \"\" for none)"
            );
            findings.error("metrics.listen", message);
            None
        }),
    };
    Metrics { listen }
}
