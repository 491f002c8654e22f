//! Addresses that DHCP servers lease: the clients, their thread, and what a lease changes.
//!
//! There is a client ([`crate::gateway::dhcp`]) for each interface with `address = "dhcp"`. Workers pass on what servers say,
//! and send what clients say. A lease is laid over the configuration: the policy is compiled anew with its address and
//! routes, and without them when it ends. It stays through reloads and edits as long as the interface asks for it, and is
//! never written into a file of the configuration; `STATE_DIRECTORY/INSTANCE.leases` has it, so that the next start asks for
//! the same address.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::ask::PATIENCE;
use super::{Live, holds, lock, unix_seconds};
use crate::base::{InterfaceId, PortId, Random, RealmId, VlanId};
use crate::config::validated::{Grant, System};
use crate::control::api::{Failure, FailureKind, LeaseView};
use crate::dataplane::buffer::Heard;
use crate::dataplane::originate::Original;
use crate::dataplane::worker::consign;
use crate::gateway::dhcp::message::{CLIENT_PORT, SERVER_PORT};
use crate::gateway::dhcp::{Action, Client, Lease, Lost};
use crate::gateway::{Interface, Interfaces};
use crate::wire::{ETHERTYPE_ARP, ETHERTYPE_IPV4, MacAddr, arp, datagram};

/// How often interfaces are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Messages that may wait to be looked at.
pub const WAITING: usize = 64;

/// What listings and metrics say of the clients, by interface.
pub type Views = BTreeMap<String, LeaseView>;

/// What makes a client another one when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    port: PortId,
    vlan: Option<VlanId>,
    mac: MacAddr,
}

/// The client of an interface.
struct Desk {
    place: Place,
    id: InterfaceId,
    realm: RealmId,
    up: bool,
    client: Client,
}

/// All clients.
struct Clients {
    live: Arc<Live>,
    desks: BTreeMap<String, Desk>,
    /// Leases of before the start.
    remembered: Vec<Remembered>,
    random: Random,
}

impl Clients {
    fn now(&self) -> u64 {
        self.live.clock.now().millis
    }

    /// Looks at the interfaces, takes what was heard, does what is due; says when something is due again.
    fn turn(&mut self, heard: Vec<Heard>) -> u64 {
        if !self.live.workers_alive() {
            return self.now() + LOOK.as_millis() as u64;
        }
        let policy = self.live.published.load();
        self.meet(&policy.interfaces);
        for heard in heard {
            self.hear(heard);
        }
        let now = self.now();
        let names: Vec<String> = self.desks.keys().cloned().collect();
        for name in &names {
            let random = &mut self.random;
            let actions = self.desks.get_mut(name).map(|d| d.client.poll(now, random));
            self.act(name, actions.unwrap_or_default());
        }
        *lock(&self.live.leases) = self.views();
        let due = self.desks.values().map(|desk| desk.client.due()).min();
        due.unwrap_or(u64::MAX)
    }

