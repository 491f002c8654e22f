//! The policy: what the configuration means, compiled, immutable, shared by all workers.
//!
//! The management side builds a new one off line for every reload and publishes it by one pointer swap; a worker loads it
//! once per batch. Indices of interfaces, rules and external addresses are stable across reloads, so that sessions can
//! refer to them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use crate::base::{
    Generation, InterfaceId, PoolId, PortId, RealmId, RuleId, Stamp, Tick, VlanId, WorkerId,
};
use crate::flow::session::State;
use crate::gateway::interface::{Interface, Interfaces};
use crate::gateway::proxy::Proxy;
use crate::gateway::routes::Routes;
use crate::nat::destination::Inside;
use crate::nat::family::Family;
use crate::nat::filter::Filter;
use crate::nat::journal::Logging;
use crate::nat::knock::Bare;
use crate::nat::limits::HostLimits;
use crate::nat::ports::{External, ExternalIndex, Externals, Pool, Pools, PortSpace};
use crate::nat::rss::SourceSteering;
use crate::nat::rules::{Exempt, PortForward, SourceRule, StaticRule};
use crate::nat::services::Services;
use crate::wire::MacAddr;

/// One published configuration.
pub struct Policy {
    /// Its number.
    pub generation: Generation,
    /// That of the last policy, this one or an earlier, that gave living sessions a reason to be looked at again
    /// ([`stands_alike`](crate::nat::revalidate::stands_alike)); sessions are stamped with it.
    pub epoch: Stamp,
    /// Workers that share the traffic; fixed for the life of the process.
    pub workers: u8,
    /// Which worker a subscriber lives on.
    pub steering: SourceSteering,
    /// Interfaces, their addresses, VLANs and ports.
    pub interfaces: Interfaces,
    /// Addresses besides our own that ARP and neighbour discovery answer for.
    pub proxy: Proxy,
    /// Routing tables.
    pub routes: Routes,
    /// Translation rules.
    pub nat: NatPolicy,
    /// What may pass.
    pub filter: Filter,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// What one subscriber may use.
    pub limits: HostLimits,
    /// What is logged of the translation.
    pub logging: Logging,
    /// A translated TCP flow may begin in the middle of its connection.
    pub tcp_pickup: bool,
    /// What the counted rules are, in the order of their numbers.
    pub rules: Vec<RuleInfo>,
    /// Configured neighbours: interface, address, MAC address.
    pub static_neighbours: Vec<(InterfaceId, IpAddr, MacAddr)>,
    /// Whether IPv4 flows are tracked: some rule translates, or the filter is in use.
    pub stateful: bool,
    /// The same for IPv6.
    pub stateful_v6: bool,
    /// Names of the realms, by number.
    pub realms: Vec<String>,
    /// Whether remote addresses are tracked for address-dependent filtering; fixed at start, because it needs memory.
    pub tracks_contacts: bool,
    /// Whether mappings may share ports; fixed at start, because it needs memory.
    pub shares_ports: bool,
    /// Whether some pool helps PPTP's calls, or did: calls outlive the word for it.
    pub helps_calls: bool,
    /// Whether senders are told when ports ran out (some pool has `exhaustion = "icmp"`).
    pub tells_exhaustion: bool,
}

impl Policy {
    /// The interface a frame belongs to that arrived on `port` with this tag.
    #[inline]
    pub fn receiving(&self, port: PortId, vlan: Option<VlanId>) -> Option<&Interface> {
        self.interfaces.get(self.interfaces.lookup(port, vlan)?)
    }

    /// The realm of an interface.
    #[inline]
    pub fn realm_of(&self, interface: InterfaceId) -> RealmId {
        self.interfaces
            .get(interface)
            .map_or(RealmId::default(), |i| i.realm)
    }

    /// Whether a packet from `source` that arrives on `ingress` comes from a subscriber.
    #[inline]
    pub fn is_inside<A: Family>(&self, ingress: InterfaceId, source: A) -> bool {
        A::translation(&self.nat)
            .inside
            .get(ingress.index())
            .is_some_and(|inside| inside.contains(source))
    }

