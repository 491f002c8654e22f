//! The stanza `cnat { … }` of VPP's startup file: how long sessions live, and how many there may be.

use super::super::Report;
use super::super::emit::Table;
use crate::config::nearest;

/// Keys that say something about a gateway.
const AGE: &str = "session-max-age";
const TCP_AGE: &str = "tcp-max-age";
const SESSIONS: &str = "session-max";

/// Keys about tables that size themselves here.
const SIZES: &[&str] = &[
    "session-max-per-vrf",
    "session-log2-pool-size",
    "maglev-len",
    "scanner-timeout",
];

/// Sessions VPP can have.
const MOST_SESSIONS: u32 = 1 << 24;

/// Reads the stanza's words; `place` names the place of a line.
pub(super) fn read(
    words: &[(usize, &str)],
    place: impl Fn(usize) -> String,
    report: &mut Report,
) -> Vec<Table> {
    let mut timeouts = None;
    let mut system = None;
    let mut keys = words.iter();
    while let Some((line, key)) = keys.next() {
        let place = place(*line);
        let value = keys.next().map_or("", |(_, value)| *value);
        let number = value.parse::<u32>().ok().filter(|number| *number > 0);
        match *key {
            AGE | TCP_AGE | SESSIONS if number.is_none() => {
                let text = format!("{key} {value}: a number above 0 is expected");
                report.reject(&place, "E-SYNTAX", text);
            }
            AGE | TCP_AGE => {
                let seconds = number.unwrap_or_default();
                let table: Table = timeouts.take().unwrap_or(Table::new("[timeouts]"));
                timeouts = Some(age(key, seconds, table, &place, report));
            }
            SESSIONS => {
                let count = number.unwrap_or_default();
                report.ok(&place, format!("system.sessions = {count}"));
                if count > MOST_SESSIONS {
                    let text = format!("VPP takes at most {MOST_SESSIONS}");
                    report.warn(&place, "", text);
                }
                system = Some(Table::new("[system]").raw("sessions", &count.to_string()));
            }
            key if SIZES.contains(&key)
                || key.ends_with("-buckets")
                || key.ends_with("-memory") =>
            {
                let text = format!("{key}: natgate sizes its tables by system.sessions; ignored");
                report.note(&place, "", text);
            }
            key => {
                let known = [AGE, TCP_AGE, SESSIONS]
                    .into_iter()
                    .chain(SIZES.iter().copied());
                let hint = nearest(key, known)
                    .map_or_else(String::new, |best| format!(" (did you mean {best:?}?)"));
                let text = format!("cnat has no key {key:?}{hint}");
                report.reject(&place, "E-UNKNOWN", text);
            }
        }
    }
    system.into_iter().chain(timeouts).collect()
}

fn age(key: &str, seconds: u32, table: Table, place: &str, report: &mut Report) -> Table {
    if seconds > u32::from(u16::MAX) {
        let text =
            format!("{key} {seconds}: VPP keeps 16 bits of it, so its sessions live shorter");
        report.warn(place, "", text);
    }
    let time = format!("{seconds}s");
    if key == TCP_AGE {
        report.ok(place, format!("timeouts.tcp = {time:?}"));
        report.note(
            place,
            "",
            "VPP forgets a connection 5 s after its FIN or RST; here tcp_closing and tcp_reset say when",
        );
        return table.text("tcp", &time);
    }
    let keys = [
        "udp",
        "udp_unreplied",
        "icmp",
        "tcp_opening",
        "sctp",
        "sctp_transitory",
        "other",
    ];
    report.ok(
        place,
        format!("timeouts = {time:?} for {}", keys.join(", ")),
    );
    keys.iter().fold(table, |table, key| table.text(key, &time))
}
