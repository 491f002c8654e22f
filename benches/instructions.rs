//! Instructions per packet of the fast path and of session creation, counted by callgrind and held against a baseline.
//!
//! Unlike time, the number of instructions is the same on a busy machine and on a quiet one, so a test can watch it: this
//! program fails when a figure is more than 3 % above `benches/instructions.toml`. After a change that is worth its price,
//! `cargo bench --bench instructions -- --update` writes the file anew.
//!
//! Counted is [`Shard::receive`] on bursts of 64 of the smallest frames, from parsing to the sink, in the release profile.
//! valgrind has no AVX-512 but AESENC, so what is counted is the AESENC hash, the SSE2 tag compare and whatever the
//! compiler made of the rest for a generic x86-64 processor: all there is in a distribution's build.

#![allow(missing_docs, reason = "a benchmark is no interface")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use natgate::base::time::Now;
use natgate::base::{InterfaceId, PortId, WorkerId};
use natgate::bench::buffer::SlotBuffer;
use natgate::bench::family::Family;
use natgate::bench::template::{Kind, Template};
use natgate::bench::traffic::{Population, Purpose, Seen};
use natgate::config::compile::compile_text;
use natgate::dataplane::buffer::{BURST, Buffer, Burst, Message, Sink};
use natgate::dataplane::shard::{Shard, ShardSize};
use natgate::flow::key::Tuple;
use natgate::nat::policy::Policy;
use natgate::wire::MacAddr;

/// Sessions: a whole number of bursts.
const FLOWS: u32 = 63 * 64;
/// Bursts that are counted.
const BURSTS: u32 = FLOWS / BURST as u32;
/// Growth that is still taken for none.
const TOLERANCE: f64 = 1.03;
/// What is counted.
const CASES: [&str; 3] = ["out", "in", "create"];
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--count", case] => Lab::run_case(case),
        _ => compare(arguments.iter().any(|a| a == "--update")),
    }
}

/// What a case is called in the baseline.
fn name(family: Family, case: &str) -> String {
    format!("{}-{case}", family.name())
}

/// Counts all cases and holds them against the baseline.
fn compare(update: bool) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.toml");
    let mut counts = BTreeMap::new();
    for case in FAMILIES.iter().flat_map(|f| CASES.map(|c| name(*f, c))) {
        counts.insert(case.clone(), count(&case)?);
    }
    if update {
        let head = "# Instructions per packet, see instructions.rs; written by `cargo bench --bench instructions -- --update`.\n";
        std::fs::write(&file, head.to_owned() + &toml::to_string(&counts)?)?;
    }
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let baseline: BTreeMap<String, f64> = toml::from_str(&text)?;
    let mut grown = Vec::new();
    for (case, now) in &counts {
        let before = baseline
            .get(case)
            .with_context(|| format!("no baseline for {case}"))?;
        println!("{case:<12} {now:>8.1} instructions per packet, baseline {before:.1}");
        if *now > before * TOLERANCE {
            grown.push(case.as_str());
        }
    }
    ensure!(
        grown.is_empty(),
        "more than 3 % above the baseline: {} (on purpose? cargo bench --bench instructions -- --update)",
        grown.join(", ")
    );
    Ok(())
}

/// Instructions per packet of one case: this program once more, under callgrind.
fn count(case: &str) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["--count", case])
        .output()
        .context("cannot start valgrind (apt install valgrind)")?;
    ensure!(
        output.status.success(),
        "{case}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let total = total(&out)?;
    ensure!(total > 0, "{case}: nothing was counted");
    Ok((total as f64 / f64::from(BURSTS * BURST as u32) * 10.0).round() / 10.0)
}

/// The instructions in a profile.
fn total(profile: &PathBuf) -> Result<u64> {
    let text = std::fs::read_to_string(profile)?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"));
    Ok(line.context("a profile without totals")?.trim().parse()?)
}

/// What is counted. A function of its own, so that callgrind can tell where it begins and ends.
#[inline(never)]
fn counted(lab: &mut Lab, port: PortId, burst: &mut Burst<SlotBuffer>) {
    lab.shard
        .receive(&lab.policy, lab.now, port, burst, &mut lab.sink);
}

/// A shard between two stations that are not counted.
struct Lab {
    family: Family,
    policy: Arc<Policy>,
    shard: Shard<SlotBuffer>,
    sink: Shelf,
    now: Now,
    population: Population,
    macs: [MacAddr; 2],
    /// External endpoint of each flow.
    outside: Vec<(u32, u16)>,
}

impl Lab {
    fn new(family: Family) -> Result<Lab> {
        let text = policy(family);
        let policy = compile_text("instructions", &text).map_err(|e| anyhow::anyhow!("{e}"))?;
        let size = ShardSize::small();
        let size = ShardSize {
            nat_v6: size.nat,
            ..size
        };
        let mac = |id| policy.interfaces.get(InterfaceId(id)).map(|i| i.mac);
        let mut lab = Lab {
            family,
            macs: [
                mac(0).unwrap_or(MacAddr::ZERO),
                mac(1).unwrap_or(MacAddr::ZERO),
            ],
            shard: Shard::new(WorkerId(0), size, 1, [2, 3])?,
            sink: Shelf {
                sent: Vec::with_capacity(BURST),
                free: Vec::new(),
            },
            now: Now::at(1_000),
            population: Population::new(FLOWS, 0, |_| true),
            outside: vec![(0, 0); FLOWS as usize],
            policy,
        };
        lab.shard
            .policy_changed(&lab.policy, lab.now, &mut lab.sink);
        Ok(lab)
    }

