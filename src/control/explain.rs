//! `natgate explain`: what would happen to a packet, stage by stage.
//!
//! The packet is made and sent through the data plane itself, in memory, under the configuration in question: what is
//! shown is what the slow path decided, not what somebody thought it would. Nothing of the running gateway is touched; its
//! living sessions are asked for separately.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::api::{Explanation, Failure, FailureKind, Question, Stage};
use super::runtime::{load, refused};
use crate::base::{DropReason, InterfaceId, RuleId, WorkerId};
use crate::config::compile::{PortFacts, compile, exempt};
use crate::config::filtering::action_name;
use crate::config::validated::Validated;
use crate::dataplane::rack::Rack;
use crate::dataplane::shard::ShardSize;
use crate::flow::key::{FlowKey, Tuple};
use crate::flow::session::Direction;
use crate::gateway::interface::Interface;
use crate::nat::behaviour::Behaviour;
use crate::nat::family::Family;
use crate::nat::filter::flows::has_ports;
use crate::nat::policy::Policy;
use crate::nat::ports::{Pool, PortSpace};
use crate::nat::state::Nat;
use crate::nat::trace::{DestinationStep, SourceStep, Trace};
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, MacAddr, SCTP, TCP, UDP, checksum, ethernet,
    icmp, ipv4, ipv6, sctp, tcp, write_u16,
};

/// The MAC address of whoever sends the packet.
const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// TTL and hop limit of the packet.
const TTL: u8 = 64;

/// [`explain`] under a configuration, with the ports as they are (or, of one that is not running, at their best).
///
/// # Errors
/// As [`explain`], and when the configuration cannot be compiled.
pub fn under(
    config: &Validated,
    ports: &[PortFacts],
    question: &Question,
) -> Result<Explanation, Failure> {
    // A policy of its own: ports must not be leased from the running gateway's addresses. One worker decides alike.
    let mut config = config.clone();
    config.system.workers = 1;
    let policy = compile(&config, ports, None, 0)
        .map_err(|report| Failure::new(FailureKind::Failed, "explain", report.to_string()))?;
    explain(&Arc::new(policy), question)
}

/// [`explain`] under the configuration in a file.
///
/// # Errors
/// As [`under`], and with every finding when the configuration is wrong.
pub fn under_file(file: &Path, question: &Question) -> Result<Explanation, Failure> {
    let loaded = load(file).map_err(|report| refused(FailureKind::Failed, file, &report))?;
    under(&loaded.validated, &[], question)
}

/// Sends the packet through a data plane of one worker that runs `policy`.
///
/// # Errors
/// When the question names no interface there is, or mixes address families.
pub fn explain(policy: &Arc<Policy>, question: &Question) -> Result<Explanation, Failure> {
    let wrong = |why: String| Failure::new(FailureKind::Usage, "explain", why);
    let on = policy.interfaces.by_name(&question.interface);
    let on = on.ok_or_else(|| wrong(format!("there is no interface {:?}", question.interface)))?;
    let frame = frame(on, question)
        .ok_or_else(|| wrong("src and dst are of different address families".to_owned()))?;
    let size = ShardSize::small();
    let mut rack = Rack::new(Arc::clone(policy), size, 1)
        .map_err(|e| Failure::new(FailureKind::Failed, "explain", e.to_string()))?;
    rack.receive(WorkerId(0), on.port, &[&frame]);
    let telling = Telling {
        policy,
        question,
        rack: &rack,
        on,
    };
    Ok(Explanation {
        stages: telling.stages(),
        ..telling.result()
    })
}

