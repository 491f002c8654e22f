//! Facts about the machine that belong to every figure.

use std::fs;

use crate::dataplane::clock::Clock;

/// Dependent steps of the calibration.
const STEPS: u64 = 4_000_000;

/// Cycles of a step: a 64-bit multiplication takes three, a shift and an exclusive or one each, on every processor of the
/// last decade.
const CYCLES_PER_STEP: f64 = 5.0;

/// The frequency the core really runs at, from a chain of instructions whose length in cycles is known. A machine that
/// throttles, or whose core is shared, shows a lower one.
pub fn gigahertz() -> f64 {
    let clock = Clock::start();
    let mut x = std::hint::black_box(1u64);
    for _ in 0..STEPS {
        x = (x ^ (x >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    std::hint::black_box(x);
    STEPS as f64 * CYCLES_PER_STEP / clock.nanos().max(1) as f64
}

/// Time stamp counter cycles per nanosecond.
pub fn cycles_per_nano() -> f64 {
    let (clock, cycles) = (Clock::start(), crate::arch::cycles());
    std::thread::sleep(std::time::Duration::from_millis(20));
    (crate::arch::cycles() - cycles) as f64 / clock.nanos().max(1) as f64
}

/// The processor's name.
pub fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    model
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        .unwrap_or_default()
}

/// Huge pages: reserved ones, and what the kernel does by itself.
pub fn huge_pages() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let reserved = read("/proc/sys/vm/nr_hugepages");
    let modes = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = modes
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("unknown", |(mode, _)| mode);
    format!("{} reserved, transparent {chosen}", reserved.trim())
}
