//! The objects of the listings, one struct a kind, and the lines they travel in.
//!
//! Field names are stable and carry their unit. Field order is the order of columns and of JSON.

use super::rules::{Exempt, FilterRule, HistoryEntry, Rule, ServiceBackend};
use super::{Failure, Listing};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// An address with a port. ICMP queries put their identifier into the port, protocols without ports have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port or query identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
            (address, Some(port)) => write!(f, "{address}:{port}"),
            (address, None) => write!(f, "{address}"),
        }
    }
}

/// What one direction's packets look like before and after the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// Source as received.
    pub source: Endpoint,
    /// Destination as received.
    pub destination: Endpoint,
    /// Source as sent.
    pub translated_source: Endpoint,
    /// Destination as sent.
    pub translated_destination: Endpoint,
}

impl Translation {
    /// The same flow's packets in the other direction.
    #[must_use]
    pub fn reversed(self) -> Translation {
        Translation {
            source: self.translated_destination,
            destination: self.translated_source,
            translated_source: self.destination,
            translated_destination: self.source,
        }
    }
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub port: String,
    /// What it is.
    pub device: String,
    /// MAC address.
    pub mac: String,
    /// Whether it carries packets.
    pub link_up: bool,
    /// Megabits a second, where the device says.
    pub speed_mbps: Option<u32>,
    /// Largest IP packet in bytes.
    pub mtu_bytes: u32,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped because the workers were late.
    pub rx_missed: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets lost because no buffer was free.
    pub rx_nombuf: u64,
    /// Packets the device could not send.
    pub tx_errors: u64,
    /// The driver's own counters, by its own names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended: Vec<(String, u64)>,
}

/// A queue of a device, as one worker counts it. Workers that share a transmit queue each have a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// The device.
    pub port: String,
    /// `rx`, `tx`.
    pub direction: String,
    /// Its number on the device.
    pub queue: u16,
    /// Whose it is.
    pub worker: u8,
    /// Packets received or sent.
    pub packets: u64,
    /// The bursts they came or went in.
    pub bursts: u64,
    /// Packets dropped because the queue was full twice.
    pub refused: u64,
}

/// A sink of the NAT log: emitted = delivered + queued + dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSink {
    /// As it is configured.
    pub sink: String,
    /// `file`, `syslog`, `ipfix`.
    pub kind: String,
    /// `up`, or `failing` while records cannot be delivered.
    pub state: String,
    /// Records it was given since it began.
    pub emitted: u64,
    /// Records written or sent.
    pub delivered: u64,
    /// Records that wait.
    pub queued: u64,
    /// Records that found no room in its queue.
    pub dropped: u64,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// A layer-3 interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub interface: String,
    /// The device beneath.
    pub port: String,
    /// 802.1Q tag.
    pub vlan: Option<u16>,
    /// Whether it works.
    pub up: bool,
    /// MAC address.
    pub mac: String,
    /// Largest IP packet in bytes.
    pub mtu_bytes: u32,
    /// Realm, by number.
    pub realm: String,
    /// Addresses with their subnets.
    pub addresses: Vec<String>,
    /// Its DHCP client, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseView>,
}

/// The DHCP client of an interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Of which interface.
    pub interface: String,
    /// `init`, `selecting`, `requesting`, `probing`, `bound`, `renewing`, `rebinding`, `rebooting`.
    pub state: String,
    /// The leased address with its subnet.
    pub address: Option<String>,
    /// Who leased it.
    pub server: Option<String>,
    /// Seconds until the lease ends; none without a lease, or without an end.
    pub expires_seconds: Option<u64>,
    /// Seconds until it is renewed.
    pub renews_seconds: Option<u64>,
    /// Messages that answered nothing it asked, or made no sense.
    pub ignored: u64,
}

impl LeaseView {
    /// The client in a column.
    pub fn words(&self) -> String {
        match (&self.server, self.expires_seconds) {
            (Some(server), Some(seconds)) => format!("{} from {server}, {seconds} s", self.state),
            (Some(server), None) => format!("{} from {server}", self.state),
            _ => self.state.clone(),
        }
    }
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub prefix: String,
    /// Next hop; none for what is on the link.
    pub via: Option<String>,
    /// Outgoing interface.
    pub interface: String,
    /// `connected`, `static`, `dhcp`.
    pub kind: String,
    /// Realm, by number.
    pub realm: String,
    /// Whether it is in use; a route through an interface that is down is not.
    pub usable: bool,
}

