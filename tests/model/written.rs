//! A failing history as a golden row: what went in, and what should have come out by the reference.

use std::collections::BTreeMap;
use std::path::Path;

use natgate::base::{DropReason, PortId};

use crate::common::row::{self, Input, Row, run_core};
use crate::common::*;
use crate::history::{Case, Play, Step};
use crate::packets::{Cut, REST_OF_REFUSED, datagram, endpoint, forwarded, frames, report};
use crate::reference::{Endpoint, Expect, Reference};
use crate::shrink::Shrunk;

/// What one step is on the wire.
#[derive(Default)]
struct Traffic {
    port: PortId,
    given: Vec<Vec<u8>>,
    expected: Vec<(PortId, Vec<u8>)>,
    dropped: Option<DropReason>,
}

/// The row of a history. Which port a new mapping gets is the gateway's choice: the one it made, as far as it can be
/// trusted, which is up to the last step.
pub fn row(shrunk: &Shrunk, name: &str) -> Row {
    let case = &shrunk.case;
    let config = row::config(&case.rules());
    let (announced, counters) = run_core(&config, &Vec::new(), 1);
    let (mut input, mut output) = (Input::new(), announced);
    let mut drops: BTreeMap<DropReason, u64> = BTreeMap::new();
    let mut play = Play::new(case);
    let mut clock = (0, PortId(0));
    for (n, step) in shrunk.steps.iter().enumerate() {
        play.settle();
        let mut before = play.model.clone();
        let millis = play.millis();
        let choice = if n < shrunk.failure.at {
            play.step(*step, &|| format!("step {n}, once more"));
            chosen(&play.model, *step)
        } else {
            preferred(case, &before, *step)
        };
        let Some(traffic) = traffic(&mut before, *step, choice) else {
            continue;
        };
        if let Some(reason) = traffic.dropped {
            *drops.entry(reason).or_default() += 1;
            *drops.entry(REST_OF_REFUSED).or_default() += traffic.given.len() as u64 - 1;
        }
        for frame in traffic.given {
            // At one time, the files' order is port by port.
            let back = millis <= clock.0 && traffic.port < clock.1;
            clock = (millis.max(clock.0) + u64::from(back), traffic.port);
            input.push((clock.0, clock.1, frame));
        }
        for (port, frame) in traffic.expected {
            output[port.index()].push(frame);
        }
    }
    let sent = output.iter().map(Vec::len).sum::<usize>() as u64;
    let received = input.len() as u64;
    Row {
        name: name.to_owned(),
        path: Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("golden")
            .join(name),
        config,
        counters: row::moved([received, sent, counters.generated, 0], |reason| {
            drops.get(&reason).copied().unwrap_or(0)
        }),
        input,
        output,
    }
}

/// The outside endpoint by which a host's datagram has left.
fn chosen(after: &Reference, step: Step) -> Option<Endpoint> {
    let Step::Out { from, to, .. } = step else {
        return None;
    };
    let id = after.used_by(endpoint(from), endpoint(to))?;
    Some(after.mappings[&id].outside)
}

/// The outside endpoint by which a host's datagram would best leave: its own port, if nobody has it.
fn preferred(case: &Case, before: &Reference, step: Step) -> Option<Endpoint> {
    let Step::Out { from, .. } = step else {
        return None;
    };
    let pool = case.pool();
    let own = pool.addresses.iter().map(|address| (*address, from.1));
    let others = pool.addresses.iter();
    let others = others.flat_map(|address| pool.ports.clone().map(|port| (*address, port)));
    let free = |end: &Endpoint| {
        pool.has(*end) && before.mappings.values().all(|other| other.outside != *end)
    };
    own.chain(others).find(free)
}

/// What a step is by the reference, which is brought to where the step finds it; a new mapping gets `choice`, if it gets
/// one.
fn traffic(before: &mut Reference, step: Step, choice: Option<Endpoint>) -> Option<Traffic> {
    match step {
        Step::Out { from, to, cut, .. } => {
            let (from, to) = (endpoint(from), endpoint(to));
            let outside = match before.outbound(from, to) {
                Expect::Translated(outside) => Some(outside),
                _ => choice,
            };
            Some(Traffic {
                port: LAN,
                given: frames(datagram(LAN, from, to), cut),
                expected: passed(
                    WAN,
                    outside.map(|outside| frames(datagram(WAN, outside, to), released(cut))),
                ),
                dropped: outside.is_none().then_some(DropReason::NoPort),
            })
        }
        Step::In { from, to, cut, .. } => {
            let (from, to) = (endpoint(from), endpoint(to));
            let (inside, dropped) = match before.inbound(from, to) {
                Expect::Translated(inside) => (Some(inside), None),
                Expect::Refused(reason) => (None, Some(reason)),
                Expect::NewMapping => (None, None),
            };
            Some(Traffic {
                port: WAN,
                given: frames(datagram(WAN, from, to), cut),
                expected: passed(
                    LAN,
                    inside.map(|inside| frames(datagram(LAN, from, inside), released(cut))),
                ),
                dropped,
            })
        }
        Step::Error { about, to, .. } => {
            before.purge();
            let (outside, to) = (about.outside(before, to), endpoint(to));
            let inside = before.sender(outside, to);
            Some(Traffic {
                port: WAN,
                given: vec![report(WAN, outside, to)],
                expected: passed(LAN, inside.map(|inside| vec![report(LAN, inside, to)])),
                dropped: inside.is_none().then_some(DropReason::IcmpNoSession),
            })
        }
        Step::Wait(_) | Step::Reload => None,
    }
}

