//! Grouped bars as SVG: a group for each session count, a bar for each contender, a whisker from least to most.

use std::fmt::Write;

use crate::results::Row;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
/// Room for the scale, for title and legend, and for the session counts.
const LEFT: f64 = 50.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 40.0;
const COLOURS: [&str; 4] = ["#0b6e4f", "#c84c09", "#8d99ae", "#3d348b"];

/// The plot of some rows.
pub fn bars(title: &str, rows: &[&Row]) -> String {
    let mut sessions: Vec<u32> = rows.iter().map(|r| r.sessions).collect();
    sessions.sort_unstable();
    sessions.dedup();
    let mut contenders: Vec<&str> = Vec::new();
    for row in rows {
        if !contenders.contains(&row.contender.as_str()) {
            contenders.push(&row.contender);
        }
    }
    let most = rows.iter().filter_map(|r| r.rate).map(|r| r.most / 1e6);
    let top = ceiling(most.fold(0.0, f64::max));
    let y = |mpps: f64| HEIGHT - BOTTOM - mpps / top * (HEIGHT - BOTTOM - TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{title}</text>\n"
    );
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{value:.1}</text>",
            y(value),
            LEFT - 6.0,
            y(value) + 4.0
        );
    }
    for (at, name) in contenders.iter().enumerate() {
        let x = LEFT + 170.0 * at as f64;
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"45\">{name}</text>",
            x + 18.0
        );
    }
    let group = (WIDTH - LEFT) / sessions.len().max(1) as f64;
    let bar = group * 0.8 / contenders.len().max(1) as f64;
    for (place, count) in sessions.iter().enumerate() {
        let left = LEFT + group * (place as f64 + 0.1);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{count} sessions</text>",
            left + group * 0.4,
            HEIGHT - BOTTOM + 18.0
        );
        for row in rows.iter().filter(|r| r.sessions == *count) {
            let Some((at, rate)) = contenders
                .iter()
                .position(|c| *c == row.contender)
                .zip(row.rate)
            else {
                continue;
            };
            let (x, height) = (left + bar * at as f64, y(0.0) - y(rate.median / 1e6));
            let middle = x + bar * 0.45;
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\"/>\
                 <line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\"/>\
                 <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\">{:.1}</text>",
                y(rate.median / 1e6),
                bar * 0.9,
                COLOURS[at % COLOURS.len()],
                y(rate.least / 1e6),
                y(rate.most / 1e6),
                y(rate.most / 1e6) - 4.0,
                rate.median / 1e6
            );
        }
    }
    svg + "</svg>\n"
}

/// The next round number: 1, 2 or 5 times a power of ten.
fn ceiling(value: f64) -> f64 {
    let power = 10f64.powf(value.max(0.01).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let fits = factors.iter().find(|factor| *factor * power >= value);
    fits.map_or(value, |factor| factor * power)
}