/// A next hop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Neighbor {
    /// Its address.
    pub address: String,
    /// Where it lives.
    pub interface: String,
    /// MAC address, once known.
    pub mac: Option<String>,
    /// `incomplete`, `reachable`, `stale`, `static`, ….
    pub state: String,
    /// Seconds since something was last sent to it.
    pub idle_seconds: Option<f64>,
    /// Whose table it is in.
    pub worker: u8,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub worker: u8,
    /// The core it is pinned to.
    pub core: Option<u32>,
    /// `running`, `stalled`, `stopped`.
    pub state: String,
    /// Share of time spent on packets since the last look, 0–1.
    pub busy_ratio: f64,
    /// Packets in a received burst, on average.
    pub batch_fill: f64,
    /// Seconds since its last loop.
    pub heartbeat_age_seconds: f64,
    /// Loops run.
    pub loops: u64,
    /// Version of the policy it uses.
    pub policy_version: u64,
    /// Live sessions.
    pub sessions: u64,
    /// Room for sessions.
    pub session_capacity: u64,
    /// Live mappings.
    pub mappings: u64,
    /// Packets received.
    pub received: u64,
    /// Packets taken over from other workers.
    pub handoff_in: u64,
    /// Packets handed to other workers.
    pub handoff_out: u64,
    /// Memory of its tables.
    pub memory_bytes: u64,
}

/// Ports of a pool in one protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPorts {
    /// `tcp`, `udp`, `icmp`, `sctp`.
    pub protocol: String,
    /// Ports there are.
    pub total: u64,
    /// Ports of living mappings.
    pub in_use: u64,
    /// Ports at rest after use.
    pub hold: u64,
    /// The most ports ever in use at a time, summed over the addresses.
    pub high_water: u64,
    /// Mappings given a port since the pool appeared.
    pub created: u64,
    /// Mappings refused one, by reason; every reason is present.
    pub refused: std::collections::BTreeMap<String, u64>,
}

impl PoolPorts {
    fn add(&mut self, other: &PoolPorts) {
        self.total += other.total;
        self.in_use += other.in_use;
        self.hold += other.hold;
        self.high_water += other.high_water;
        self.created += other.created;
        for (reason, n) in &other.refused {
            *self.refused.entry(reason.clone()).or_default() += n;
        }
    }
}

impl Pool {
    /// Adds the addresses of another part of the same pool, and what is on them.
    pub fn join(&mut self, other: Pool) {
        self.addresses.extend(other.addresses);
        self.draining.extend(other.draining);
        self.drained.extend(other.drained);
        self.addresses_active += other.addresses_active;
        self.addresses_draining += other.addresses_draining;
        self.addresses_quarantined += other.addresses_quarantined;
        self.blocks_total += other.blocks_total;
        self.blocks_in_use += other.blocks_in_use;
        self.blocks_high_water += other.blocks_high_water;
        for (mine, theirs) in self.ports.iter_mut().zip(&other.ports) {
            mine.add(theirs);
        }
    }
}

/// An address pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name; a masquerading interface's is `interface:NAME`.
    pub pool: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Those that give out no ports any more and still have some in use.
    pub draining: Vec<String>,
    /// Those that give out no ports any more and have none in use.
    pub drained: Vec<String>,
    /// Number of addresses that give out ports.
    pub addresses_active: u64,
    /// Number of addresses under drain.
    pub addresses_draining: u64,
    /// Number of addresses under quarantine.
    pub addresses_quarantined: u64,
    /// How ports are chosen: `preserve`, `random`, `sequential`.
    pub select: String,
    /// What a mapping depends on besides the inside endpoint: `endpoint` (nothing), `address`, `address-port` of the remote;
    /// or `tcp=…,udp=…,icmp=…,sctp=…` where protocols differ.
    pub mapping: String,
    /// Who may send to a mapped port: `endpoint`, `address`, `address-port`; or by protocol in the same way.
    pub filtering: String,
    /// Whether it is nearly used up: from `alarm_high` percent on until below `alarm_low`.
    pub alarm: bool,
    /// Times that it was since the start.
    pub alarms: u64,
    /// Ports in a block; none without blocks.
    pub block_size: Option<u32>,
    /// Blocks there are.
    pub blocks_total: u64,
    /// Blocks that belong to a subscriber.
    pub blocks_in_use: u64,
    /// The most blocks ever in use at a time.
    pub blocks_high_water: u64,
    /// Ports by protocol.
    pub ports: Vec<PoolPorts>,
}

