//! Health of backends: which of them are left out until they are back.
//!
//! Three things say so. A backend without a route is left out when the policy is compiled. One whose next hop does not
//! answer ARP is left out here, and asked for once a second until it does. And one that fails its check is: the checks
//! are connections of the host's own kernel, over whatever network it has to the backends. Whoever comes or goes, the
//! policy is published anew; living sessions keep their backend.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::ask_all;
use super::{Live, lock};
use crate::base::{InterfaceId, RealmId};
use crate::config::services::{Backend, Check, Service};
use crate::config::validated::Validated;
use crate::control::api::{Failure, FailureKind};
use crate::control::probe;
use crate::dataplane::worker::JobContext;
use crate::gateway::neighbour::State;
use crate::gateway::routes::Routes;
use crate::nat::policy::Policy;

/// How often neighbours are asked about and checks that are due are begun.
const LOOK: Duration = Duration::from_secs(1);

/// What is checked, how. Services that check a server alike share the check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    at: SocketAddr,
    check: Check,
}

impl Target {
    fn of(service: &Service, backend: &Backend) -> Option<Target> {
        let check = service.check.clone()?;
        let port = check.port.or(backend.port).or(service.port)?;
        Some(Target {
            at: SocketAddr::new(backend.address, port),
            check,
        })
    }
}

/// How a target's checks went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    failing: bool,
    /// Results in a row that speak against the state it is in.
    against: u32,
}

impl Record {
    /// Takes a result down; says whether the state changed.
    fn take(&mut self, good: bool, check: &Check) -> bool {
        if good != self.failing {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = if good { check.rise } else { check.fall };
        if self.against < enough {
            return false;
        }
        *self = Record {
            failing: !good,
            against: 0,
        };
        true
    }
}

/// A next hop.
type Hop = (InterfaceId, IpAddr);

/// Who is left out.
#[derive(Debug, Default)]
pub struct Health {
    records: HashMap<Target, Record>,
    /// Next hops that do not answer.
    silent: HashSet<Hop>,
}

impl Health {
    /// Leaves the backends out of a policy that are not well.
    pub fn apply(&self, config: &Validated, policy: &mut Policy) {
        let servers = servers(config);
        let routes = &policy.routes;
        let well = |name: &str, address: IpAddr, port: Option<u16>| {
            let server = servers.get(&(name, address, port));
            let target = server.and_then(|(service, backend)| Target::of(service, backend));
            let record = target.and_then(|target| self.records.get(&target));
            let hops = hops(routes, address);
            let heard = hops.is_empty() || hops.iter().any(|hop| !self.silent.contains(hop));
            heard && record.is_none_or(|record| !record.failing)
        };
        let (v4, v6) = (&mut policy.nat.v4.services, &mut policy.nat.v6.services);
        v4.judge(|name, address, port| well(name, IpAddr::V4(address.into()), port));
        v6.judge(|name, address, port| well(name, IpAddr::V6(address.into()), port));
    }
}

type Servers<'a> = HashMap<(&'a str, IpAddr, Option<u16>), (&'a Service, &'a Backend)>;

fn servers(config: &Validated) -> Servers<'_> {
    let mut servers = HashMap::new();
    for service in &config.services {
        for backend in &service.backends {
            let named = (service.label.name.as_str(), backend.address, backend.port);
            servers.insert(named, (service, backend));
        }
    }
    servers
}

/// The next hops towards an address, in any realm.
fn hops(routes: &Routes, address: IpAddr) -> Vec<Hop> {
    let realms = (0..=u8::MAX).map(RealmId).take(routes.realms());
    let hop = |realm| match address {
        IpAddr::V4(address) => {
            let hop = routes.route_v4(realm, address.into(), 0)?;
            Some((hop.interface, IpAddr::V4(hop.next_hop.into())))
        }
        IpAddr::V6(address) => {
            let hop = routes.route_v6(realm, address.into(), 0)?;
            Some((hop.interface, IpAddr::V6(hop.next_hop.into())))
        }
    };
    realms.filter_map(hop).collect()
}