    /// The counted rule with this number.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        let at = self.rules.binary_search_by_key(&id, |rule| rule.id).ok()?;
        self.rules.get(at)
    }

    /// Whose an IPv6 address is, if it is ours; link-local ones count on their own interface only.
    pub fn local_v6(&self, ingress: InterfaceId, address: u128) -> Option<InterfaceId> {
        let on = self.interfaces.get(ingress)?;
        if on.owns_v6(address) {
            return Some(ingress);
        }
        self.routes
            .local_v6(on.realm, address)
            .map(|local| local.interface)
    }

    /// Addresses of a family besides its own that an interface answers for, at most 256: what is announced at start.
    pub fn proxied_on<A: Family>(&self, interface: InterfaceId) -> impl Iterator<Item = A> + '_ {
        let ranges = self
            .proxy
            .ranges()
            .filter(move |range| range.interface == interface);
        ranges
            .filter_map(|range| Some((A::from_ip(range.first)?, A::from_ip(range.last)?)))
            .flat_map(|(first, last)| {
                let following = move |address: &A| address.next().filter(|next| *next <= last);
                std::iter::successors(Some(first), following)
            })
            .take(256)
    }

    /// [`Policy::is_inside`] under this policy or an earlier one; what steering goes by.
    pub fn was_inside<A: Family>(&self, ingress: InterfaceId, source: A) -> bool {
        let ever = A::translation(&self.nat).ever_inside.get(ingress.index());
        ever.is_some_and(|inside| inside.contains(source))
    }

    /// The interface a public address belongs to: the one that has it, or that it is routed to.
    pub fn home_of<A: Family>(&self, realm: RealmId, address: A) -> Option<InterfaceId> {
        A::local(&self.routes, realm, address)
            .map(|local| local.interface)
            .or_else(|| A::route(&self.routes, realm, address, 0).map(|hop| hop.interface))
            .or_else(|| self.interfaces.iter().next().map(|i| i.id))
    }

    /// Whether packets to `address` concern the translator: it holds ports on it, or a static rule maps it.
    pub fn is_translated_address<A: Family>(&self, address: A) -> bool {
        self.nat.external_of(address).is_some()
            || A::translation(&self.nat)
                .statics
                .iter()
                .any(|rule| rule.to_internal(address).is_some())
    }
}

/// The translation part of a policy.
#[derive(Default)]
pub struct NatPolicy {
    /// Rules for IPv4.
    pub v4: Translation<u32>,
    /// Rules for IPv6.
    pub v6: Translation<u128>,
    /// Pools: those of the configuration in its order, then one for each address of an interface that masquerades.
    pub pools: Pools,
    /// Every external address the gateway holds ports on, draining ones included.
    pub externals: Externals,
    /// The pool each external address belongs to, by [`ExternalIndex`].
    pub pool_by_external: Vec<Option<PoolId>>,
    /// External IPv4 addresses where packets from outside meet mappings or nothing.
    pub bare: Bare,
}

/// The translation of one address family.
#[derive(Default)]
pub struct Translation<A> {
    /// Destinations left untranslated.
    pub exempt: Vec<Exempt<A>>,
    /// Source NAT, in order; the first match decides.
    pub source: Vec<SourceRule<A>>,
    /// Port forwards, in order.
    pub forwards: Vec<PortForward<A>>,
    /// One-to-one NAT.
    pub statics: Vec<StaticRule<A>>,
    /// Services with their backends.
    pub services: Services<A>,
    /// The pool that masquerades as a given interface address.
    pub masquerade: HashMap<A, PoolId>,
    /// The external addresses the gateway holds ports on.
    pub by_address: HashMap<A, ExternalIndex>,
    /// Where subscribers are, by interface.
    pub inside: Vec<Inside<A>>,
    /// Where subscribers are or were since the start, by interface: sessions outlive the rule that made their host
    /// a subscriber, and must still be found on its worker.
    pub ever_inside: Vec<Inside<A>>,
    /// External addresses on which no session may live.
    pub quarantined: HashSet<A>,
}

