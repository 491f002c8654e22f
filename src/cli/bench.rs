//! `natgate bench`: what to measure, from words; results, as words.

use super::output::Output;
use crate::bench::family::Family;
use crate::bench::order::Pattern;
use crate::bench::procedure::Procedure;
use crate::bench::{
    BenchError, INTERNET_MIX, Options, WIRE_CHECKSUM, compare, record::Trial, table,
};
use crate::control::api::{Failure, FailureKind};
#[cfg(feature = "dpdk")]
use crate::{bench::wire, dataplane::device::Device, wire::MacAddr};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `natgate bench`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Something other than measuring the packet path alone.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// What to measure alone.
    #[command(flatten)]
    pub core: CoreArgs,
}

/// `natgate bench COMMAND`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Two files of results beside each other: medians, and the second by the first.
    Compare {
        /// The first, written by `natgate bench --output`.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
    /// Send through a running device under test, natgate or another, and examine what comes back.
    #[cfg(feature = "dpdk")]
    Wire(WireArgs),
}

/// `natgate bench wire`.
#[cfg(feature = "dpdk")]
#[derive(Args, Debug)]
pub struct WireArgs {
    /// Port on its inside, as in a configuration: `memif:SOCKET,role=client`.
    #[arg(value_name = "DEVICE")]
    pub inside: Device,
    /// Port on its outside.
    #[arg(value_name = "DEVICE")]
    pub outside: Device,
    /// MAC address of its inside port.
    #[arg(long, default_value = "02:00:00:00:00:11")]
    pub inside_mac: MacAddr,
    /// MAC address of its outside port.
    #[arg(long, default_value = "02:00:00:00:00:12")]
    pub outside_mac: MacAddr,
    /// It does not translate: only count what comes back.
    #[arg(long)]
    pub untranslated: bool,
    /// What the packets are.
    #[arg(long, value_enum, default_value_t = Family::Ipv4)]
    pub family: Family,
    /// Flows.
    #[arg(long, default_value_t = 64_512, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub sessions: u32,
    /// Frame size with the checksum, 64 to 1518, or `imix`.
    #[arg(long, default_value = "64", value_parser = frame)]
    pub frame: Frame,
    /// The order of the flows.
    #[arg(long, value_enum, default_value_t = Pattern::Random)]
    pub order: Pattern,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Millions of frames a second; as fast as the rings take them without.
    #[arg(long, value_name = "MPPS")]
    pub rate: Option<f64>,
    /// Core of the generator.
    #[arg(long, default_value_t = 0)]
    pub core: usize,
    /// Do without huge pages.
    #[arg(long)]
    pub no_hugepages: bool,
    /// What random choices start from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print every trial as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// The worker loop over devices in memory.
#[derive(Args, Debug)]
pub struct CoreArgs {
    /// Procedures, one after the other.
    #[arg(value_enum, value_name = "PROCEDURE", default_values_t = [Procedure::Establish, Procedure::Validate, Procedure::Throughput])]
    pub procedures: Vec<Procedure>,
    /// All procedures.
    #[arg(long, conflicts_with = "procedures")]
    pub all: bool,
    /// Session counts, over all workers.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 64_512, 1_032_192], value_parser = clap::value_parser!(u32).range(63..=100_000_000))]
    pub sessions: Vec<u32>,
    /// What the packets are: `ipv4`, `ipv6`, or both in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Family::Ipv4])]
    pub family: Vec<Family>,
    /// Worker counts; `scale` goes from 1 to the largest, or to the number of cores.
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u8).range(1..=64))]
    pub workers: Vec<u8>,
    /// Packets of each phase, per worker.
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub packets: u64,
    /// Frame size with the checksum, 64 to 1518, or `imix`: 64, 594 and 1518 bytes, 7 : 4 : 1; IPv6: no less than 74.
    #[arg(long, default_value = "64", value_parser = frame)]
    pub frame: Frame,
    /// The order in which established flows send.
    #[arg(long, value_enum, default_value_t = Pattern::Random)]
    pub order: Pattern,
    /// Times everything is run; the table shows medians.
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// What random choices start from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print every trial as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write every trial to this file as well, as JSON.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// A frame size, or a mix of them.
#[derive(Clone, Debug)]
pub struct Frame {
    name: String,
    lengths: Vec<usize>,
}

