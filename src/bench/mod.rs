//! `natgate bench`: the packet path measured without a network card.
//!
//! Every worker runs the real loop ([`crate::dataplane::worker::Worker::run`]) over devices in memory: its receive queue
//! computes frames, its transmit queue examines what came out and recycles the buffers. What is measured is therefore
//! everything between the two driver calls. The cost of generator and check is measured in the same run, phase by phase,
//! with the same queues and no translation between them; it is reported beside the result and never silently subtracted.
//!
//! | module | has |
//! |---|---|
//! | [`procedure`] | the named procedures: what each sets up and sends |
//! | [`phase`] | one stretch of traffic and what came of it |
//! | [`rig`] | real workers between stations: one run |
//! | [`station`] | both ends of the wire for one worker |
//! | [`ledger`] | what is known of every flow, and whether a frame agrees with it |
//! | [`script`], [`order`], [`family`], [`traffic`], [`template`], [`buffer`] | the frames |
//! | [`record`], [`table`], [`compare`] | results |
//! | `wire` | the generator in a process of its own |

pub mod buffer;
pub mod compare;
pub mod family;
pub mod ledger;
pub mod machine;
mod misses;
pub mod order;
pub mod phase;
pub mod procedure;
pub mod record;
pub mod rig;
pub mod script;
pub mod station;
pub mod table;
pub mod template;
pub mod traffic;
#[cfg(feature = "dpdk")]
pub mod wire;

use family::Family;
use order::Pattern;
use procedure::Procedure;
use record::Trial;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Procedures.
    pub procedures: Vec<Procedure>,
    /// Sessions, over all workers.
    pub sessions: Vec<u32>,
    /// What the packets are.
    pub families: Vec<Family>,
    /// Numbers of workers.
    pub workers: Vec<u8>,
    /// Sizes of established flows' frames in bytes, without the checksum the wire adds, in turn.
    pub lengths: Vec<usize>,
    /// What those sizes are called.
    pub frame: String,
    /// The order of established flows.
    pub pattern: Pattern,
    /// Frames of a phase, per worker.
    pub packets: u64,
    /// Times everything is run.
    pub rounds: u32,
    /// For whatever is random.
    pub seed: u64,
}

/// Bytes of a frame that the device adds and takes off: the Ethernet checksum.
pub const WIRE_CHECKSUM: usize = 4;

/// The internet mix: seven frames of 64 bytes, four of 594, one of 1518, checksums included.
pub const INTERNET_MIX: [usize; 12] = [60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60];

/// Why a benchmark could not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The built-in configuration was refused.
    #[error("the benchmark's own configuration was refused: {0}")]
    Config(String),
    /// A table did not fit in memory.
    #[error("{0}")]
    Memory(#[from] crate::arch::OutOfMemory),
    /// A histogram could not be made.
    #[error("histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// A worker died.
    #[error("a worker stopped before its script ended")]
    Worker,
    /// Packets in are not packets out, dropped, consumed or held.
    #[error("the workers' books do not balance: {0} packets")]
    Books(i64),
    /// A file of results.
    #[error("{0}")]
    Results(String),
}

/// Runs everything asked for; every trial is reported as soon as its run is over.
///
/// # Errors
/// When something cannot be run at all. Lost or wrong frames are in the trials; see [`Trial::is_faultless`].
pub fn run(options: &Options, mut progress: impl FnMut(&Trial)) -> Result<Vec<Trial>, BenchError> {
    let mut trials = Vec::new();
    for round in 0..options.rounds.max(1) {
        for &sessions in &options.sessions {
            for &procedure in &options.procedures {
                let each = procedure.workers(options).into_iter();
                let each =
                    each.flat_map(|workers| options.families.iter().map(move |f| (workers, *f)));
                for (workers, family) in each {
                    let rig = procedure.rig(options, family, workers, sessions);
                    let before = machine::gigahertz();
                    let outcome = rig.run()?;
                    let of_run = record::of(options, procedure, round, &rig, &outcome, before);
                    of_run.iter().for_each(&mut progress);
                    trials.extend(of_run);
                }
            }
        }
    }
    Ok(trials)
}