    /// Every interface with a leased address has a client, and nobody else.
    fn meet(&mut self, interfaces: &Interfaces) {
        let now = self.now();
        let leased: Vec<&Interface> = interfaces.iter().filter(|on| on.dhcp).collect();
        let before = self.desks.len();
        self.desks
            .retain(|name, _| leased.iter().any(|on| on.name == *name));
        if self.desks.len() != before {
            self.write_down();
        }
        for on in leased {
            let place = Place {
                port: on.port,
                vlan: on.vlan,
                mac: on.mac,
            };
            match self.desks.get_mut(&on.name).filter(|d| d.place == place) {
                Some(desk) => {
                    if on.up && !desk.up {
                        desk.client.link_is_back(now);
                    }
                    (desk.id, desk.realm, desk.up) = (on.id, on.realm, on.up);
                }
                None => {
                    let mut known = self.remembered.iter();
                    let known =
                        known.position(|r| r.interface == on.name && r.mac == on.mac.to_string());
                    let known = known.map(|at| self.remembered.swap_remove(at));
                    let lease = known.map(|r| r.lease(now, unix_seconds()));
                    let desk = Desk {
                        place,
                        id: on.id,
                        realm: on.realm,
                        up: on.up,
                        client: Client::new(on.mac, lease, now),
                    };
                    self.desks.insert(on.name.clone(), desk);
                }
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        let now = self.now();
        let interface = match &heard {
            Heard::Dhcp { interface, .. } | Heard::Arp { interface, .. } => *interface,
        };
        let desk = self.desks.iter_mut().find(|(_, desk)| desk.id == interface);
        let Some((name, desk)) = desk else {
            return;
        };
        let name = name.clone();
        let actions = match heard {
            Heard::Dhcp { message, .. } => desk.client.receive(now, &mut self.random, &message),
            Heard::Arp { address, mac, .. } => desk.client.heard(address.into(), mac, now),
        };
        self.act(&name, actions);
    }

    fn act(&mut self, name: &str, actions: Vec<Action>) {
        for action in actions {
            let Some(desk) = self.desks.get(name) else {
                return;
            };
            match action {
                Action::Broadcast { from, message } => {
                    let packet = broadcast(desk, from, &message);
                    self.send(name, packet);
                }
                Action::Unicast { to, message } => {
                    let packet = Original::Datagram {
                        realm: desk.realm,
                        source_port: CLIENT_PORT,
                        to: SocketAddr::from((to, SERVER_PORT)),
                        payload: message,
                    };
                    self.send(name, packet);
                }
                Action::Probe(address) => {
                    let packet = probe(desk, address);
                    self.send(name, packet);
                }
                Action::Use(lease) => self.take_up(name, lease),
                Action::Extend(lease) => {
                    let seconds = seconds_left(lease.expire, self.now());
                    tracing::debug!(interface = name, server = %lease.server, seconds, "lease extended");
                    self.write_down();
                }
                Action::Stop(why) => {
                    let why = match why {
                        Lost::Expired => "it expired and no server answers".to_owned(),
                        Lost::Unfit => "it cannot be used".to_owned(),
                        Lost::Refused(words) if words.is_empty() => "the server refused it".into(),
                        Lost::Refused(words) => format!("the server refused it: {words}"),
                    };
                    tracing::error!(interface = name, why, "lease lost");
                    if let Err(why) = self.live.lay_over(name, None) {
                        tracing::error!(interface = name, why, "the address stays");
                    }
                    self.write_down();
                }
                Action::Conflict(address, mac) => {
                    tracing::warn!(interface = name, %address, %mac, "the leased address is another host's, declined");
                }
            }
        }
    }

    /// A lease is in force, unless it does not go with the rest of the configuration.
    fn take_up(&mut self, name: &str, lease: Lease) {
        let seconds = seconds_left(lease.expire, self.now());
        let address = lease.grant.net;
        match self.live.lay_over(name, Some(lease.grant)) {
            Ok(()) => {
                tracing::info!(interface = name, %address, server = %lease.server, seconds, "lease");
            }
            Err(why) => {
                tracing::error!(interface = name, %address, server = %lease.server, why, "lease declined");
                if let Err(why) = self.live.lay_over(name, None) {
                    tracing::error!(interface = name, why, "the address stays");
                }
                let now = self.now();
                let actions = self.desks.get_mut(name).map(|d| d.client.refuse(now));
                self.act(name, actions.unwrap_or_default());
            }
        }
        self.write_down();
    }

    /// Sends through the first worker. What is lost is repeated in time.
    fn send(&self, name: &str, packet: Original) {
        let worker = self.live.workers.first();
        let sent = worker.and_then(|worker| consign(&worker.jobs, vec![packet]));
        let done = sent.and_then(|batch| batch.recv_timeout(PATIENCE).ok());
        let why = match done.map(|batch| batch.results) {
            Some(results) => match results.first() {
                Some(Err(why)) => why.to_string(),
                _ => return,
            },
            None => "the worker does not answer".to_owned(),
        };
        tracing::debug!(interface = name, why, "a DHCP message could not be sent");
    }

    fn views(&self) -> Views {
        let now = self.now();
        let view = |(name, desk): (&String, &Desk)| {
            let lease = desk.client.lease();
            let view = LeaseView {
                interface: name.clone(),
                state: desk.client.state().name().to_owned(),
                address: lease.map(|lease| lease.grant.net.to_string()),
                server: lease.map(|lease| lease.server.to_string()),
                expires_seconds: lease.and_then(|lease| seconds_left(lease.expire, now)),
                renews_seconds: lease.and_then(|lease| seconds_left(lease.renew, now)),
                ignored: desk.client.ignored(),
            };
            (name.clone(), view)
        };
        self.desks.iter().map(view).collect()
    }

    /// Writes down which leases there are.
    fn write_down(&self) {
        let system = lock(&self.live.running).loaded.validated.system.clone();
        let Some(file) = file(&system) else {
            return;
        };
        let (now, unix) = (self.now(), unix_seconds());
        let leases = self.desks.iter().filter_map(|(name, desk)| {
            let lease = desk.client.lease()?;
            Some(Remembered::of(name, desk.place.mac, lease, now, unix))
        });
        let leases: Vec<Remembered> = leases.collect();
        let text = serde_json::to_string_pretty(&leases).unwrap_or_default();
        if let Err(error) = holds::replace(&file, &text) {
            let file = file.display();
            tracing::error!(%file, %error, "leases are not written down");
        }
    }
}

fn seconds_left(at: u64, now: u64) -> Option<u64> {
    (at != u64::MAX).then(|| at.saturating_sub(now) / 1000)
}

/// A message to everybody on the link.
fn broadcast(desk: &Desk, from: Ipv4Addr, message: &[u8]) -> Original {
    let mut payload = vec![0; usize::from(u16::MAX)];
    let ends = [(u32::from(from), CLIENT_PORT), (u32::MAX, SERVER_PORT)];
    let length = datagram::write_v4(&mut payload, ends[0], ends[1], None, message);
    payload.truncate(length);
    Original::Frame {
        interface: desk.id,
        to: MacAddr::BROADCAST,
        ethertype: ETHERTYPE_IPV4,
        payload,
    }
}

/// An ARP probe (RFC 5227 section 2.1.1): who has this address, asked by nobody.
fn probe(desk: &Desk, address: Ipv4Addr) -> Original {
    let mut payload = vec![0; arp::LENGTH];
    let request = arp::Arp {
        operation: arp::REQUEST,
        sender_mac: desk.place.mac,
        sender_ip: 0,
        target_mac: MacAddr::ZERO,
        target_ip: address.into(),
    };
    request.write(&mut payload);
    Original::Frame {
        interface: desk.id,
        to: MacAddr::BROADCAST,
        ethertype: ETHERTYPE_ARP,
        payload,
    }
}

/// A lease as it is written down, times as seconds since 1970; a missing one is never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    interface: String,
    mac: String,
    address: Ipv4Net,
    routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
    mtu: Option<u16>,
    server: Ipv4Addr,
    renew: Option<u64>,
    rebind: Option<u64>,
    expire: Option<u64>,
}

impl Remembered {
    fn of(interface: &str, mac: MacAddr, lease: &Lease, now: u64, unix: u64) -> Remembered {
        let at = |millis| seconds_left(millis, now).map(|seconds| unix + seconds);
        Remembered {
            interface: interface.to_owned(),
            mac: mac.to_string(),
            address: lease.grant.net,
            routes: lease.grant.routes.clone(),
            mtu: lease.grant.mtu,
            server: lease.server,
            renew: at(lease.renew),
            rebind: at(lease.rebind),
            expire: at(lease.expire),
        }
    }

