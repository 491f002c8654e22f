//! RTSP's messages, by themselves and in a connection.

use natgate::nat::helpers::rtsp::{PLACES, What, scan, write_ports};

use crate::engine::{fuzz, signature};
use crate::helpers::{Said, conversation};

/// Pieces of messages.
const WORDS: &[&str] = &[
    "SETUP rtsp://a/b RTSP/1.0\r\n",
    "PLAY rtsp://a/b RTSP/1.0\r\n",
    "RTSP/1.0 200 OK\r\n",
    "Transport: ",
    "RTP/AVP;unicast",
    ", RTP/AVP/TCP;unicast",
    ";client_port=",
    ";server_port=",
    ";source=10.0.0.2",
    ";destination=10.0.0.2",
    ";interleaved=0-1",
    "5000-5001",
    "5001-5000",
    "6000",
    "Content-Length: 4\r\n",
    "\r\n",
    "$",
    "\u{1}\u{2}",
    "CSeq: 1\r\n",
    "\0",
];

fn messages() -> Vec<Vec<u8>> {
    [
        "OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n\0SETUP rtsp://a/b RTSP/1.0\r\nTransport: RTP/AVP;unicast;client_port=5000-5001\r\n\r\n\0\
         SETUP rtsp://a/c RTSP/1.0\r\nTransport: RTP/AVP;unicast;client_port=005002-05003;destination=10.0.0.2\r\n\r\n\0PLAY rtsp://a RTSP/1.0\r\n\r\n",
        "RTSP/1.0 200 OK\r\nTransport: RTP/AVP;client_port=5000-5001;server_port=7000-7001;source=10.0.0.2\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// What is found lies in the payload, in order, and ports written in its place are found there again.
fn places(payload: &[u8]) -> Vec<u64> {
    let Ok(found) = scan(payload) else {
        return vec![signature("partial")];
    };
    let mut outcomes = vec![signature(found.len().min(PLACES))];
    let mut at = 0;
    for (i, named) in found.iter().enumerate() {
        assert!(at < named.range.start && named.range.start < named.range.end);
        assert!(named.range.end <= payload.len());
        at = named.range.end;
        let (other, second) = match named.what {
            What::ClientPorts(_, second) => {
                (What::ClientPorts(61000, second.map(|_| 61001)), second)
            }
            What::ServerPorts(_, second) => {
                (What::ServerPorts(61000, second.map(|_| 61001)), second)
            }
            What::Address(address) => {
                outcomes.push(signature(address.is_ipv4()));
                continue;
            }
        };
        let text = write_ports(61000, second.map(|_| 61001)).unwrap();
        let mut changed = payload.to_vec();
        changed.splice(named.range.clone(), text);
        if changed.len() > 1800 {
            continue; // The header may have become too long to be looked at.
        }
        let Ok(again) = scan(&changed) else {
            panic!("not found again: {:?}", String::from_utf8_lossy(&changed));
        };
        assert_eq!(again[i].what, other);
        outcomes.push(signature((
            std::mem::discriminant(&named.what),
            second.is_some(),
        )));
    }
    outcomes
}

#[test]
fn rtsp_messages() {
    fuzz("rtsp", &Said(places, WORDS), messages(), 8);
}

const RULES: &str = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nhelpers = [\"rtsp\"]\n\
    [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";

#[test]
fn rtsp_connections() {
    let client = |said: &[u8]| conversation(said, 554, "203.0.113.20", RULES);
    fuzz("rtsp_connection", &Said(client, WORDS), messages(), 6);
}
