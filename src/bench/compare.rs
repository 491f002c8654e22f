//! Two files of results beside each other.

use std::path::Path;

use crate::bench::BenchError;
use crate::bench::record::Trial;
use crate::bench::table::{grouped, median};

/// Reads a file that `natgate bench --json` wrote.
///
/// # Errors
/// When it cannot be read or holds something else.
pub fn read(path: &Path) -> Result<Vec<Trial>, BenchError> {
    let failed = |why: String| BenchError::Results(format!("{}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))
}

/// One line for each phase that is in both: medians, the second by the first, and whether the two overlap.
pub fn table(first: &[Trial], second: &[Trial]) -> String {
    let mut lines = vec![format!(
        "{:<49} {:>8} {:>8} {:>6} {:>9} {:>9} {:>6}",
        "", "Mpps A", "Mpps B", "B/A", "cycles A", "cycles B", "B/A"
    )];
    let second = grouped(second);
    for (subject, before) in grouped(first) {
        let Some((_, after)) = second.iter().find(|(s, _)| *s == subject) else {
            continue;
        };
        let (procedure, phase, family, workers, sessions, frame, pattern) = subject;
        let name =
            format!("{procedure}: {phase}, {family} {workers}×{sessions}, {frame} {pattern}");
        let rate = |t: &Trial| t.packets_per_second / 1e6;
        let cost = |t: &Trial| t.cycles_per_packet_median;
        let (rates, costs) = (
            (median(&before, rate), median(after, rate)),
            (median(&before, cost), median(after, cost)),
        );
        let overlap = overlaps(&before, after, rate);
        lines.push(format!(
            "{name:<49} {:>8.2} {:>8.2} {:>6.2} {:>9.0} {:>9.0} {:>6.2}{}",
            rates.0,
            rates.1,
            rates.1 / rates.0,
            costs.0,
            costs.1,
            costs.1 / costs.0,
            if overlap { "  (within the spread)" } else { "" }
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Whether the ranges of a figure have something in common: then a difference of medians may be chance.
fn overlaps(a: &[&Trial], b: &[&Trial], of: impl Fn(&Trial) -> f64) -> bool {
    let range = |trials: &[&Trial]| {
        let figures = trials.iter().map(|t| of(t));
        figures.fold((f64::MAX, f64::MIN), |(least, most), f| {
            (least.min(f), most.max(f))
        })
    };
    let ((least_a, most_a), (least_b, most_b)) = (range(a), range(b));
    least_a <= most_b && least_b <= most_a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Options;
    use crate::bench::family::Family;
    use crate::bench::order::Pattern;
    use crate::bench::procedure::Procedure;

    #[test]
    fn what_was_written_is_read_and_compared() {
        let options = Options {
            procedures: vec![Procedure::Establish],
            sessions: vec![126],
            families: vec![Family::Ipv4],
            workers: vec![1],
            lengths: vec![60],
            frame: "64".to_owned(),
            pattern: Pattern::Sequential,
            packets: 1000,
            rounds: 2,
            seed: 1,
        };
        let trials = crate::bench::run(&options, |_| {}).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_vec(&trials).unwrap()).unwrap();
        let first = read(file.path()).unwrap();
        let mut second = first.clone();
        let same = table(&first, &second);
        assert!(
            same.contains("establish: establish, ipv4 1×126, 64 sequential"),
            "{same}"
        );
        assert!(
            same.contains(" 1.00 ") && same.contains("within the spread"),
            "{same}"
        );
        for trial in &mut second {
            // Far beyond what rounds of the same program can differ by.
            trial.packets_per_second *= 1000.0;
        }
        let better = table(&first, &second);
        assert!(
            better.contains("1000.00") && !better.contains("within"),
            "{better}"
        );
        std::fs::write(file.path(), "[{}]").unwrap();
        assert!(
            read(file.path())
                .unwrap_err()
                .to_string()
                .contains("missing field")
        );
    }
}