/// The packet as a frame for the interface.
fn frame(on: &Interface, question: &Question) -> Option<Vec<u8>> {
    let mut bytes = vec![0; ethernet::HEADER_TAGGED + ipv6::HEADER];
    let segment = segment(question);
    let headers = match (question.source, question.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = ipv4::Header {
                tos: 0,
                total_length: (ipv4::HEADER + segment.len()) as u16,
                id: 1,
                flags_offset: 0,
                ttl: TTL,
                protocol: question.protocol,
                source: source.into(),
                destination: destination.into(),
            };
            let at = ethernet::header(&mut bytes, on.mac, SENDER, on.vlan, ETHERTYPE_IPV4);
            ipv4::write_header(&mut bytes[at..], &header);
            at + ipv4::HEADER
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = ipv6::Header {
                payload_length: segment.len() as u16,
                next_header: question.protocol,
                hop_limit: TTL,
                source: source.into(),
                destination: destination.into(),
            };
            let at = ethernet::header(&mut bytes, on.mac, SENDER, on.vlan, ETHERTYPE_IPV6);
            ipv6::write_header(&mut bytes[at..], &header);
            at + ipv6::HEADER
        }
        _ => return None,
    };
    bytes.truncate(headers);
    bytes.extend(segment);
    Some(bytes)
}

/// The transport header: a SYN, a datagram, an echo request or what `icmp_type` says; of anything else eight bytes of
/// nothing.
fn segment(question: &Question) -> Vec<u8> {
    let length = match question.protocol {
        TCP => tcp::HEADER,
        SCTP => sctp::HEADER,
        _ => 8,
    };
    let mut segment = vec![0; length];
    let (source_port, destination_port) = question.ports();
    match question.protocol {
        TCP => {
            write_u16(&mut segment, 0, source_port);
            write_u16(&mut segment, 2, destination_port);
            write_u16(&mut segment, 12, 5 << 12 | u16::from(tcp::SYN));
        }
        UDP => {
            write_u16(&mut segment, 0, source_port);
            write_u16(&mut segment, 2, destination_port);
            write_u16(&mut segment, 4, 8);
        }
        SCTP => {
            write_u16(&mut segment, 0, source_port);
            write_u16(&mut segment, 2, destination_port);
            let sum = sctp::checksum(&segment).unwrap_or_default();
            sctp::set_checksum(&mut segment, 0, sum);
        }
        ICMP | ICMPV6 => {
            let echo = if question.protocol == ICMP {
                icmp::V4_ECHO_REQUEST
            } else {
                icmp::V6_ECHO_REQUEST
            };
            icmp::set_kind(&mut segment, 0, question.icmp_type.unwrap_or(echo));
            icmp::set_identifier(&mut segment, 0, source_port);
            let sum = checksum::finish(checksum::sum(&segment));
            icmp::set_checksum(&mut segment, 0, sum);
        }
        _ => {}
    }
    segment
}

/// What there is to tell of one packet.
struct Telling<'a> {
    policy: &'a Policy,
    question: &'a Question,
    rack: &'a Rack,
    on: &'a Interface,
}

