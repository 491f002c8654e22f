//! Trials as a table: one line for each phase, medians over the rounds.

use crate::bench::record::Trial;

/// What makes trials repetitions of one another.
pub type Subject = (String, String, String, u8, u64, String, String);

/// The subject of a trial.
pub fn subject(trial: &Trial) -> Subject {
    (
        trial.procedure.name(),
        trial.phase.clone(),
        trial.family.name(),
        trial.workers,
        trial.sessions,
        trial.frame.clone(),
        format!("{:?}", trial.pattern).to_lowercase(),
    )
}

/// Trials by subject, in the order of their first occurrence.
pub fn grouped(trials: &[Trial]) -> Vec<(Subject, Vec<&Trial>)> {
    let mut groups: Vec<(Subject, Vec<&Trial>)> = Vec::new();
    for trial in trials {
        let subject = subject(trial);
        match groups.iter_mut().find(|(s, _)| *s == subject) {
            Some((_, group)) => group.push(trial),
            None => groups.push((subject, vec![trial])),
        }
    }
    groups
}

/// The median of a figure over repetitions.
pub fn median(trials: &[&Trial], of: impl Fn(&Trial) -> f64) -> f64 {
    let mut figures: Vec<f64> = trials.iter().map(|t| of(t)).collect();
    figures.sort_by(f64::total_cmp);
    let at = |i: usize| figures.get(i).copied().unwrap_or_default();
    (at(figures.len() / 2) + at(figures.len().saturating_sub(1) / 2)) / 2.0
}

const HEADINGS: [&str; 18] = [
    "procedure",
    "phase",
    "family",
    "workers",
    "sessions",
    "frame",
    "Mpps",
    "cycles",
    "p10",
    "generator",
    "misses",
    "new M/s",
    "refused M/s",
    "p50 µs",
    "p99.9 µs",
    "max µs",
    "B/session",
    "lost/wrong/reordered",
];

/// The heading line.
pub fn heading() -> String {
    line(&HEADINGS.map(str::to_owned))
}

/// One line: repetitions of the same phase.
pub fn row(trials: &[&Trial]) -> String {
    let Some(first) = trials.first() else {
        return String::new();
    };
    let of = |figure: fn(&Trial) -> f64| median(trials, figure);
    let millions = |figure: fn(&Trial) -> f64| match of(figure) / 1e6 {
        0.0 => "-".to_owned(),
        rate => format!("{rate:.2}"),
    };
    let micros = |figure: fn(&Trial) -> f64| format!("{:.1}", of(figure) / 1e3);
    let sum = |figure: fn(&Trial) -> u64| trials.iter().map(|t| figure(t)).sum::<u64>();
    line(&[
        first.procedure.name(),
        first.phase.clone(),
        first.family.name(),
        first.workers.to_string(),
        first.sessions.to_string(),
        first.frame.clone(),
        millions(|t| t.packets_per_second),
        format!("{:.0}", of(|t| t.cycles_per_packet_median)),
        format!("{:.0}", of(|t| t.cycles_per_packet_p10)),
        format!("{:.0}", of(|t| t.generator_cycles_per_packet)),
        misses(trials),
        millions(|t| t.sessions_per_second),
        millions(|t| t.refused_per_second),
        micros(|t| t.residence.p50_nanos),
        micros(|t| t.residence.p99_9_nanos),
        micros(|t| t.residence.max_nanos),
        format!("{:.1}", of(|t| t.bytes_per_session)),
        format!(
            "{}/{}/{}",
            sum(|t| t.lost),
            sum(|t| t.wrong),
            sum(|t| t.reordered)
        ),
    ])
}

/// Cache misses per packet, or that nobody counted them.
fn misses(trials: &[&Trial]) -> String {
    let counted: Option<Vec<f64>> = trials.iter().map(|t| t.cache_misses_per_packet).collect();
    match counted {
        Some(_) => format!(
            "{:.2}",
            median(trials, |t| t.cache_misses_per_packet.unwrap_or_default())
        ),
        None => "not measured".to_owned(),
    }
}

/// Columns of fixed width, so that lines can be printed as they come.
fn line(cells: &[String; 18]) -> String {
    const WIDTHS: [usize; 18] = [10, 16, 6, 7, 9, 5, 7, 6, 5, 9, 12, 7, 11, 8, 8, 9, 9, 0];
    let mut line = String::new();
    for (at, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        let cell = match at {
            0 | 1 => format!("{cell:<width$} "),
            _ => format!("{cell:>width$} "),
        };
        line.push_str(&cell);
    }
    line.trim_end().to_owned()
}
