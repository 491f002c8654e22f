//! Contenders over memif, with `natgate bench wire` as generator and examiner.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::Running;
use crate::{Bench, Contender, Rates, SENDER, natgate, testpmd, text, vpp};

/// Directions whose rates are those of tenths of a second.
pub const OUT_TENTHS: &str = "out, near";
pub const BOTH_TENTHS: &str = "both, near";

/// Where natgate's ports listen; others take everything.
pub const MACS: [&str; 2] = ["02:00:00:00:00:11", "02:00:00:00:00:12"];

/// Starts the contender, sends through it, ends it.
pub fn measure(bench: &Bench, contender: Contender) -> Result<Rates> {
    for name in SOCKETS {
        // The last turn's.
        let _ = std::fs::remove_file(bench.path(name));
    }
    let mut running = match contender {
        Contender::FiveTupleSwap => testpmd::on_memif(bench, "5tswap")?,
        Contender::Io => testpmd::on_memif(bench, "io")?,
        Contender::Vpp(plugin) => vpp::on_memif(bench, plugin)?,
        Contender::Natgate | Contender::Kernel => natgate::on_memif(bench)?,
    };
    let sockets = SOCKETS.map(|name| bench.path(name));
    running.wait_for(|_| sockets.iter().all(|socket| socket.exists()))?;
    let translates = !matches!(contender, Contender::FiveTupleSwap | Contender::Io);
    let rates = generate(bench, translates).with_context(|| running.output());
    running.stop()?;
    rates
}

/// The sockets' names in the directory of the bench, inside and outside.
pub const SOCKETS: [&str; 2] = ["inside.memif", "outside.memif"];

fn generate(bench: &Bench, translates: bool) -> Result<Rates> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_natgate"));
    command.args(["bench", "wire", "--json"]);
    for socket in SOCKETS {
        command.arg(format!("memif:{},role=client", text(&bench.path(socket))?));
    }
    command.args(["--inside-mac", MACS[0], "--outside-mac", MACS[1]]);
    command.args(["--sessions", &bench.sessions.to_string()]);
    command.args(["--seconds", &bench.seconds.to_string()]);
    command.args(["--core", &SENDER.to_string()]);
    if !translates {
        command.arg("--untranslated");
    }
    if !bench.huge {
        command.arg("--no-hugepages");
    }
    let mut running = Running::start(&mut command, bench.path("wire.json"))?;
    let status = running.wait()?;
    let output = running.output();
    ensure!(status.success(), "the generator failed:\n{output}");
    // Log lines of its own may come before the document.
    let document = output
        .find("\n[")
        .map_or(output.as_str(), |at| &output[at..]);
    let trials: Vec<Value> = serde_json::from_str(document).with_context(|| output.clone())?;
    let mut rates = Vec::new();
    for trial in &trials {
        ensure!(trial["wrong"] == 0, "packets came back wrong: {trial}");
        let validates = trial["phase"]
            .as_str()
            .is_some_and(|p| p.starts_with("validate"));
        ensure!(
            !validates || trial["lost"] == 0,
            "sessions were lost: {trial}"
        );
        for (direction, tenths) in [("out", OUT_TENTHS), ("both", BOTH_TENTHS)] {
            if trial["phase"] == direction {
                let rate = trial["packets_per_second"].as_f64();
                rates.push((direction, rate.context("a trial without a rate")?));
                let parts = trial["tenths_per_second"].as_array().into_iter().flatten();
                rates.extend(parts.filter_map(|rate| Some((tenths, rate.as_f64()?))));
            }
        }
    }
    Ok(rates)
}
