//! What there is to measure about DHCP clients.

use super::{Families, flag};
use crate::control::api::LeaseView;
use crate::gateway::dhcp::State;

pub(super) fn families(out: &mut Families, leases: &[LeaseView]) {
    let name = |lease: &LeaseView| ("interface", lease.interface.clone());
    let states = leases.iter().flat_map(|lease| {
        State::ALL.iter().map(move |state| {
            let labels = vec![name(lease), ("state", state.name().to_owned())];
            (labels, flag(lease.state == state.name()))
        })
    });
    out.gauge(
        "dhcp_client_state",
        "1 for the state the DHCP client of an interface is in.",
        states,
    );
    let each = |value: fn(&LeaseView) -> f64| leases.iter().map(move |l| (vec![name(l)], value(l)));
    out.gauge(
        "dhcp_lease",
        "1 while an interface with a leased address has one.",
        each(|lease| flag(lease.address.is_some())),
    );
    let ending = leases.iter().filter_map(|lease| {
        let seconds = lease.expires_seconds?;
        Some((vec![name(lease)], seconds as f64))
    });
    out.gauge(
        "dhcp_lease_expires_seconds",
        "Seconds until the lease of an interface ends; missing without a lease, or without an end.",
        ending,
    );
    out.counter(
        "dhcp_ignored_messages_total",
        "DHCP messages that answered nothing an interface's client asked, or made no sense.",
        each(|lease| lease.ignored as f64),
    );
}
