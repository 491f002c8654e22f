//! Durations as the exemption files of other systems write them: `1h30m`, `1.5s`, `250ms`.

use std::time::Duration;

const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Reads numbers with units, one after the other. Not above a year, and above zero: an interval of nothing would never
/// rest.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no duration (numbers with units, such as \"90s\" or \"1h30m\")");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() && rest != "0" {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        seconds += number * unit.1;
        rest = behind;
    }
    let limit = Duration::from_secs(366 * 86_400);
    match Duration::try_from_secs_f64(seconds) {
        Ok(_) if negative => Err(format!("{text:?} is below zero")),
        Ok(duration) if duration.is_zero() => {
            Err(format!("{text:?} would never rest (write at least \"1s\")"))
        }
        Ok(duration) if duration <= limit => Ok(duration),
        _ => Err(format!("{text:?} is more than a year")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use std::time::Duration;

    #[test]
    fn sums_decimals_and_every_unit() {
        let millis = |text| parse(text).map(|d| d.as_millis());
        assert_eq!(millis("60s"), Ok(60_000));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("1.5s"), Ok(1500));
        assert_eq!(millis("+.5s"), Ok(500));
        assert_eq!(millis("1m1s1ms"), Ok(61_001));
        assert_eq!(parse("5µs"), Ok(Duration::from_micros(5)));
        assert_eq!(parse("7us3ns"), Ok(Duration::from_nanos(7003)));
    }

    #[test]
    fn what_is_no_interval() {
        for text in [
            "", "60", "0", "-0", "0s", "-5m", "5 m", "m", "5x", "1d", ".s", "5m60", "1e3s",
            "9999999h", "+",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
