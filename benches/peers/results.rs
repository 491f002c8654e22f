//! The figures as a table, as JSON and as plots.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::plot;
use crate::statistics::Spread;
use crate::wire::{BOTH_TENTHS, OUT_TENTHS};
use ::natgate::bench::record::Circumstances;

/// Cores of one chip are nearer than this, those of different ones farther.
const NEAR_NANOS: f64 = 80.0;

/// One contender in one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub setting: String,
    pub direction: String,
    pub sessions: u32,
    pub contender: String,
    /// Packets per second over the rounds; `None`: not measured.
    pub rate: Option<Spread>,
    /// natgate's rate by this one's, round by round, where natgate took part.
    pub natgate_by_it: Option<Spread>,
}

impl Row {
    pub fn line(&self) -> String {
        let rate = self.rate.map_or("not measured".to_owned(), |r| {
            format!(
                "{:.2} ({:.2}–{:.2})",
                r.median / 1e6,
                r.least / 1e6,
                r.most / 1e6
            )
        });
        let share = self.natgate_by_it.map_or("–".to_owned(), |s| {
            format!("{:.2} ({:.2}–{:.2})", s.median, s.least, s.most)
        });
        format!(
            "| {:<7} | {:<10} | {:>10} | {:<19} | {:>20} | {:>18} |",
            self.setting, self.direction, self.sessions, self.contender, rate, share
        )
    }
}

/// All of them, and where they come from.
#[derive(Debug, Serialize)]
pub struct Results {
    pub huge_pages: bool,
    pub rounds: u32,
    pub circumstances: Circumstances,
    /// Nanoseconds a cache line took from core to core, before each turn.
    pub nanos_apart: Vec<f64>,
    pub rows: Vec<Row>,
}

impl Results {
    pub fn new(huge_pages: bool, rounds: u32) -> Results {
        Results {
            huge_pages,
            rounds,
            circumstances: Circumstances::now(1),
            nanos_apart: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub fn heading(&self) -> String {
        let pages = match self.huge_pages {
            true => "huge pages for all packet buffers",
            false => "no huge pages for anybody",
        };
        format!(
            "natgate {}, {}, {:.2} GHz; 64-byte packets, one core, {pages}; medians of {} rounds (least–most)\n\n\
             | {:<7} | {:<10} | {:>10} | {:<19} | {:>20} | {:>18} |\n|---|---|--:|---|--:|--:|",
            self.circumstances.revision,
            self.circumstances.cpu_model,
            self.circumstances.gigahertz_after,
            self.rounds,
            "setting",
            "",
            "sessions",
            "",
            "Mpps",
            "natgate by it"
        )
    }

    /// How far the two cores were apart.
    pub fn distances(&self) -> String {
        let spread = Spread::of(&self.nanos_apart);
        let near = self.nanos_apart.iter().filter(|n| **n < NEAR_NANOS).count();
        format!(
            "A cache line went from core to core in {:.0} ns (median; {:.0}–{:.0}); before {near} of {} turns in less than {NEAR_NANOS}.",
            spread.median,
            spread.least,
            spread.most,
            self.nanos_apart.len(),
        )
    }

    /// Writes `peers.md`, `peers.json`, and a plot for each setting and direction.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let mut lines = vec![self.heading()];
        lines.extend(self.rows.iter().map(Row::line));
        lines.extend([String::new(), self.distances()]);
        std::fs::write(dir.join("peers.md"), lines.join("\n") + "\n")?;
        std::fs::write(dir.join("peers.json"), serde_json::to_vec_pretty(self)?)?;
        for setting in ["replay", "wire"] {
            for direction in ["out", OUT_TENTHS, "both", BOTH_TENTHS] {
                let rows = self.rows.iter();
                let rows: Vec<&Row> = rows
                    .filter(|row| row.direction == direction)
                    .filter(|row| row.setting == setting || row.setting == "kernel")
                    .collect();
                if rows.iter().any(|row| row.setting == setting) {
                    let title =
                        format!("{setting}, {direction}: million packets per second, one core");
                    let name = direction.replace(", ", "-");
                    let file = dir.join(format!("peers-{setting}-{name}.svg"));
                    std::fs::write(file, plot::bars(&title, &rows))?;
                }
            }
        }
        Ok(())
    }
}