/// A port block in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The pool.
    pub pool: String,
    /// The outside address.
    pub address: String,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// The inside host it belongs to.
    pub subscriber: Option<String>,
    /// Worker that holds it.
    pub worker: u8,
    /// Ports in use, all protocols.
    pub ports_in_use: u32,
}

/// An inside host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subscriber {
    /// Its address.
    pub subscriber: String,
    /// Realm, by number.
    pub realm: String,
    /// Its sessions.
    pub sessions: u64,
    /// TCP connections it opened that are not established yet.
    pub half_open: u64,
    /// Its port blocks.
    pub blocks: u64,
    /// The outside address it is paired with.
    pub outside: Option<String>,
    /// Worker it lives on.
    pub worker: u8,
}

/// An inside endpoint and what it looks like outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// `tcp`, `udp`, `icmp`, `sctp`.
    pub protocol: String,
    /// Inside endpoint.
    pub inside: Endpoint,
    /// Outside endpoint.
    pub outside: Endpoint,
    /// The pool of the outside address; none while that address only drains.
    pub pool: Option<String>,
    /// The realm of the inside endpoint.
    pub realm: String,
    /// Sessions that use it.
    pub sessions: u64,
    /// Worker it lives on.
    pub worker: u8,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// `tcp`, `udp`, `icmp`, … or the number.
    pub protocol: String,
    /// Where it is in its life; selects the timeout.
    pub state: String,
    /// The opener's packets, as received and as sent.
    pub forward: Translation,
    /// The answers, as received and as sent.
    pub reverse: Translation,
    /// Seconds without a packet.
    pub idle_seconds: f64,
    /// Seconds until it ends if no packet comes.
    pub remaining_seconds: f64,
    /// Interface the first packet came in on.
    pub interface: String,
    /// Interface it left by, as far as known.
    pub out_interface: Option<String>,
    /// The pool of its outside address.
    pub pool: Option<String>,
    /// The rule that made it.
    pub rule: Option<String>,
    /// The filter rule that let it pass.
    #[serde(default)]
    pub filter: Option<String>,
    /// The realm of the side that opened it.
    pub realm: String,
    /// The realm of the other side.
    pub far_realm: String,
    /// Worker it lives on.
    pub worker: u8,
}

/// One object of any listing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Item {
    /// Of [`Listing::Ports`].
    Port(Port),
    /// Of [`Listing::Queues`].
    Queue(Queue),
    /// Of [`Listing::Log`].
    LogSink(LogSink),
    /// Of [`Listing::Interfaces`].
    Interface(Interface),
    /// Of [`Listing::Routes`].
    Route(Route),
    /// Of [`Listing::Neighbors`].
    Neighbor(Neighbor),
    /// Of [`Listing::Workers`].
    Worker(Worker),
    /// Of [`Listing::Pools`].
    Pool(Pool),
    /// Of [`Listing::Blocks`].
    Block(Block),
    /// Of [`Listing::Subscribers`].
    Subscriber(Subscriber),
    /// Of [`Listing::Mappings`].
    Mapping(Mapping),
    /// Of [`Listing::Sessions`].
    Session(Session),
    /// Of [`Listing::Exempt`].
    Exempt(Exempt),
    /// Of the other rule listings.
    Rule(Rule),
    /// Of [`Listing::Services`].
    Service(ServiceBackend),
    /// Of [`Listing::Filter`].
    FilterRule(FilterRule),
    /// Of [`Listing::History`].
    History(HistoryEntry),
}

