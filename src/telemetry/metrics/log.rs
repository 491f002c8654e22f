//! The sinks of the NAT log.

use super::{Families, Sample, flag};
use crate::control::api::LogSink;

/// Records of each sink and whether it works.
pub(super) fn log(out: &mut Families, sinks: &[LogSink]) {
    let sink = |s: &LogSink| ("sink", s.sink.clone());
    let results = sinks.iter().flat_map(|s| {
        [("delivered", s.delivered), ("dropped", s.dropped)]
            .map(|(result, n)| (vec![sink(s), ("result", result.to_owned())], n as f64))
    });
    out.counter(
        "log_records_total",
        "Records of the NAT log by sink: delivered, or dropped because its queue was full.",
        results,
    );
    let each = |value: fn(&LogSink) -> f64| -> Vec<Sample<'_>> {
        sinks.iter().map(|s| (vec![sink(s)], value(s))).collect()
    };
    out.gauge(
        "log_queued_records",
        "Records of the NAT log that wait for a sink.",
        each(|s| s.queued as f64),
    );
    out.gauge(
        "log_sink_up",
        "1 while records are delivered to a sink of the NAT log.",
        each(|s| flag(s.state == "up")),
    );
}
