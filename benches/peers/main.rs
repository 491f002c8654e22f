//! natgate beside its peers: the same packets, the same kind of port, one core, in turns.
//!
//! `make bench` runs it, as root. Every contender is a process of its own on core 1; whoever sends, this process (which only
//! looks at counters), and everybody's management threads are on core 0. The order of the contenders turns round from round
//! to round, so that a machine that gets slower or faster favours nobody; shares are taken round by round.
//!
//! | setting | packets come from | and go to | who |
//! |---|---|---|---|
//! | `replay` | a pcap port that replays a file without end: next to no cost | a port that swallows them | natgate, testpmd |
//! | `wire` | `natgate bench wire` on core 0, over memif | back to it; it examines every frame | natgate, testpmd |
//! | `kernel` | testpmd on core 0, into a veth pair, steered to core 1 | a veth pair whose other end has no address | the kernel's NAT |
//!
//! On a virtual machine whose cores lie on one chip for a while and on two for another, as nobody tells it, handing packets
//! over costs several times as much in one of these times as in the other. So `wire` has rows of its own for the best tenth of
//! all tenths of a second ("near"), besides those of whole turns. How far the cores were apart is in the heading.
//!
//! A rate is what *left* the far port, or came back to the generator; the kernel's is per second of its core's time.

#![allow(missing_docs, reason = "a benchmark is no interface")]
#![allow(
    clippy::disallowed_methods,
    reason = "whoever measures rates reads the clock"
)]

mod frames;
mod huge;
mod kernel;
mod natgate;
mod near;
mod plot;
mod process;
mod results;
mod statistics;
mod testpmd;
mod vpp;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};

use results::{Results, Row};
use statistics::Spread;
use vpp::Plugin;
use wire::{BOTH_TENTHS, OUT_TENTHS};

/// Measures natgate and its peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Settings.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Setting::ALL)]
    settings: Vec<Setting>,
    /// Session counts of `replay`; every frame has a buffer of its own, which is what bounds them.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 64_512])]
    replayed: Vec<u32>,
    /// Session counts of `wire`.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 64_512, 1_032_192, 16_515_072])]
    wired: Vec<u32>,
    /// Rounds; each contender has one turn in each.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 4)]
    seconds: usize,
    /// Where table, plots and figures go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results"))]
    output: PathBuf,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where packets come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Setting {
    Replay,
    Wire,
    Kernel,
}

impl Setting {
    const ALL: [Setting; 3] = [Setting::Replay, Setting::Wire, Setting::Kernel];

    fn name(self) -> &'static str {
        match self {
            Setting::Replay => "replay",
            Setting::Wire => "wire",
            Setting::Kernel => "kernel",
        }
    }

    /// Who can be measured here; natgate first.
    fn contenders(self) -> &'static [Contender] {
        match self {
            Setting::Replay => &[Contender::Natgate, Contender::FiveTupleSwap, Contender::Io],
            Setting::Wire => &[
                Contender::Natgate,
                Contender::FiveTupleSwap,
                Contender::Io,
                Contender::Vpp(Plugin::Nat44Ed),
                Contender::Vpp(Plugin::Det44),
            ],
            Setting::Kernel => &[Contender::Kernel],
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    /// natgate, the appliance.
    Natgate,
    /// `dpdk-testpmd` that swaps addresses and ports: what any packet editor must do at least.
    FiveTupleSwap,
    /// `dpdk-testpmd` that forwards untouched: the ports themselves, and whoever sends.
    Io,
    /// Linux: nftables masquerade.
    Kernel,
    /// VPP.
    Vpp(Plugin),
}

impl Contender {
    /// Whether it is on this machine.
    fn is_there(self) -> bool {
        !matches!(self, Contender::Vpp(_)) || vpp::is_installed()
    }

    fn name(self) -> &'static str {
        match self {
            Contender::Natgate => "natgate",
            Contender::FiveTupleSwap => "testpmd 5tswap",
            Contender::Io => "testpmd io",
            Contender::Kernel => "nftables masquerade",
            Contender::Vpp(Plugin::Nat44Ed) => "vpp nat44-ed",
            Contender::Vpp(Plugin::Det44) => "vpp det44",
        }
    }
}

/// What the turns of one setting and session count have in common.
struct Bench {
    setting: Setting,
    frames: PathBuf,
    sessions: u32,
    seconds: usize,
    huge: bool,
    dir: tempfile::TempDir,
}

