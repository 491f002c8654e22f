//! `natgate explain`: the question and the answer.

use super::filter::{self, protocol_name};
use super::{Failure, FailureKind};
use crate::nat::filter::flows::has_ports;
use crate::wire::{ICMP, ICMPV6};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The words a question is made of, as the help text and errors list them.
pub const QUESTION: &str =
    "in=INTERFACE src=ADDRESS dst=ADDRESS proto=NAME|N sport=N dport=N icmp_type=N";

/// The source port of a question that names none.
const SOURCE_PORT: u16 = 40_000;

/// A packet that might come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Interface it comes in on.
    pub interface: String,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port; identifier of an ICMP query.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// ICMP type; an echo request if there is none.
    pub icmp_type: Option<u8>,
}

impl Question {
    /// Reads words of the command line: `in=lan0 src=10.0.0.2 dst=203.0.113.9 proto=udp dport=53`.
    ///
    /// # Errors
    /// [`FailureKind::Usage`] naming what is missing or not understood.
    pub fn from_words<S: AsRef<str>>(words: &[S]) -> Result<Question, Failure> {
        let (mut interface, mut source, mut destination) = (None, None, None);
        let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
        let mut icmp_type = None;
        for word in words.iter().map(AsRef::as_ref) {
            let Some((key, value)) = word.split_once('=') else {
                return Err(wrong(format!("`{word}` is no KEY=VALUE")));
            };
            match key {
                "in" => interface = Some(value.to_owned()),
                "src" => source = Some(number(key, value)?),
                "dst" => destination = Some(number(key, value)?),
                "proto" => protocol = Some(filter::protocol(value)?),
                "sport" => source_port = Some(number(key, value)?),
                "dport" => destination_port = Some(number(key, value)?),
                "icmp_type" => icmp_type = Some(number(key, value)?),
                _ => return Err(wrong(format!("`{key}` is no part of a packet"))),
            }
        }
        let missing = |key: &str| wrong(format!("`{key}` is missing"));
        let question = Question {
            interface: interface.ok_or_else(|| missing("in"))?,
            source: source.ok_or_else(|| missing("src"))?,
            destination: destination.ok_or_else(|| missing("dst"))?,
            protocol: protocol.ok_or_else(|| missing("proto"))?,
            source_port,
            destination_port,
            icmp_type,
        };
        if question.has_ports() && question.destination_port.is_none() {
            return Err(missing("dport"));
        }
        Ok(question)
    }

    fn has_ports(&self) -> bool {
        has_ports(self.protocol)
    }

    /// The two ports as the flow table knows them: of ICMP queries the identifier alone.
    pub fn ports(&self) -> (u16, u16) {
        let source = self.source_port.unwrap_or(SOURCE_PORT);
        match self.protocol {
            ported if has_ports(ported) => (source, self.destination_port.unwrap_or(0)),
            ICMP | ICMPV6 => (source, 0),
            _ => (0, 0),
        }
    }

    /// The packet in words.
    pub fn packet(&self) -> String {
        let end = |address: IpAddr, port: u16| match (address, self.has_ports()) {
            (IpAddr::V6(address), true) => format!("[{address}]:{port}"),
            (address, true) => format!("{address}:{port}"),
            (address, false) => address.to_string(),
        };
        let (source_port, destination_port) = self.ports();
        format!(
            "{} {} > {}, in on {}",
            protocol_name(self.protocol),
            end(self.source, source_port),
            end(self.destination, destination_port),
            self.interface
        )
    }
}

fn wrong(why: String) -> Failure {
    Failure::new(FailureKind::Usage, "explain", why).hint(format!("a packet is: {QUESTION}"))
}

fn number<N: std::str::FromStr>(key: &str, value: &str) -> Result<N, Failure> {
    value
        .parse()
        .map_err(|_| wrong(format!("`{key}={value}`: cannot be read")))
}

/// One stage of the slow path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// `destination`, `route`, `filter`, `source`.
    pub stage: String,
    /// What it decided.
    pub what: String,
    /// The rule that decided, if one did.
    pub rule: Option<String>,
}

/// What would happen to a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet.
    pub packet: String,
    /// The living session it belongs to, whose treatment it gets instead of what the stages say.
    pub session: Option<String>,
    /// What each stage decides for a new flow, as far as the packet comes. A hairpin comes through twice.
    pub stages: Vec<Stage>,
    /// `forwarded`, `dropped`, or `for the gateway itself`.
    pub result: String,
    /// Why it is dropped.
    pub reason: Option<String>,
    /// Whether its sender is told that it is dropped.
    pub sender_told: bool,
    /// Its endpoints when it leaves.
    pub sent_as: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_and_said() {
        let words = [
            "in=lan0",
            "src=10.0.0.2",
            "dst=203.0.113.9",
            "proto=udp",
            "dport=53",
        ];
        let question = Question::from_words(&words).unwrap();
        assert_eq!(
            question.packet(),
            "udp 10.0.0.2:40000 > 203.0.113.9:53, in on lan0"
        );
        for (words, why) in [
            (&words[..4], "dport"),
            (&words[1..], "in"),
            (&["ttl=3"][..], "ttl"),
            (&["src=10.0.0"][..], "10.0.0"),
            (&["lan0"][..], "lan0"),
        ] {
            let failure = Question::from_words(words).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage);
            assert!(failure.to_string().contains(why), "{failure}");
        }
        let ping = ["in=a", "src=fd00::2", "dst=fd00::1", "proto=icmp6"];
        let question = Question::from_words(&ping).unwrap();
        assert!(question.packet().ends_with("fd00::2 > fd00::1, in on a"));
    }
}
