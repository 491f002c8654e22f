//! From what the operator wants to what packets are compared with: [`Validated`] becomes a [`Policy`].
//!
//! A policy is built off line, against the one in force: interfaces, pools, rules and external addresses keep their
//! numbers while they keep their names, because sessions, mappings and counters refer to them. External addresses that the
//! new configuration no longer has stay as long as ports on them are leased, and give out none (they drain).
//!
//! - [`exempt`]: exemptions, whose prefixes may come from followed files;
//! - `filter`: the filter's rules;
//! - `network`: interfaces, routes, neighbours, and the addresses that are answered for;
//! - `pools`: pools and the external addresses behind them;
//! - `rules`: translation rules, and where subscribers are;
//! - `services`: services and the backends that can be reached;
//! - `sets`: addresses, interfaces, ports and protocols as the matcher compares them.

pub mod exempt;
mod filter;
mod network;
mod pools;
mod rules;
mod services;
mod sets;

use std::sync::Arc;

use super::report::{Diagnostic, Report, Severity};
use super::validated::{self, Validated};
use crate::base::{Generation, InterfaceId, PoolId, Random, RealmId};
use crate::gateway::routes::Routes;
use crate::nat::family::Family;
use crate::nat::helpers::Helper;
use crate::nat::knock::Bare;
use crate::nat::policy::{NatPolicy, Policy, RuleInfo, TimeoutSettings, Timeouts};
use crate::nat::ports::Exhaustion;
use crate::nat::revalidate::stands_alike;
use crate::nat::rss::SourceSteering;
use crate::wire::{ICMP, MacAddr};
use network::{stable_interface_ids, stable_realm_ids};
use pools::{Halves, PoolIds, PoolSet};

/// What the devices say about a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Whether it has a link.
    pub up: bool,
}

/// Compiles a configuration. `ports` are the facts by [`PortId`](crate::base::PortId); `seed` determines the steering of a first policy.
///
/// # Errors
/// What only shows when everything is put together: a next hop in no subnet, a port layout that cannot change while ports
/// are in use.
pub fn compile(
    config: &Validated,
    ports: &[PortFacts],
    previous: Option<&Policy>,
    seed: u64,
) -> Result<Policy, Report> {
    let mut compiler = Compiler::new(config, ports, previous);
    let (interfaces, routes) = compiler.routes()?;
    let proxy = compiler.proxy(&interfaces);
    let mut nat = compiler.nat(&routes);
    let filter = compiler.filter();
    let realms = compiler.realm_names();
    let tracks_contacts = compiler.tracks_contacts();
    let shares_ports = compiler.shares_ports();
    if !compiler.errors.is_empty() {
        return Err(Report {
            diagnostics: compiler.errors,
        });
    }
    nat.bare = Bare::of(&nat, &interfaces, &filter, shares_ports);
    let timeouts = Timeouts::new(&timeouts(&config.timeouts));
    let generation = Generation(previous.map_or(1, |p| p.generation.0 + 1));
    let mut policy = Policy {
        generation,
        epoch: generation.stamp(),
        workers: config.system.workers,
        steering: previous.map_or_else(
            || SourceSteering::new(&mut Random::from_seed(seed)),
            |p| p.steering.clone(),
        ),
        // Sessions outlive the last rule (E15), so tracking goes on once it was needed.
        stateful: nat.v4.is_stateful()
            || filter.is_active()
            || previous.is_some_and(|p| p.stateful),
        stateful_v6: nat.v6.is_stateful()
            || filter.is_active()
            || previous.is_some_and(|p| p.stateful_v6),
        realms,
        tracks_contacts,
        shares_ports,
        helps_calls: previous.is_some_and(|p| p.helps_calls)
            || nat
                .pools
                .iter()
                .any(|p| p.policy().helpers.has(Helper::Pptp)),
        tells_exhaustion: nat
            .pools
            .iter()
            .any(|p| p.policy().exhaustion == Exhaustion::Icmp),
        static_neighbours: compiler.neighbours(),
        interfaces,
        routes,
        proxy,
        nat,
        filter,
        timeouts,
        limits: config.system.limits,
        logging: config.log.logging,
        tcp_pickup: config.system.tcp_pickup,
        rules: {
            compiler.rules.sort_unstable_by_key(|rule| rule.id);
            compiler.rules
        },
    };
    if let Some(before) = previous
        && stands_alike(before, &policy)
    {
        policy.epoch = before.epoch;
    }
    Ok(policy)
}

/// Reads and compiles a configuration text with devices at their best: every port up, MAC addresses as configured or made
/// up. For tests, benchmarks and questions about a configuration that is not running.
///
/// # Errors
/// As [`super::load`] and [`compile`].
pub fn compile_text(name: &str, text: &str) -> Result<Arc<Policy>, Report> {
    let loaded = super::parse_str(name, text)?;
    compile(&loaded.validated, &[], None, 1).map(Arc::new)
}

