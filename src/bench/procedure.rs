//! The named procedures, in the spirit of RFC 9693 (benchmarking of stateful NATs): what each sets up and sends.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::bench::Options;
use crate::bench::family::Family;
use crate::bench::phase::{Direction, Extra, Length, Phase};
use crate::bench::rig::Rig;
use crate::bench::script::SCANNERS;
use crate::bench::traffic::FLOWS_PER_HOST;
use crate::dataplane::affinity;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Procedure {
    /// New sessions as fast as possible, one packet each.
    Establish,
    /// Every session is found and translates both ways; every frame and checksum is examined.
    Validate,
    /// Established sessions only: outwards, inwards, both.
    Throughput,
    /// Established sessions both ways, with 1, 5 and 20 % of the packets opening new ones.
    Mix,
    /// A tenth more flows than the table holds: as many sessions as promised are held and validate.
    Capacity,
    /// Seven eighths of the sessions expire at once while the others send.
    Teardown,
    /// All ports are taken: refusals a second, and what they cost the established.
    Exhaust,
    /// Scans with SYNs, UDP and lone fragments from the inside, and from outside, as many as established packets.
    Flood,
    /// A tenth of the packets are pieces of datagrams, half of those out of order.
    Fragments,
    /// The policy is swapped ten times a second at 90 % load.
    Reload,
    /// `throughput` with 1, 2, … workers, up to the number of cores.
    Scale,
}

/// Blocks of 64 ports an address has above port 1023.
const BLOCKS: u32 = 1008;

/// Seconds a paced phase lasts.
const PACED: Length = Length::Seconds(3.0);

impl Procedure {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// The numbers of workers it is run with.
    pub fn workers(self, options: &Options) -> Vec<u8> {
        match self {
            Procedure::Scale => {
                let cores = affinity::usable_cores().len().min(64) as u8;
                let asked = options.workers.iter().copied().max().unwrap_or(1);
                (1..=cores.max(asked)).collect()
            }
            _ => options.workers.clone(),
        }
    }

    /// The run with so many sessions over all workers.
    pub fn rig(self, options: &Options, family: Family, workers: u8, sessions: u32) -> Rig {
        let flows = (sessions / u32::from(workers.max(1))).max(FLOWS_PER_HOST);
        let lengths = options.lengths.iter();
        let mut rig = Rig {
            family,
            workers,
            sessions: flows,
            capacity: flows,
            flows,
            established: flows,
            fragments: 256,
            addresses: 0,
            filtering: "endpoint",
            unreplied_seconds: 120,
            phases: Vec::new(),
            pattern: options.pattern,
            lengths: lengths.map(|l| (*l).max(family.smallest())).collect(),
            seed: options.seed,
        };
        let frames = Length::Frames(options.packets);
        self.plan(&mut rig, frames, options.packets as u32);
        if rig.addresses == 0 {
            // One block for each host, and some slack for the ways blocks can be split between workers.
            let hosts = rig.flows.div_ceil(FLOWS_PER_HOST) + SCANNERS;
            rig.addresses = (hosts * u32::from(workers)).div_ceil(BLOCKS) + u32::from(workers);
        }
        rig
    }