impl Telling<'_> {
    fn trace(&self) -> &Trace {
        &self.rack.shards[0].traces[0]
    }

    fn stages(&self) -> Vec<Stage> {
        let mut stages = Vec::new();
        let [first, second] = &self.rack.shards[0].traces;
        self.stages_of(first, &mut stages);
        if second.destination.is_some() {
            // The packet came back to its public address: what its second half met.
            self.stages_of(second, &mut stages);
        }
        stages
    }

    fn stages_of(&self, trace: &Trace, stages: &mut Vec<Stage>) {
        let mut add = |stage: &str, what: String, rule: Option<RuleId>| {
            stages.push(Stage {
                stage: stage.to_owned(),
                what,
                rule: rule.and_then(|rule| self.rule(rule)),
            });
        };
        match trace.destination {
            Some(DestinationStep::Kept) => add("destination", "unchanged".to_owned(), None),
            Some(DestinationStep::Mapped) => {
                add("destination", "of a living mapping".to_owned(), None)
            }
            Some(DestinationStep::Hairpin) => {
                let what = "a public address of the inside: out and back in (hairpin)";
                add("destination", what.to_owned(), None);
            }
            Some(DestinationStep::Translated {
                address,
                port,
                rule,
                ..
            }) => add("destination", self.end(address, port), Some(rule)),
            None => {}
        }
        if let Some(egress) = trace.egress {
            add("route", format!("out through {}", self.name(egress)), None);
        }
        match trace.verdict {
            Some(verdict) if verdict.rule != RuleId::NONE => {
                add("filter", action_name(verdict.action), Some(verdict.rule));
            }
            Some(_) if self.policy.filter.is_active() => {
                add("filter", "accept (not asked)".to_owned(), None);
            }
            _ => {}
        }
        match trace.source {
            Some(SourceStep::Kept(rule)) => add("source", "unchanged".to_owned(), rule),
            Some(SourceStep::Static(rule)) => add("source", "one to one".to_owned(), Some(rule)),
            Some(SourceStep::Pool { pool, rule }) => {
                let pool = self.policy.nat.pool(pool);
                let name = pool.map_or("", |pool| &pool.policy().name);
                let how = pool.map_or_else(String::new, |pool| self.mapped(pool));
                add("source", format!("from pool {name}{how}"), rule);
            }
            None => {}
        }
    }

    /// What the mapping depends on besides the inside endpoint, and whether it shares its port.
    fn mapped(&self, pool: &Pool) -> String {
        let space = PortSpace::from_protocol(self.question.protocol);
        let kind = space.map(|space| pool.behaviours(space).kind());
        let Some(kind) = kind.filter(|kind| kind.mapping() != Behaviour::Endpoint) else {
            return String::new();
        };
        let shared = match kind.sharing() {
            Behaviour::Endpoint => "a port of its own",
            Behaviour::Address => "a port shared with other remote addresses",
            Behaviour::AddressPort => "a port shared with other remote endpoints",
        };
        let depends = kind.mapping().name();
        format!(", a mapping by remote {depends} with {shared}")
    }

    /// How it ended.
    fn result(&self) -> Explanation {
        let totals = self.rack.totals();
        let dropped = DropReason::ALL
            .iter()
            .find(|reason| self.rack.drops(**reason) > 0);
        let told = totals.icmp_errors > 0 || self.trace().verdict().rejects();
        let mut answer = Explanation {
            packet: self.question.packet(),
            ..Explanation::default()
        };
        if let Some(reason) = dropped {
            answer.result = "dropped".to_owned();
            answer.reason = Some(reason.name().to_owned());
            answer.sender_told = told;
        } else if totals.consumed > 0 {
            answer.result = "for the gateway itself".to_owned();
        } else {
            answer.result = "forwarded".to_owned();
            answer.sent_as = self.sent_as();
        }
        answer
    }

    /// What the packet looks like when it leaves: of a hairpin, when it leaves for the second time.
    fn sent_as(&self) -> Option<String> {
        let shard = &self.rack.shards[0];
        match (self.question.source, self.question.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Some(self.translated::<u32>(&shard.nat, from.into(), to.into()))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Some(self.translated::<u128>(&shard.nat_v6, from.into(), to.into()))
            }
            _ => None,
        }
    }

    fn translated<A: Family>(&self, nat: &Nat<A>, source: A, destination: A) -> String {
        let (source_port, destination_port) = self.question.ports();
        let mut tuple = Tuple {
            source,
            destination,
            source_port,
            destination_port,
        };
        let mut realm = self.on.realm;
        let mut stateless = true;
        for _ in 0..2 {
            let key = FlowKey::new(tuple, self.question.protocol, realm);
            let entry = nat
                .lookup(&key)
                .filter(|e| e.direction() == Direction::Forward);
            if let Some(session) = entry.and_then(|entry| nat.session(entry.session())) {
                tuple = session.after;
                realm = session.far_realm;
                stateless = false;
            }
        }
        if stateless {
            self.prefixes(&mut tuple);
        }
        format!(
            "{} > {}",
            self.end(tuple.source.to_ip(), tuple.source_port),
            self.end(tuple.destination.to_ip(), tuple.destination_port)
        )
    }

    /// What prefixes, translated without a session, make of the addresses.
    fn prefixes<A: Family>(&self, tuple: &mut Tuple<A>) {
        let trace = self.trace();
        if let Some(DestinationStep::Translated { address, .. }) = trace.destination {
            tuple.destination = A::from_ip(address).unwrap_or(tuple.destination);
        }
        if let Some(SourceStep::Static(id)) = trace.source {
            let statics = &A::translation(&self.policy.nat).statics;
            let rule = statics.iter().find(|rule| rule.id == id);
            let external = rule.and_then(|rule| rule.to_external(tuple.source));
            tuple.source = external.unwrap_or(tuple.source);
        }
    }

    /// An endpoint; without a port where there is none.
    fn end(&self, address: IpAddr, port: u16) -> String {
        match self.question.protocol {
            ported if has_ports(ported) => SocketAddr::new(address, port).to_string(),
            _ => address.to_string(),
        }
    }

    fn name(&self, interface: InterfaceId) -> String {
        let on = self.policy.interfaces.get(interface);
        on.map_or_else(String::new, |on| on.name.clone())
    }

    fn rule(&self, id: RuleId) -> Option<String> {
        let info = self.policy.rule(id)?;
        // The prefixes of an exemption are counted each for itself, under the rule's name.
        let kind = match info.kind {
            exempt::KIND => "exempt",
            kind => kind,
        };
        Some(match info.name.strip_prefix(kind) {
            // Unnamed rules are called by kind and position already.
            Some(_) => info.name.clone(),
            None => format!("{kind} {}", info.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::documents::explanation;

    const CONFIG: &str = r#"
schema = 1
port = [{ name = "a", device = "null:" }, { name = "b", device = "null:" }]
interface = [
  { name = "lan", port = "a", address = ["10.0.0.1/24", "fd00:1::1/64"] },
  { name = "wan", port = "b", vlan = 7, address = ["203.0.113.1/24", "2001:db8::1/64"] },
]
route = [{ prefix = "0.0.0.0/0", via = "203.0.113.9" }, { prefix = "::/0", via = "2001:db8::9" }]
[[exempt]]
name = "sites"
dst = "198.51.100.0/24"
[[source-nat]]
name = "out"
out = "wan"
via = "interface"
[[port-forward]]
name = "ssh"
in = "wan"
dst = "203.0.113.1"
dport = "8022"
to = "10.0.0.2:22"
allow = false
[filter]
default = "drop"
[[filter.rule]]
name = "no mail"
proto = "tcp"
dport = "25"
action = "reject"
reject_with = "tcp-reset"
[[filter.rule]]
in = "lan"
action = "accept"
"#;

    fn told(words: &[&str]) -> String {
        let policy = crate::config::compile::compile_text("test", CONFIG).unwrap();
        let question = Question::from_words(words).unwrap();
        explanation(&explain(&policy, &question).unwrap())
    }

    #[test]
    fn every_stage_names_the_rule_that_decided() {
        let out = told(&[
            "in=lan",
            "src=10.0.0.2",
            "dst=203.0.113.9",
            "proto=udp",
            "dport=53",
        ]);
        assert_eq!(
            out,
            "\
packet       udp 10.0.0.2:40000 > 203.0.113.9:53, in on lan
destination  unchanged
route        out through wan
filter       accept  by filter.rule 2
source       from pool interface:wan  by source-nat out
result       forwarded as 203.0.113.1:40000 > 203.0.113.9:53
"
        );
        let exempt = told(&["in=lan", "src=10.0.0.2", "dst=198.51.100.5", "proto=icmp"]);
        assert!(
            exempt.contains("source       unchanged  by exempt sites 198.51.100.0/24\n"),
            "{exempt}"
        );
        assert!(
            exempt.ends_with("forwarded as 10.0.0.2 > 198.51.100.5\n"),
            "{exempt}"
        );
    }

    #[test]
    fn mappings_that_depend_on_the_remote_are_told() {
        let text = CONFIG.replace("via = \"interface\"", "via = \"pool:p\"")
            + "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nmapping = { udp = \"address-port\", icmp = \"address\" }\nfiltering = { udp = \"address\", icmp = \"endpoint\" }\n";
        let policy = crate::config::compile::compile_text("test", &text).unwrap();
        for (protocol, how) in [
            (
                "udp",
                ", a mapping by remote address-port with a port shared with other remote addresses",
            ),
            (
                "icmp",
                ", a mapping by remote address with a port of its own",
            ),
            ("tcp", ""),
        ] {
            let protocol = format!("proto={protocol}");
            let mut words = vec!["in=lan", "src=10.0.0.2", "dst=203.0.113.9", &protocol];
            if protocol != "proto=icmp" {
                words.push("dport=53");
            }
            let question = Question::from_words(&words).unwrap();
            let out = explanation(&explain(&policy, &question).unwrap());
            let expected = format!("from pool p{how}  by source-nat out\n");
            assert!(out.contains(&expected), "{out}");
        }
    }

    #[test]
    fn sctp_has_ports() {
        for (source, to, sent) in [
            (
                "10.0.0.2",
                "203.0.113.9",
                "203.0.113.1:40000 > 203.0.113.9:3868",
            ),
            (
                "fd00:1::2",
                "2001:db8::9",
                "[2001:db8::1]:40000 > [2001:db8::9]:3868",
            ),
        ] {
            let words = [
                "in=lan",
                &format!("src={source}"),
                &format!("dst={to}"),
                "proto=sctp",
                "dport=3868",
            ];
            let out = told(&words);
            assert!(out.ends_with(&format!("forwarded as {sent}\n")), "{out}");
        }
        let words = ["in=lan", "src=10.0.0.2", "dst=203.0.113.9", "proto=sctp"];
        assert!(Question::from_words(&words).is_err(), "dport is missing");
    }

    #[test]
    fn refusals_say_why_and_whether_the_sender_hears() {
        let mail = told(&[
            "in=lan",
            "src=10.0.0.2",
            "dst=203.0.113.9",
            "proto=tcp",
            "dport=25",
        ]);
        assert!(
            mail.contains("filter       reject:tcp-reset  by filter no mail\n"),
            "{mail}"
        );
        assert!(
            mail.ends_with("result       dropped: policy_filter, the sender is told\n"),
            "{mail}"
        );
        let knock = told(&[
            "in=wan",
            "src=203.0.113.9",
            "dst=203.0.113.1",
            "proto=tcp",
            "dport=8022",
        ]);
        assert!(
            knock.contains("destination  10.0.0.2:22  by port-forward ssh\n"),
            "{knock}"
        );
        assert!(
            knock.contains("filter       drop  by filter-default default\n"),
            "{knock}"
        );
        assert!(
            knock.ends_with("result       dropped: policy_filter\n"),
            "{knock}"
        );
    }

    #[test]
    fn hairpins_come_through_twice_and_the_gateway_answers_for_itself() {
        let words = [
            "in=lan",
            "src=10.0.0.3",
            "dst=203.0.113.1",
            "proto=tcp",
            "dport=8022",
        ];
        let hairpin = told(&words);
        assert!(hairpin.contains("(hairpin)\n"), "{hairpin}");
        assert!(
            hairpin.contains("destination  10.0.0.2:22  by port-forward ssh\n"),
            "{hairpin}"
        );
        assert!(
            hairpin.ends_with("forwarded as 203.0.113.1:40000 > 10.0.0.2:22\n"),
            "{hairpin}"
        );
        let ping = told(&["in=lan", "src=10.0.0.2", "dst=10.0.0.1", "proto=icmp"]);
        assert!(ping.ends_with("result  for the gateway itself\n"), "{ping}");
    }

    #[test]
    fn ipv6_is_asked_about_too() {
        let out = told(&[
            "in=lan",
            "src=fd00:1::2",
            "dst=2001:db8::9",
            "proto=udp",
            "dport=53",
        ]);
        assert!(
            out.contains("route        out through wan\nfilter       accept  by filter.rule 2\n"),
            "{out}"
        );
        assert!(
            out.ends_with(
                "source       from pool interface:wan  by source-nat out\n\
                 result       forwarded as [2001:db8::1]:40000 > [2001:db8::9]:53\n"
            ),
            "{out}"
        );
        let knock = told(&[
            "in=wan",
            "src=2001:db8::9",
            "dst=fd00:1::2",
            "proto=tcp",
            "dport=22",
        ]);
        assert!(
            knock.ends_with("result       dropped: policy_filter\n"),
            "{knock}"
        );
        let policy = crate::config::compile::compile_text("test", CONFIG).unwrap();
        for words in [
            ["in=lan", "src=fd00:1::2", "dst=10.0.0.2", "proto=gre"],
            ["in=lan9", "src=10.0.0.2", "dst=10.0.0.3", "proto=gre"],
        ] {
            let question = Question::from_words(&words).unwrap();
            let failure = explain(&policy, &question).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage, "{failure}");
        }
    }
}
