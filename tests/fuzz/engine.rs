//! The loop every target shares: replay what once failed, try the corpus as it is, then mutate until time is up.
//!
//! A target returns signatures of what happened (which reason, which kind of packet). An input with one not seen before
//! joins the corpus: a coarse stand-in for coverage, which stable Rust offers only to external tools.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use natgate::base::Random;
use natgate::dataplane::clock::Clock;

/// Seconds per target without `NATGATE_FUZZ_SECONDS`.
const SECONDS: u64 = 3;

/// The seed without `NATGATE_FUZZ_SEED`.
const SEED: u64 = 0x6e61_7467;

/// Inputs kept for their new signatures.
const CORPUS_LIMIT: usize = 4096;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a decimal number, not {text:?}")),
        Err(_) => default,
    }
}

/// Runs after which a target that still shows too few outcomes has failed.
const PATIENCE: u64 = 50_000;

/// Where failing inputs of a target are kept, and replayed from.
pub fn crashes(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/crashes")
        .join(target)
}

/// The kept inputs of a target, by file name.
pub fn kept(target: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(crashes(target)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// How inputs of a target come about, are tried, and are made smaller.
pub trait Target {
    /// Runs one input; panics when it shows a fault. Returns what happened.
    fn run(&self, input: &[u8]) -> Vec<u64>;
    /// Makes the next input from the corpus, which is never empty.
    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8>;
    /// Smaller inputs that may fail as well, the most promising first.
    fn smaller(&self, _input: &[u8]) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// Fuzzes one target. At least `outcomes` different things must happen: a fuzzer that reaches nothing finds nothing.
pub fn fuzz(name: &str, target: &impl Target, mut corpus: Vec<Vec<u8>>, outcomes: usize) {
    let seed = setting("NATGATE_FUZZ_SEED", SEED);
    let nanos = setting("NATGATE_FUZZ_SECONDS", SECONDS) * 1_000_000_000;
    let mut random = Random::from_seed(seed);
    let mut seen = BTreeSet::new();
    let replayed = kept(name);
    for input in replayed.iter().chain(&corpus) {
        seen.extend(attempt(name, target, input, seed));
    }
    corpus.extend(replayed);
    let clock = Clock::start();
    let mut runs = 0u64;
    // On a busy machine the time may be over before much has been tried.
    while runs < 16 || clock.nanos() < nanos || (seen.len() < outcomes && runs < PATIENCE) {
        let input = target.next(&corpus, &mut random);
        let before = seen.len();
        seen.extend(attempt(name, target, &input, seed));
        if seen.len() > before && corpus.len() < CORPUS_LIMIT {
            corpus.push(input);
        }
        runs += 1;
    }
    println!("{name}: {runs} runs, {} outcomes, seed {seed}", seen.len());
    assert!(
        seen.len() >= outcomes,
        "{name}: only {} different outcomes in {runs} runs, {outcomes} expected: the inputs reach nothing",
        seen.len()
    );
}

/// Runs one input; a failing one is made smaller, written down and reported.
fn attempt(name: &str, target: &impl Target, input: &[u8], seed: u64) -> Vec<u64> {
    if let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| target.run(input))) {
        return outcome;
    }
    let mut least = input.to_vec();
    while let Some(less) = target
        .smaller(&least)
        .into_iter()
        .find(|less| catch_unwind(AssertUnwindSafe(|| target.run(less))).is_err())
    {
        least = less;
    }
    let path = crashes(name).join(format!("{:016x}", fingerprint(&least)));
    fs::create_dir_all(crashes(name)).unwrap();
    fs::write(&path, &least).unwrap();
    eprintln!(
        "{name}: failed with seed {seed}; input kept in {}",
        path.display()
    );
    target.run(&least)
}

/// FNV-1a: names files, combines signatures.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The signature of anything that prints.
pub fn signature(what: impl std::fmt::Debug) -> u64 {
    fingerprint(format!("{what:?}").as_bytes())
}