/// Packets per second by direction: `out`, `both`; `new`: sessions opened per second.
type Rates = Vec<(&'static str, f64)>;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("two cores are needed: one for the contender, one for everything else");
    }
    process::end_on_interrupt()?;
    let pages = huge::Reservation::take(huge::BYTES);
    let mut results = Results::new(pages.is_enough(), arguments.rounds);
    println!("{}", results.heading());
    for &setting in &arguments.settings {
        let sessions = match setting {
            Setting::Wire => &arguments.wired,
            Setting::Replay | Setting::Kernel => &arguments.replayed,
        };
        for &sessions in sessions {
            let dir = tempfile::tempdir()?;
            let bench = Bench {
                setting,
                frames: dir.path().join("frames.pcap"),
                sessions,
                seconds: arguments.seconds.max(1),
                huge: pages.is_enough(),
                dir,
            };
            if setting != Setting::Wire {
                frames::write(&bench.frames, sessions).context("cannot write the frames")?;
            }
            for row in rounds(&bench, arguments.rounds.max(1), &mut results.nanos_apart)? {
                println!("{}", row.line());
                results.rows.push(row);
            }
        }
    }
    println!("\n{}", results.distances());
    results.write(&arguments.output)
}

/// All turns of a setting and session count.
fn rounds(bench: &Bench, rounds: u32, distances: &mut Vec<f64>) -> Result<Vec<Row>> {
    let contenders = bench.setting.contenders();
    let mut turns: Vec<Vec<Rates>> = vec![Vec::new(); contenders.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let contender = contenders[at];
            if !contender.is_there() {
                continue;
            }
            distances.push(near::nanos()?);
            let rates = turn(bench, contender).with_context(|| {
                let (setting, name) = (bench.setting.name(), contender.name());
                format!("{setting}, {name}, {} sessions", bench.sessions)
            });
            let rates = match rates {
                // Other people's programs may fail at what we ask of them; that is no reason to stop.
                Err(error) if matches!(contender, Contender::Vpp(_)) => {
                    eprintln!("{error:#}");
                    continue;
                }
                rates => rates?,
            };
            turns[at].push(rates);
        }
    }
    let mut rows = Vec::new();
    for direction in ["out", OUT_TENTHS, "both", BOTH_TENTHS, "new"] {
        let by_tenths = [OUT_TENTHS, BOTH_TENTHS].contains(&direction);
        let of = |turns: &[Rates]| -> Vec<f64> {
            let rates = turns.iter().flatten();
            rates
                .filter(|(d, _)| *d == direction)
                .map(|(_, rate)| *rate)
                .collect()
        };
        // Whoever comes first: natgate where it takes part.
        let first = of(&turns[0]);
        for (contender, turns) in contenders.iter().zip(&turns) {
            let rates = of(turns);
            if first.is_empty() {
                // Nobody is measured in this direction here.
                continue;
            }
            let best = Spread::of_best_tenth(&rates);
            let shares: Vec<f64> = match by_tenths {
                true => vec![Spread::of_best_tenth(&first).median / best.median],
                // Round by round: what slows the machine down for a while slows both.
                false => first.iter().zip(&rates).map(|(n, r)| n / r).collect(),
            };
            let rate = if by_tenths { best } else { Spread::of(&rates) };
            rows.push(Row {
                setting: bench.setting.name().to_owned(),
                direction: direction.to_owned(),
                sessions: bench.sessions,
                contender: contender.name().to_owned(),
                rate: (!rates.is_empty()).then_some(rate),
                natgate_by_it: (contenders[0] == Contender::Natgate && !rates.is_empty())
                    .then(|| Spread::of(&shares)),
            });
        }
    }
    Ok(rows)
}

/// One contender's turn.
fn turn(bench: &Bench, contender: Contender) -> Result<Rates> {
    match (bench.setting, contender) {
        (Setting::Kernel, _) | (_, Contender::Kernel) => kernel::measure(bench),
        (Setting::Replay, Contender::Natgate) => natgate::replay(bench),
        (Setting::Replay, Contender::FiveTupleSwap) => testpmd::replay(bench, "5tswap"),
        (Setting::Replay, Contender::Io) => testpmd::replay(bench, "io"),
        (Setting::Wire, _) | (_, Contender::Vpp(_)) => wire::measure(bench, contender),
    }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Text for an argument or a configuration.
fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// The time between two looks at the counters.
const SAMPLE: Duration = Duration::from_secs(1);

/// Core of the contender's packet thread, and of whoever sends.
const CORE: usize = 1;
const SENDER: usize = 0;

/// Buffers of a contender's pool: natgate's own sum for two ports of 16,384 descriptors each.
const BUFFERS: u32 = 131_071;