/// [`compile_text`] against a policy in force, as a reload does.
///
/// # Errors
/// As [`compile_text`].
pub fn recompile_text(name: &str, text: &str, previous: &Policy) -> Result<Arc<Policy>, Report> {
    let loaded = super::parse_str(name, text)?;
    compile(&loaded.validated, &[], Some(previous), 1).map(Arc::new)
}

fn timeouts(t: &validated::Timeouts) -> TimeoutSettings {
    TimeoutSettings {
        udp: t.udp,
        udp_unreplied: t.udp_unreplied,
        tcp: t.tcp,
        tcp_opening: t.tcp_opening,
        tcp_closing: t.tcp_closing,
        tcp_reset: t.tcp_reset,
        expected: t.expected,
        icmp: t.icmp,
        sctp: t.sctp,
        sctp_transitory: t.sctp_transitory,
        other: t.other,
    }
}

/// Realms there can be; their numbers are bytes.
const MAX_REALMS: usize = 256;

struct Compiler<'a> {
    config: &'a Validated,
    ports: &'a [PortFacts],
    previous: Option<&'a Policy>,
    /// Policy id of each interface of the configuration.
    ids: Vec<InterfaceId>,
    /// Policy id of each realm of the configuration.
    realm_ids: Vec<RealmId>,
    /// Policy ids of each pool of the configuration.
    pool_ids: Vec<Halves>,
    /// Ids for pools that the configuration does not name.
    more_pool_ids: PoolIds<'a>,
    rules: Vec<RuleInfo>,
    errors: Vec<Diagnostic>,
}

impl<'a> Compiler<'a> {
    fn new(
        config: &'a Validated,
        ports: &'a [PortFacts],
        previous: Option<&'a Policy>,
    ) -> Compiler<'a> {
        let mut pool_ids = PoolIds::new(previous);
        Compiler {
            ids: stable_interface_ids(config, previous),
            realm_ids: stable_realm_ids(config, previous),
            pool_ids: pool_ids.of_config(config),
            more_pool_ids: pool_ids,
            config,
            ports,
            previous,
            rules: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn id(&self, of: InterfaceId) -> InterfaceId {
        self.ids.get(of.index()).copied().unwrap_or(of)
    }

    fn realm(&self, of: RealmId) -> RealmId {
        self.realm_ids.get(of.index()).copied().unwrap_or(of)
    }

    /// The realm of an interface of the policy.
    fn realm_of(&self, interface: InterfaceId) -> RealmId {
        let at = self.ids.iter().position(|id| *id == interface);
        let of = at.and_then(|at| self.config.interfaces.get(at));
        of.map_or(RealmId::default(), |of| self.realm(of.realm))
    }

    /// The names of the realms by their numbers, those of before included.
    fn realm_names(&mut self) -> Vec<String> {
        let mut names = self.previous.map_or_else(Vec::new, |p| p.realms.clone());
        for (name, id) in self.config.realms.iter().zip(&self.realm_ids) {
            if id.index() >= names.len() {
                names.resize(id.index() + 1, String::new());
            }
            names[id.index()].clone_from(name);
        }
        if self.realm_ids.len() > 1 && names.len() > MAX_REALMS {
            let message =
                format!("more than {MAX_REALMS} vrfs since the start (restart to count anew)");
            self.errors.push(error_at("", "interface", &message));
        }
        names
    }

    /// The pool of this family's addresses that a pool of the configuration has.
    fn half_of<A: Family>(&self, of: PoolId) -> Option<PoolId> {
        let halves = self.pool_ids.get(of.index())?;
        if A::ICMP == ICMP {
            halves.v4
        } else {
            halves.v6
        }
    }

    fn nat(&mut self, routes: &Routes) -> NatPolicy {
        let PoolSet {
            pools,
            masquerade_v4,
            masquerade_v6,
            externals,
            pool_by_external,
        } = self.pools();
        let numbers = self.numbers();
        let backends = self.count_backends();
        let mut v4 = self.translation(&numbers, masquerade_v4, &externals);
        v4.services = self.services(&backends, routes);
        let mut v6 = self.translation(&numbers, masquerade_v6, &externals);
        v6.services = self.services(&backends, routes);
        NatPolicy {
            v4,
            v6,
            pools,
            externals,
            pool_by_external,
            bare: Bare::default(),
        }
    }
}

/// An error about an object, by where it stands.
fn error_at(origin: &str, path: &str, message: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        place: origin.to_owned(),
        path: path.to_owned(),
        message: message.to_owned(),
    }
}