fn frame(text: &str) -> Result<Frame, String> {
    let lengths = match (text, text.parse::<usize>()) {
        ("imix", _) => INTERNET_MIX.to_vec(),
        (_, Ok(bytes @ 64..=1518)) => vec![bytes - WIRE_CHECKSUM],
        _ => return Err("64 to 1518, or imix".to_owned()),
    };
    Ok(Frame {
        name: text.to_owned(),
        lengths,
    })
}

/// Carries it out.
///
/// # Errors
/// When something cannot be measured, or a packet was lost or came back translated wrongly.
pub fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let done = match &args.command {
        None => core(&args.core),
        Some(BenchCommand::Compare { first, second }) => compare_files(first, second),
        #[cfg(feature = "dpdk")]
        Some(BenchCommand::Wire(args)) => wire(args),
    };
    done.map_err(|error| Failure::new(FailureKind::Failed, "bench", error.to_string()))
}

fn compare_files(first: &std::path::Path, second: &std::path::Path) -> Result<(), BenchError> {
    let (first, second) = (compare::read(first)?, compare::read(second)?);
    print!("{}", compare::table(&first, &second));
    Ok(())
}

fn core(args: &CoreArgs) -> Result<(), BenchError> {
    let options = Options {
        procedures: match args.all {
            true => Procedure::value_variants().to_vec(),
            false => args.procedures.clone(),
        },
        sessions: args.sessions.clone(),
        families: args.family.clone(),
        workers: args.workers.clone(),
        lengths: args.frame.lengths.clone(),
        frame: args.frame.name.clone(),
        pattern: args.order,
        packets: args.packets,
        rounds: args.rounds,
        seed: args.seed,
    };
    let each_at_once = !args.json && args.rounds == 1;
    if !args.json {
        println!("{}", table::heading());
    }
    let trials = crate::bench::run(&options, |trial| {
        if each_at_once {
            println!("{}", table::row(&[trial]));
        }
    })?;
    if !args.json && !each_at_once {
        for (_, group) in table::grouped(&trials) {
            println!("{}", table::row(&group));
        }
    }
    if args.json {
        json(&trials)?;
    }
    if let Some(file) = &args.output {
        let failed = |why: String| BenchError::Results(format!("{}: {why}", file.display()));
        let text = serde_json::to_vec_pretty(&trials).map_err(|e| failed(e.to_string()))?;
        std::fs::write(file, text).map_err(|e| failed(e.to_string()))?;
    }
    faultless(&trials)
}

/// Losses are results here: a device under test that is slower than the generator has some.
#[cfg(feature = "dpdk")]
fn wire(args: &WireArgs) -> Result<(), BenchError> {
    let options = wire::Options {
        ports: [args.inside.clone(), args.outside.clone()],
        macs: [args.inside_mac, args.outside_mac],
        translates: !args.untranslated,
        family: args.family,
        sessions: args.sessions,
        lengths: args.frame.lengths.clone(),
        frame: args.frame.name.clone(),
        pattern: args.order,
        seconds: args.seconds,
        rate: args.rate.map(|millions| millions * 1e6),
        core: args.core,
        hugepages: !args.no_hugepages,
        seed: args.seed,
    };
    let trials = wire::run(&options)?;
    if args.json {
        return json(&trials);
    }
    println!("{}", wire::heading());
    for trial in &trials {
        println!("{}", wire::row(trial));
    }
    let wrong: u64 = trials.iter().map(|t| t.wrong).sum();
    match wrong {
        0 => Ok(()),
        _ => Err(BenchError::Results(format!(
            "{wrong} packets came back wrong"
        ))),
    }
}

fn json<T: serde::Serialize>(trials: &T) -> Result<(), BenchError> {
    let mut out = Output::default();
    out.json(trials)
        .map_err(|e| BenchError::Results(format!("standard output: {e:?}")))
}

/// A run in which a packet is lost or wrong is a failed run.
fn faultless(trials: &[Trial]) -> Result<(), BenchError> {
    let faults: Vec<String> = trials
        .iter()
        .filter(|trial| !trial.is_faultless())
        .map(|t| {
            format!(
                "{}, {} with {} sessions of {}: {} packets lost, {} wrong (drops of the run: {:?})",
                t.procedure.name(),
                t.phase,
                t.sessions,
                t.family.name(),
                t.lost,
                t.wrong,
                t.drops_of_run
            )
        })
        .collect();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(BenchError::Results(faults.join("; "))),
    }
}