    /// Counts the case with this name.
    fn run_case(name: &str) -> Result<()> {
        for (family, case) in FAMILIES.iter().flat_map(|f| CASES.map(|c| (*f, c))) {
            if self::name(family, case) == name {
                return Lab::new(family)?.run(case);
            }
        }
        bail!("unknown case {name}")
    }

    fn run(&mut self, case: &str) -> Result<()> {
        ensure!(
            natgate::arch::Aes::detect().is_some(),
            "the baseline is of processors with AESENC"
        );
        if case == "create" {
            return self.pass(0, true);
        }
        self.pass(0, false)?;
        // The first answer changes a session's state, the first packet of a tick its time.
        self.pass(1, false)?;
        self.pass(0, false)?;
        match case {
            "out" => self.pass(0, true),
            "in" => self.pass(1, true),
            _ => bail!("unknown case {case}"),
        }
    }

    /// One packet of every flow, from the inside (0) or from the outside (1).
    fn pass(&mut self, side: usize, count: bool) -> Result<()> {
        let template = Template::new(
            self.family,
            Kind::Datagram,
            Purpose::Established,
            0,
            self.macs[side],
            MacAddr([2, 0, 0, 0, 0, 2]),
        );
        for first in (0..FLOWS).step_by(BURST) {
            let mut burst = Burst::new();
            for flow in first..first + BURST as u32 {
                let mut buffer = self.sink.free.pop().unwrap_or_default();
                buffer.reset(template.length());
                let tuple = self.tuple(flow, side);
                template.write(buffer.bytes_mut(), &tuple, flow, 0);
                burst.push(buffer);
            }
            let port = PortId(side as u16);
            match count {
                true => counted(self, port, &mut burst),
                false => {
                    self.shard
                        .receive(&self.policy, self.now, port, &mut burst, &mut self.sink)
                }
            }
            self.collect(first)?;
        }
        Ok(())
    }

    fn tuple(&self, flow: u32, side: usize) -> Tuple<u32> {
        let tuple = self.population.tuple(flow);
        let (destination, destination_port) = self.outside[flow as usize];
        match side {
            0 => tuple,
            _ => Tuple {
                source: tuple.destination,
                destination,
                source_port: tuple.destination_port,
                destination_port,
            },
        }
    }

    /// All 64 must have come out of the other port.
    fn collect(&mut self, first: u32) -> Result<()> {
        ensure!(
            self.sink.sent.len() == BURST,
            "{} of 64 came out",
            self.sink.sent.len()
        );
        for (at, (port, buffer)) in self.sink.sent.drain(..).enumerate() {
            if port == PortId(1)
                && let Some(seen) = Seen::read(self.family, buffer.bytes())
            {
                self.outside[first as usize + at] = seen.source();
            }
            self.sink.free.push(buffer);
        }
        Ok(())
    }
}

/// Where frames go: nothing is copied, so that next to nothing of it is counted.
struct Shelf {
    sent: Vec<(PortId, SlotBuffer)>,
    free: Vec<SlotBuffer>,
}

impl Sink<SlotBuffer> for Shelf {
    fn allocate(&mut self) -> Option<SlotBuffer> {
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.reset(0);
        buffer.soil();
        Some(buffer)
    }

    fn transmit(&mut self, port: PortId, buffer: SlotBuffer) {
        self.sent.push((port, buffer));
    }

    fn discard(&mut self, buffer: SlotBuffer) {
        self.free.push(buffer);
    }

    fn hand_over(
        &mut self,
        _to: WorkerId,
        message: Message<SlotBuffer>,
    ) -> Result<(), Message<SlotBuffer>> {
        Err(message)
    }
}

/// A carrier: port blocks, random ports, neighbours known.
fn policy(family: Family) -> String {
    let address = |number| family.address(number);
    let (inside, outside, pool) = (0x0aff_ff00, 0xc000_0200, 0xcb00_7100);
    format!(
        r#"
schema = 1
[[port]]
name = "p0"
device = "null:"
[[port]]
name = "p1"
device = "null:"
[[interface]]
name = "inside"
port = "p0"
address = ["{}/{link}"]
[[interface]]
name = "outside"
port = "p1"
address = ["{}/{link}"]
[[route]]
prefix = "{}/{}"
via = "{beyond}"
[[route]]
prefix = "{}/{}"
via = "{router}"
[[neighbour]]
interface = "outside"
address = "{beyond}"
mac = "02:00:00:00:00:02"
[[neighbour]]
interface = "inside"
address = "{router}"
mac = "02:00:00:00:00:01"
[[pool]]
name = "carrier"
addresses = ["{}-{}"]
block = {{ size = 64, max_per_host = 1 }}
filtering = "endpoint"
answer_arp = false
[[source-nat]]
in = "inside"
out = "outside"
via = "pool:carrier"
"#,
        address(inside + 1),
        address(outside + 1),
        address(0),
        family.prefix_length(0),
        address(0x0a00_0000),
        family.prefix_length(8),
        address(pool + 1),
        address(pool + 2),
        link = family.prefix_length(30),
        router = address(inside + 2),
        beyond = address(outside + 2),
    )
}