impl<A: Family> Translation<A> {
    /// Whether flows have to be tracked. Prefixes translate without (RFC 6296).
    pub fn is_stateful(&self) -> bool {
        let one_to_one = self.statics.iter().any(|rule| rule.neutral.is_none());
        one_to_one
            || !(self.source.is_empty() && self.forwards.is_empty() && self.services.is_empty())
    }
}

impl NatPolicy {
    /// The external address at `index`.
    #[inline]
    pub fn external(&self, index: ExternalIndex) -> Option<&External> {
        self.externals.get(index)
    }

    /// The address at `index`, if it is of this family.
    pub fn address_of<A: Family>(&self, index: ExternalIndex) -> Option<A> {
        A::from_ip(self.external(index)?.address())
    }

    /// The external object of `address`, if ports are held on it.
    #[inline]
    pub fn external_of<A: Family>(&self, address: A) -> Option<(ExternalIndex, &External)> {
        let index = *A::translation(self).by_address.get(&address)?;
        Some((index, self.external(index)?))
    }

    /// The pool an external address belongs to; none while it only drains.
    pub fn pool_of(&self, index: ExternalIndex) -> Option<&Pool> {
        self.pool(self.pool_by_external.get(usize::from(index.0)).copied()??)
    }

    /// Whether ports of an external address are given out: it is in a pool and not draining.
    pub fn offers(&self, index: ExternalIndex) -> bool {
        self.pool_of(index).is_some_and(|pool| pool.holds(index))
    }

    /// The pool with this id.
    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// The worker that holds `port` of an external address: where packets to it belong.
    pub fn port_owner<A: Family>(
        &self,
        address: A,
        space: PortSpace,
        port: u16,
    ) -> Option<WorkerId> {
        self.external_of(address)?.1.owner(space, port)
    }
}

/// What a counted rule is, for listings.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its index among the counters.
    pub id: RuleId,
    /// `source-nat`, `exempt`, `exempt-prefix`, `port-forward`, `static-nat`, `service`, `filter`.
    pub kind: &'static str,
    /// Name, or `#n` by position.
    pub name: String,
    /// One line: what it matches and does.
    pub text: String,
}

/// Idle timeouts in ticks, by session state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    by_state: [u32; State::COUNT],
}

/// The configured durations behind [`Timeouts`].
// Implements: U5, U5b, U5c, T5, T5a, I2, I2a, P2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// UDP, answered (RFC 4787 REQ-5: not below 2 min, 5 min recommended).
    pub udp: Duration,
    /// UDP, not answered yet.
    pub udp_unreplied: Duration,
    /// TCP, established (RFC 5382 REQ-5: not below 2 h 4 min).
    pub tcp: Duration,
    /// TCP, opening (RFC 5382 REQ-5: not below 4 min; RFC 7857 §2.1 allows less).
    pub tcp_opening: Duration,
    /// TCP, closing (RFC 5382 REQ-5: not below 4 min).
    pub tcp_closing: Duration,
    /// TCP after a reset (RFC 7857 §2.2).
    pub tcp_reset: Duration,
    /// Flows that a helper expects.
    pub expected: Duration,
    /// ICMP queries (RFC 5508 REQ-2: not below 60 s).
    pub icmp: Duration,
    /// SCTP, answered.
    pub sctp: Duration,
    /// SCTP, not answered yet or at its end.
    pub sctp_transitory: Duration,
    /// Protocols without ports.
    pub other: Duration,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        let minutes = |m: u64| Duration::from_secs(60 * m);
        TimeoutSettings {
            udp: minutes(5),
            udp_unreplied: minutes(2),
            tcp: minutes(124),
            tcp_opening: minutes(4),
            tcp_closing: minutes(4),
            tcp_reset: minutes(4),
            expected: minutes(2),
            icmp: minutes(1),
            sctp: minutes(10),
            sctp_transitory: minutes(2),
            other: minutes(10),
        }
    }
}