    fn lease(self, now: u64, unix: u64) -> Lease {
        let at = |seconds: Option<u64>| {
            let millis = |at: u64| now.saturating_add(at.saturating_sub(unix).saturating_mul(1000));
            seconds.map_or(u64::MAX, millis)
        };
        Lease {
            renew: at(self.renew),
            rebind: at(self.rebind),
            expire: at(self.expire),
            grant: Grant {
                net: self.address,
                routes: self.routes,
                mtu: self.mtu,
            },
            server: self.server,
        }
    }
}

/// Where leases are written down, if they are.
fn file(system: &System) -> Option<PathBuf> {
    let directory = system.state_directory.as_ref()?;
    Some(directory.join(format!("{}.leases", system.instance)))
}

/// The leases of before the start; none if there is no file, or one that cannot be read.
fn recall(system: &System) -> Vec<Remembered> {
    let Some(file) = file(system) else {
        return Vec::new();
    };
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "leases of before the start are not known");
            return Vec::new();
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::error!(file = %file.display(), %error, "leases of before the start are not known");
        Vec::new()
    })
}

impl Live {
    /// Lays a lease over the configuration, or takes it away: a policy of its own.
    ///
    /// # Errors
    /// Why the configuration with it cannot be; nothing has changed then.
    fn lay_over(&self, interface: &str, grant: Option<Grant>) -> Result<(), String> {
        let _one_at_a_time = lock(&self.changing);
        let mut loaded = (*lock(&self.running).loaded).clone();
        let interfaces = loaded.validated.interfaces.iter_mut();
        let mut leased = interfaces.filter(|i| i.dhcp && i.label.name == interface);
        // A reload may have taken it away.
        let Some(on) = leased.next().filter(|on| on.grant != grant) else {
            return Ok(());
        };
        let summary = match (&on.grant, &grant) {
            (_, Some(new)) => format!("interface {interface} has {}", new.net),
            (Some(old), None) => format!("interface {interface} has {} no more", old.net),
            (None, None) => return Ok(()),
        };
        on.grant = grant;
        if let Some(conflict) = loaded.validated.conflicts().into_iter().next() {
            return Err(conflict);
        }
        let policy = self.compile(&loaded).map_err(|report| report.to_string())?;
        let generation = self.publish(policy);
        let mut running = lock(&self.running);
        running.loaded = Arc::new(loaded);
        running.record(generation, "dhcp", summary);
        Ok(())
    }
}