/// How a datagram leaves: pieces that came too early follow the first one.
fn released(cut: Cut) -> Cut {
    cut.map(|(id, order)| {
        let mut rest = order.into_iter().filter(|piece| *piece != 0);
        (id, [0, rest.next().unwrap_or(1), rest.next().unwrap_or(2)])
    })
}

/// What a port sends of packets that pass.
fn passed(port: PortId, packets: Option<Vec<Vec<u8>>>) -> Vec<(PortId, Vec<u8>)> {
    let packets = packets.into_iter().flatten();
    packets
        .map(|frame| (port, forwarded(port, frame)))
        .collect()
}

/// Where the row is, what it shows, and what to do with it.
pub fn told(row: &Row, shrunk: &Shrunk) -> String {
    let (output, _) = run_core(&row.config, &row.input, 1);
    let shows = match row.difference(&output) {
        Some(_) => "It fails in the core as this history does",
        None => {
            "In the core, by one worker and without reloads, it passes: the steps above tell more"
        }
    };
    let slow = match shrunk
        .steps
        .iter()
        .any(|step| matches!(step, Step::Wait(_)))
    {
        true => " On tap ports its pauses are real: give it short [timeouts] and times to match.",
        false => "",
    };
    let path = row.path.display();
    format!(
        "As a golden row it is in {path}. {shows}.{slow}\n\
         To keep it: `cp -r {path} tests/golden/NAME`, then `cargo test --test golden`."
    )
}

mod tests {
    use natgate::wire::checksum;

    use super::*;
    use crate::common::row::moved_in;
    use crate::history::Fault;
    use crate::packets::ROUTER;
    use crate::random;
    use crate::shrink::{play, shrink};

    fn is_datagram(frame: &[u8]) -> bool {
        frame[12..14] == [8, 0] && frame[23] == 17 && (frame[20] & 0x3f, frame[21]) == (0, 0)
    }

    /// What is for port 2003 goes to another host.
    fn misdirected(_: u64, port: PortId, frame: &mut [u8]) {
        if port == LAN && is_datagram(frame) && frame[36..38] == 2003u16.to_be_bytes() {
            let was = seen(&(port, frame.to_vec()));
            let wrong = (ip("10.0.0.4"), was.destination.1 + 1);
            frame.copy_from_slice(&forwarded(port, datagram(port, was.source, wrong)));
        }
    }

    /// Later pieces leave by another address.
    fn torn(_: u64, port: PortId, frame: &mut [u8]) {
        let later = frame[12..14] == [8, 0] && frame[21] != 0;
        if port == WAN && later {
            frame[29] ^= 1;
            frame[24..26].fill(0);
            let sum = checksum::ipv4_header(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }

    /// After ten minutes, everything leaves by the same port.
    fn worn_out(millis: u64, port: PortId, frame: &mut [u8]) {
        if port == WAN && millis > 600_000 && is_datagram(frame) {
            let was = seen(&(port, frame.to_vec()));
            let wrong = (was.source.0, 1);
            frame.copy_from_slice(&forwarded(port, datagram(port, wrong, was.destination)));
        }
    }

    /// Errors are told by the wrong router.
    fn lied(_: u64, port: PortId, frame: &mut [u8]) {
        let error = frame[12..14] == [8, 0] && frame[23] == 1;
        if port == LAN && error {
            assert_eq!(frame[26..30], ip(ROUTER).octets());
            let quoted = frame.len() - 8;
            frame[quoted..][..2].fill(0);
        }
    }

    /// A data plane that is wrong in one way; how many steps and frames show it.
    const FAULTS: [(&str, Fault, usize, usize); 4] = [
        ("misdirected", misdirected, 2, 2),
        ("torn", torn, 1, 3),
        ("worn-out", worn_out, 2, 1),
        ("lied", lied, 2, 2),
    ];

    #[test]
    fn a_difference_shrinks_to_a_row_that_shows_it() {
        for (name, fault, steps, packets) in FAULTS {
            let case = random::case(2, (0, 1), 7);
            let history = random::history(&case, 4000);
            assert!(play(&case, &history).is_ok());
            let case = Case {
                fault: Some(fault),
                ..case
            };
            let failure = play(&case, &history).unwrap_err();
            let shrunk = shrink(&case, &history, failure);
            assert_eq!(shrunk.steps.len(), steps, "{name}: {shrunk}");
            assert_eq!((shrunk.case.workers, shrunk.case.seed), (1, 1));
            let written = super::row(&shrunk, name);
            written.write();
            let told = told(&written, &shrunk);
            assert!(told.contains("cp -r") && told.contains(name), "{told}");

            // It lies there as golden rows do, what the data plane really sends is what it expects, and what the spoiled
            // one sends is not.
            let row = Row::read(&written.path);
            assert_eq!(row.input.len(), packets, "{name}: {shrunk}");
            let (mut output, counters) = run_core(&row.config, &row.input, 1);
            assert_eq!(row.difference(&output), None, "{shrunk}");
            assert_eq!(row.counters, moved_in(&counters), "{shrunk}");
            let (end, ..) = row.input[packets - 1];
            for (port, frames) in [LAN, WAN].into_iter().zip(&mut output) {
                frames.iter_mut().for_each(|frame| fault(end, port, frame));
            }
            let difference = row.difference(&output).unwrap();
            assert!(difference.contains(name), "{difference}");
        }
    }
}