impl Live {
    /// Asks the workers about the next hops of all backends; says which went silent and which are back.
    fn look_at_neighbours(&self) -> Vec<String> {
        let policy = self.published.load();
        let loaded = lock(&self.running).loaded.clone();
        let services = loaded.validated.services.iter();
        let addresses = services.flat_map(|s| &s.backends).map(|b| b.address);
        let wanted: BTreeSet<Hop> = addresses.flat_map(|a| hops(&policy.routes, a)).collect();
        if wanted.is_empty() {
            lock(&self.health).silent.clear();
            return Vec::new();
        }
        let wanted: Arc<Vec<Hop>> = Arc::new(wanted.into_iter().collect());
        let silent: Arc<HashSet<Hop>> = Arc::new(lock(&self.health).silent.clone());
        let (answers, _) = ask_all(&self.workers, || {
            let (wanted, silent) = (wanted.clone(), silent.clone());
            let mut states = Vec::with_capacity(wanted.len());
            move |context: &mut JobContext<'_>| {
                for hop in wanted.iter() {
                    if silent.contains(hop)
                        && context.worker.0 == 0
                        && let Some(on) = context.policy.interfaces.get(hop.0)
                    {
                        // Makes the table ask, and ask again; its answer is seen the next time.
                        let _ = context.neighbours.resolve(on, hop.1, context.now);
                    }
                    let id = context.neighbours.find(hop.0, hop.1);
                    let entry = id.and_then(|id| context.neighbours.get(id));
                    states.push(entry.map(|entry| entry.state()));
                }
                std::mem::take(&mut states)
            }
        });
        let mut changes = Vec::new();
        let mut health = lock(&self.health);
        health.silent.retain(|hop| wanted.contains(hop));
        for (at, hop) in wanted.iter().enumerate() {
            let mut states = answers.iter().filter_map(|(_, states)| *states.get(at)?);
            let ready = |state: State| !matches!(state, State::Failed | State::Incomplete);
            let (mut some_ready, mut some_failed) = (false, false);
            states.by_ref().for_each(|state| {
                some_ready |= ready(state);
                some_failed |= state == State::Failed;
            });
            if some_ready && health.silent.remove(hop) {
                changes.push(format!("{} answers", hop.1));
            } else if !some_ready && some_failed && health.silent.insert(*hop) {
                changes.push(format!("{} does not answer", hop.1));
            }
        }
        changes
    }

    /// What is to be checked under the configuration in force. Records of what is not any more are dropped.
    fn targets(&self) -> BTreeSet<Target> {
        let loaded = lock(&self.running).loaded.clone();
        let services = loaded.validated.services.iter();
        let targets: BTreeSet<Target> = services
            .flat_map(|service| {
                service
                    .backends
                    .iter()
                    .filter_map(|b| Target::of(service, b))
            })
            .collect();
        let mut health = lock(&self.health);
        health.records.retain(|target, _| targets.contains(target));
        targets
    }

    /// Takes the result of a check down; says what changed.
    fn checked(&self, target: &Target, good: bool) -> Option<String> {
        let mut health = lock(&self.health);
        let record = health.records.entry(target.clone()).or_default();
        let changed = record.take(good, &target.check);
        let how = if good { "passes" } else { "fails" };
        changed.then(|| format!("{} {how} its check", target.at))
    }
}

/// The thread that watches the health of backends until its channel closes.
pub struct Watch {
    quit: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(live: Arc<Live>) -> Result<Watch, Failure> {
        let failed =
            |e: std::io::Error| Failure::new(FailureKind::Failed, "health thread", e.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (quit, quitting) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || runtime.block_on(run(live, quitting)))
            .map_err(failed)?;
        Ok(Watch { quit, thread })
    }

    /// Ends watching.
    pub fn stop(self) {
        let _ = self.quit.send(true);
        let _ = self.thread.join();
    }
}

async fn run(live: Arc<Live>, mut quitting: watch::Receiver<bool>) {
    let mut checks: JoinSet<(Target, bool)> = JoinSet::new();
    let mut due: BTreeMap<Target, Instant> = BTreeMap::new();
    loop {
        let mut changes = live.look_at_neighbours();
        let now = Instant::now();
        let targets = live.targets();
        due.retain(|target, _| targets.contains(target));
        for target in targets {
            let at = due.entry(target.clone()).or_insert(now);
            if *at <= now {
                *at = now + target.check.interval.max(target.check.timeout);
                checks.spawn(async move {
                    let good = probe::passes(target.at, &target.check).await;
                    (target, good)
                });
            }
        }
        let pause = tokio::time::sleep(LOOK);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                _ = quitting.wait_for(|quit| *quit) => return,
                () = &mut pause => break,
                Some(Ok((target, good))) = checks.join_next() => {
                    changes.extend(live.checked(&target, good));
                }
            }
        }
        live.follow("health", &changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::services::CheckKind;

    #[test]
    fn a_state_changes_after_enough_results_in_a_row() {
        let check = Check {
            kind: CheckKind::Tcp,
            port: None,
            interval: LOOK,
            timeout: LOOK,
            rise: 2,
            fall: 3,
        };
        let mut record = Record::default();
        let mut states = String::new();
        for good in [
            false, false, true, false, false, false, true, false, true, true,
        ] {
            record.take(good, &check);
            states.push(if record.failing { 'f' } else { 'g' });
        }
        assert_eq!(states, "gggggffffg");
    }
}