/// The thread of the clients until its channel closes.
pub struct Watch {
    quit: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts the clients. `heard` is what workers pass on.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        live: Arc<Live>,
        heard: Receiver<Heard>,
        random: Random,
    ) -> Result<Watch, Failure> {
        let (quit, quitting) = bounded::<()>(0);
        let system = lock(&live.running).loaded.validated.system.clone();
        let mut clients = Clients {
            live,
            desks: BTreeMap::new(),
            remembered: recall(&system),
            random,
        };
        let body = move || {
            let mut news = Vec::new();
            loop {
                let due = clients.turn(std::mem::take(&mut news));
                let wait = Duration::from_millis(due.saturating_sub(clients.now()));
                select! {
                    recv(heard) -> message => news.extend(message),
                    recv(quitting) -> _ => return,
                    default(wait.clamp(Duration::from_millis(1), LOOK)) => {}
                }
                news.extend(heard.try_iter().take(WAITING));
            }
        };
        let thread = std::thread::Builder::new()
            .name("dhcp".to_owned())
            .spawn(body);
        let thread =
            thread.map_err(|e| Failure::new(FailureKind::Failed, "dhcp thread", e.to_string()))?;
        Ok(Watch { quit, thread })
    }

    /// Ends the clients; addresses are not given back.
    pub fn stop(self) {
        drop(self.quit);
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_remembered_across_clocks() {
        let lease = Lease {
            grant: Grant {
                net: "198.51.100.7/24".parse().unwrap(),
                routes: vec![(
                    "0.0.0.0/0".parse().unwrap(),
                    Some(Ipv4Addr::new(198, 51, 100, 1)),
                )],
                mtu: Some(1400),
            },
            server: Ipv4Addr::new(198, 51, 100, 1),
            renew: 50_000,
            rebind: 90_000,
            expire: u64::MAX,
        };
        let written = Remembered::of(
            "internet",
            MacAddr([2, 0, 0, 0, 0, 1]),
            &lease,
            10_000,
            1_000_000,
        );
        let text = serde_json::to_string(&[written]).unwrap();
        let read: Vec<Remembered> = serde_json::from_str(&text).unwrap();
        let [read] = &read[..] else {
            panic!("{text}");
        };
        assert_eq!(read.mac, "02:00:00:00:00:01");
        // Twenty seconds later, by a clock that began anew.
        let later = read.clone().lease(500, 1_000_020);
        assert_eq!((later.renew, later.rebind), (20_500, 60_500));
        assert_eq!(later.expire, u64::MAX);
        assert_eq!(later.grant, lease.grant);
        let gone = read.clone().lease(500, 2_000_000);
        assert_eq!(gone.renew, 500);
    }
}
