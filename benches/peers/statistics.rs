//! Medians and what lies around them.

use serde::Serialize;

/// Median, least and most of some figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// What a tenth of the figures exceed, and the other ends of that tenth.
    pub fn of_best_tenth(figures: &[f64]) -> Spread {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        Spread::of(&sorted[sorted.len() - sorted.len().div_ceil(10)..])
    }

    /// All zero for no figures at all.
    pub fn of(figures: &[f64]) -> Spread {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or_default();
        Spread {
            median: (at(sorted.len() / 2) + at(sorted.len().saturating_sub(1) / 2)) / 2.0,
            least: at(0),
            most: at(sorted.len().saturating_sub(1)),
        }
    }
}