impl Timeouts {
    /// Compiles durations to ticks.
    pub fn new(settings: &TimeoutSettings) -> Timeouts {
        let mut by_state = [0; State::COUNT];
        for state in State::LIVE {
            let duration = match state {
                State::Free => Duration::ZERO,
                State::UdpUnreplied => settings.udp_unreplied,
                State::Udp => settings.udp,
                State::Icmp => settings.icmp,
                State::Other => settings.other,
                State::TcpOpening | State::TcpAnswered => settings.tcp_opening,
                State::TcpClosing => settings.tcp_closing,
                // A half-closed connection may carry data for hours the other way.
                State::TcpEstablished | State::TcpClientFin | State::TcpServerFin => settings.tcp,
                State::TcpReset => settings.tcp_reset,
                State::SctpEstablished => settings.sctp,
                State::SctpOpening | State::SctpClosing => settings.sctp_transitory,
                State::Expected => settings.expected,
            };
            by_state[state as usize] = Tick::span(duration);
        }
        Timeouts { by_state }
    }

    /// Idle ticks after which a session in `state` is gone.
    #[inline]
    pub fn of(&self, state: State) -> u32 {
        self.by_state[state as usize]
    }

    /// Whether a session in `state`, last active at `seen`, is gone at `now`.
    #[inline]
    pub fn expired(&self, state: State, seen: Tick, now: Tick) -> bool {
        now.since(seen) >= self.of(state)
    }
}

/// The policy as workers hold it.
pub type SharedPolicy = Arc<Policy>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_the_timeout_that_was_set_for_it() {
        let seconds = Duration::from_secs;
        let settings = TimeoutSettings {
            udp: seconds(1),
            udp_unreplied: seconds(2),
            tcp: seconds(3),
            tcp_opening: seconds(4),
            tcp_closing: seconds(5),
            tcp_reset: seconds(6),
            expected: seconds(7),
            icmp: seconds(8),
            sctp: seconds(9),
            sctp_transitory: seconds(10),
            other: seconds(11),
        };
        let timeouts = Timeouts::new(&settings);
        for (state, secs) in [
            (State::Udp, 1),
            (State::UdpUnreplied, 2),
            (State::TcpEstablished, 3),
            (State::TcpClientFin, 3),
            (State::TcpServerFin, 3),
            (State::TcpOpening, 4),
            (State::TcpAnswered, 4),
            (State::TcpClosing, 5),
            (State::TcpReset, 6),
            (State::Expected, 7),
            (State::Icmp, 8),
            (State::SctpEstablished, 9),
            (State::SctpOpening, 10),
            (State::SctpClosing, 10),
            (State::Other, 11),
        ] {
            let ticks = secs * Tick::PER_SECOND;
            assert_eq!(timeouts.of(state), ticks, "{state:?}");
            assert!(!timeouts.expired(state, Tick(50), Tick(50 + ticks - 1)));
            assert!(timeouts.expired(state, Tick(50), Tick(50 + ticks)));
        }
    }

    // Proves: U5, T5, I2.
    #[test]
    fn the_defaults_are_what_the_rfcs_ask_for() {
        let minutes = |m: u64| Duration::from_secs(60 * m);
        let settings = TimeoutSettings::default();
        assert_eq!(
            (settings.udp, settings.udp_unreplied),
            (minutes(5), minutes(2))
        );
        assert_eq!((settings.tcp, settings.icmp), (minutes(124), minutes(1)));
        let transitory = [
            settings.tcp_opening,
            settings.tcp_closing,
            settings.tcp_reset,
        ];
        assert_eq!(transitory, [minutes(4); 3]);
        assert_eq!(
            (settings.sctp, settings.sctp_transitory),
            (minutes(10), minutes(2))
        );
        assert_eq!(
            (settings.expected, settings.other),
            (minutes(2), minutes(10))
        );
    }
}