    fn plan(self, rig: &mut Rig, frames: Length, packets: u32) {
        use Direction::{Both, Inward, Neither, Outward};
        let once = Length::Frames(u64::from(rig.established));
        let establish = Phase::new("establish", Neither, once).with(Extra::Openings, 1.0);
        let validate = [
            Phase::new("validate out", Outward, once).thorough(),
            Phase::new("validate in", Inward, once).thorough(),
        ];
        let [_, answered] = validate.clone();
        let opened = [establish.clone().prelude(), answered.prelude()];
        match self {
            Procedure::Establish => rig.phases = vec![establish],
            Procedure::Validate => {
                rig.phases = vec![establish.prelude()];
                rig.phases.extend(validate);
            }
            Procedure::Throughput | Procedure::Scale => {
                rig.phases = opened.to_vec();
                rig.phases.extend([
                    Phase::new("out", Outward, frames),
                    Phase::new("in", Inward, frames),
                    Phase::new("both", Both, frames),
                ]);
            }
            Procedure::Mix => {
                // Half of the frames come from the inside, where the new ones are.
                let mixed = |name, share: f64| {
                    Phase::new(name, Both, frames).with(Extra::Openings, 2.0 * share)
                };
                rig.phases = opened.to_vec();
                rig.phases.extend([
                    Phase::new("0 % new", Both, frames),
                    mixed("1 % new", 0.01),
                    mixed("5 % new", 0.05),
                    mixed("20 % new", 0.20),
                ]);
                rig.flows += packets / 100 * 27 + 64;
                rig.capacity = rig.flows;
            }
            Procedure::Capacity => {
                let more = rig.established / 10;
                rig.flows += more;
                rig.phases = vec![
                    establish.prelude(),
                    Phase::new("beyond", Neither, Length::Frames(u64::from(more)))
                        .with(Extra::Openings, 1.0)
                        .refused(),
                ];
                rig.phases.extend(validate);
            }
            Procedure::Teardown => {
                rig.established = (rig.flows / 8).max(1);
                // Long enough to establish all of them, and a while more.
                rig.unreplied_seconds = 4 + rig.flows / 500_000;
                let expiry = f64::from(rig.unreplied_seconds) + 3.0;
                let all = Length::Frames(u64::from(rig.flows));
                rig.phases = vec![
                    Phase::new("establish", Neither, all)
                        .with(Extra::Openings, 1.0)
                        .prelude(),
                    Phase::new("undisturbed", Outward, Length::Seconds(1.0)),
                    Phase::new("expiry", Outward, Length::Seconds(expiry)).watched(),
                ];
            }
            Procedure::Exhaust => {
                // Whole addresses: every block has a host, every host has no port left but one.
                rig.addresses = rig.established.div_ceil(BLOCKS * FLOWS_PER_HOST);
                rig.established = rig.addresses * BLOCKS * FLOWS_PER_HOST;
                rig.sessions = rig.established;
                rig.flows = rig.established + 1024 * FLOWS_PER_HOST;
                rig.capacity = rig.flows;
                let all = Length::Frames(u64::from(rig.established));
                rig.phases = vec![
                    Phase::new("establish", Neither, all)
                        .with(Extra::Openings, 1.0)
                        .prelude(),
                    Phase::new("undisturbed", Outward, frames),
                    Phase::new("half refused", Outward, frames)
                        .with(Extra::Openings, 0.5)
                        .refused(),
                    Phase::new("all refused", Neither, frames)
                        .with(Extra::Openings, 1.0)
                        .refused(),
                ];
            }
            Procedure::Flood => {
                rig.filtering = "address-port";
                rig.capacity = 2 * rig.flows;
                let scan =
                    |name, extra| Phase::new(name, Outward, frames).with(extra, 0.5).refused();
                rig.phases = opened.to_vec();
                let undisturbed = rig.phases.len();
                // Established flows at 60 % of what was possible, and as many packets again.
                let beside = |name, extra| {
                    Phase::new(name, Outward, PACED)
                        .with(extra, 0.5)
                        .refused()
                        .paced(undisturbed, 1.2)
                };
                rig.phases.extend([
                    Phase::new("undisturbed", Outward, frames),
                    scan("syn from inside", Extra::SynFromInside),
                    scan("udp from inside", Extra::UdpFromInside),
                    scan("syn from outside", Extra::SynFromOutside),
                    scan("udp from outside", Extra::UdpFromOutside),
                    scan("lone fragments", Extra::LonePieces),
                    beside("60 %, syn from inside", Extra::SynFromInside),
                    beside("60 %, syn from outside", Extra::SynFromOutside),
                    beside("60 %, udp from outside", Extra::UdpFromOutside),
                ]);
            }
            Procedure::Fragments => {
                // All datagrams of the phase can be remembered at once: each is for two seconds.
                // As many again as there will be: a source gets no more than there are left for the others.
                rig.fragments = packets / 10 + 64;
                rig.phases = opened.to_vec();
                rig.phases.extend([
                    Phase::new("undisturbed", Outward, frames),
                    Phase::new("10 % pieces", Outward, frames).with(Extra::Fragments, 0.1),
                ]);
            }
            Procedure::Reload => {
                rig.phases = opened.to_vec();
                let full = rig.phases.len();
                rig.phases.extend([
                    Phase::new("full load", Both, frames),
                    Phase::new("90 % load", Both, PACED).paced(full, 0.9),
                    Phase::new("10 reloads/s", Both, PACED)
                        .paced(full, 0.9)
                        .reloading(),
                ]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::order::Pattern;
    use crate::bench::record::Trial;

    fn options(procedure: Procedure, family: Family, workers: u8) -> Options {
        Options {
            families: vec![family],
            procedures: vec![procedure],
            sessions: vec![63 * 32],
            workers: vec![workers],
            lengths: crate::bench::INTERNET_MIX.to_vec(),
            frame: "imix".to_owned(),
            pattern: Pattern::Random,
            packets: 40_000,
            rounds: 1,
            seed: 3,
        }
    }

    fn trials(procedure: Procedure, family: Family, workers: u8) -> Vec<Trial> {
        let options = options(procedure, family, workers);
        let trials = crate::bench::run(&options, |_| {}).unwrap();
        for trial in &trials {
            assert!(trial.is_faultless(), "{trial:?}");
            assert_eq!(trial.reordered, 0, "{trial:?}");
            assert!(trial.packets > 0, "{trial:?}");
        }
        trials
    }

    fn phase<'a>(trials: &'a [Trial], name: &str) -> &'a Trial {
        trials.iter().find(|t| t.phase == name).unwrap()
    }

    const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    #[test]
    fn established_sessions_come_back_right_with_any_number_of_workers() {
        for (family, workers) in FAMILIES.into_iter().flat_map(|f| [(f, 1), (f, 2)]) {
            let validated = trials(Procedure::Validate, family, workers);
            assert_eq!(phase(&validated, "validate in").packets, 63 * 32);
            let through = trials(Procedure::Throughput, family, workers);
            let both = phase(&through, "both");
            assert_eq!(both.packets, 40_000 * u64::from(workers));
            assert!(both.established_per_second > 0.0 && both.generator_cycles_per_packet > 0.0);
        }
    }

    #[test]
    fn new_sessions_open_among_established_ones() {
        for family in FAMILIES {
            let trials = trials(Procedure::Mix, family, 1);
            let share = |name| {
                let trial = phase(&trials, name);
                trial.sessions_per_second / trial.packets_per_second
            };
            assert!((share("20 % new") - 0.2).abs() < 0.01);
            assert!((share("1 % new") - 0.01).abs() < 0.001);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_fits_is_kept() {
        for family in FAMILIES {
            let capacity = trials(Procedure::Capacity, family, 1);
            let beyond = phase(&capacity, "beyond");
            assert_eq!(beyond.packets, 63 * 32 / 10);
            assert_eq!(beyond.drops_of_run["table_full"], beyond.packets);

            let exhaust = trials(Procedure::Exhaust, family, 1);
            assert_eq!(phase(&exhaust, "all refused").sessions_per_second, 0.0);
            assert_eq!(exhaust[0].drops_of_run["no_block"], 60_000);
        }
    }

    #[test]
    fn floods_and_fragments_cost_no_established_packet() {
        for family in FAMILIES {
            let flood = trials(Procedure::Flood, family, 1);
            assert!(phase(&flood, "udp from outside").drops_of_run["no_mapping"] > 0);
            let fragments = trials(Procedure::Fragments, family, 1);
            assert_eq!(phase(&fragments, "10 % pieces").drops_of_run.len(), 0);
        }
    }

    #[test]
    fn frames_have_the_size_their_family_allows() {
        let options = Options {
            lengths: vec![60],
            frame: "64".to_owned(),
            ..options(Procedure::Establish, Family::Ipv6, 1)
        };
        let rig = |family| Procedure::Establish.rig(&options, family, 1, 63);
        assert_eq!(rig(Family::Ipv4).frame(&options), "64");
        assert_eq!(rig(Family::Ipv6).lengths, [70]);
        assert_eq!(rig(Family::Ipv6).frame(&options), "74");
    }
}
