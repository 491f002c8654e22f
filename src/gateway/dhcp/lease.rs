//! What a server's answer amounts to: the lease in it, if it is one that can be used.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::SECOND;
use super::message::Reply;
use crate::base::Random;

/// Shortest subnet mask believed.
const WIDEST: u8 = 8;
/// What every host takes (RFC 791 section 3.1); a smaller MTU is a mistake, or meant to harm.
const LEAST_MTU: u16 = 576;
/// A lease without end.
const FOR_EVER: u32 = u32::MAX;

/// What a lease grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The address with its subnet.
    pub net: Ipv4Net,
    /// Where to, and by which router of the subnet; without one the destinations are on the link.
    pub routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
    /// Largest IP packet on the link, if the server knows.
    pub mtu: Option<u16>,
}

/// An address on loan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it grants.
    pub grant: Grant,
    /// Who granted it.
    pub server: Ipv4Addr,
    /// When that server is asked again (T1).
    pub renew: u64,
    /// When any server is (T2).
    pub rebind: u64,
    /// When it ends; `u64::MAX` is never.
    pub expire: u64,
}

/// The lease in an offer or an acknowledgment; `None` if it is none that can be used. `server` is whom it came from, if the
/// reply does not say.
pub(super) fn lease_of(
    reply: &Reply,
    server: Option<Ipv4Addr>,
    now: u64,
    random: &mut Random,
) -> Option<Lease> {
    let seconds = reply.lease.filter(|seconds| *seconds > 0)?;
    let grant = grant_of(reply)?;
    let after = |millis: u64| match seconds {
        FOR_EVER => u64::MAX,
        _ => now.saturating_add(millis),
    };
    let whole = u64::from(seconds) * SECOND;
    let option = |option: Option<u32>| option.map(|s| u64::from(s) * SECOND).filter(|t| *t > 0);
    let rebind = option(reply.rebinding).filter(|t| *t < whole);
    let rebind = rebind.unwrap_or(whole / 8 * 7);
    let renew = option(reply.renewal).filter(|t| *t < rebind);
    let renew = renew.unwrap_or((whole / 2).min(rebind));
    // Gateways that were switched on together need not renew together.
    let fuzz = u64::from(random.below((renew / 16).min(u64::from(u32::MAX)) as u32));
    Some(Lease {
        grant,
        server: reply.server.or(server)?,
        renew: after((renew - fuzz).max(SECOND).min(rebind)),
        rebind: after(rebind),
        expire: after(whole),
    })
}

fn grant_of(reply: &Reply) -> Option<Grant> {
    let address = reply.address;
    let prefix = reply.prefix.unwrap_or_else(|| class_prefix(address));
    let net = Ipv4Net::new(address, prefix).ok()?;
    let of_host = prefix >= 31 || address != net.network() && address != net.broadcast();
    let no_host = address.is_unspecified()
        || address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.octets()[0] >= 224;
    if no_host || !of_host || prefix < WIDEST {
        return None;
    }
    let near = |router: Ipv4Addr| router != address && net.contains(&router);
    let hop = |&(to, router): &(Ipv4Net, Ipv4Addr)| match router {
        Ipv4Addr::UNSPECIFIED => Some((to, None)),
        router if near(router) => Some((to, Some(router))),
        _ => None,
    };
    let mut routes: Vec<_> = reply.routes.iter().filter_map(hop).collect();
    if reply.routes.is_empty() {
        let router = reply.routers.iter().find(|router| near(**router));
        routes.extend(router.map(|router| (Ipv4Net::default(), Some(*router))));
    }
    // One way for each destination, the first.
    let mut seen = Vec::new();
    routes.retain(|(to, _)| {
        let new = !seen.contains(to);
        seen.push(*to);
        new
    });
    Some(Grant {
        net,
        routes,
        mtu: reply.mtu.filter(|mtu| *mtu >= LEAST_MTU),
    })
}

/// The prefix length an address had when classes counted.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}