impl Item {
    /// Reads an object of the given listing.
    ///
    /// # Errors
    /// When the JSON is none of that kind.
    pub fn decode(listing: Listing, value: serde_json::Value) -> Result<Item, serde_json::Error> {
        use serde_json::from_value as read;
        Ok(match listing {
            Listing::Ports => Item::Port(read(value)?),
            Listing::Queues => Item::Queue(read(value)?),
            Listing::Log => Item::LogSink(read(value)?),
            Listing::Interfaces => Item::Interface(read(value)?),
            Listing::Routes => Item::Route(read(value)?),
            Listing::Neighbors => Item::Neighbor(read(value)?),
            Listing::Workers => Item::Worker(read(value)?),
            Listing::Pools => Item::Pool(read(value)?),
            Listing::Blocks => Item::Block(read(value)?),
            Listing::Subscribers => Item::Subscriber(read(value)?),
            Listing::Mappings => Item::Mapping(read(value)?),
            Listing::Sessions => Item::Session(read(value)?),
            Listing::Exempt => Item::Exempt(read(value)?),
            Listing::SourceNat | Listing::StaticNat | Listing::PortForwards => {
                Item::Rule(read(value)?)
            }
            Listing::Services => Item::Service(read(value)?),
            Listing::Filter => Item::FilterRule(read(value)?),
            Listing::History => Item::History(read(value)?),
        })
    }
}

/// How a listing ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEnd {
    /// Objects shown.
    pub shown: u64,
    /// Objects that match the filter, shown or not.
    pub total: u64,
    /// Workers that did not answer in time; their objects are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalled_workers: Vec<u8>,
}

/// One line of a streamed listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<T> {
    /// An object.
    Item(T),
    /// The last line: the list is complete.
    End(ListEnd),
    /// The last line: it is not.
    Error(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> Endpoint {
        let socket: std::net::SocketAddr = text.parse().unwrap();
        Endpoint {
            address: socket.ip(),
            port: Some(socket.port()),
        }
    }

    #[test]
    fn answers_retrace_the_way() {
        let forward = Translation {
            source: end("10.0.0.2:4000"),
            destination: end("203.0.113.9:53"),
            translated_source: end("192.0.2.1:61000"),
            translated_destination: end("203.0.113.9:53"),
        };
        let reverse = forward.reversed();
        assert_eq!(reverse.destination.to_string(), "192.0.2.1:61000");
        assert_eq!(reverse.translated_destination.to_string(), "10.0.0.2:4000");
        assert_eq!(reverse.reversed(), forward);
        assert_eq!(end("[2001:db8::1]:7").to_string(), "[2001:db8::1]:7");
    }

    #[test]
    fn every_listing_reads_what_it_writes() {
        let items = [
            (
                Listing::Ports,
                Item::Port(Port {
                    port: "a".into(),
                    ..Port::default()
                }),
            ),
            (
                Listing::Pools,
                Item::Pool(Pool {
                    ports: vec![PoolPorts::default()],
                    ..Pool::default()
                }),
            ),
            (
                Listing::Workers,
                Item::Worker(Worker {
                    busy_ratio: 0.5,
                    ..Worker::default()
                }),
            ),
            (
                Listing::Blocks,
                Item::Block(Block {
                    subscriber: Some("10.0.0.2".into()),
                    ..Block::default()
                }),
            ),
            (
                Listing::Exempt,
                Item::Exempt(Exempt {
                    state: "stale".into(),
                    ..Exempt::default()
                }),
            ),
            (
                Listing::SourceNat,
                Item::Rule(Rule {
                    ingress: "lan".into(),
                    ..Rule::default()
                }),
            ),
            (
                Listing::Filter,
                Item::FilterRule(FilterRule {
                    egress: "wan".into(),
                    ..FilterRule::default()
                }),
            ),
            (Listing::History, Item::History(HistoryEntry::default())),
        ];
        for (listing, item) in items {
            let line = serde_json::to_string(&Line::Item(&item)).unwrap();
            let Line::Item(value) = serde_json::from_str::<Line<serde_json::Value>>(&line).unwrap()
            else {
                panic!("{line}");
            };
            assert_eq!(Item::decode(listing, value).unwrap(), item);
        }
        assert!(Item::decode(Listing::Sessions, serde_json::json!({"port": 1})).is_err());
    }
}
