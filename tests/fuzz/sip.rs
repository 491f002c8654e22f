//! SIP messages and the descriptions in them, each by itself and on their way through a gateway.

use std::net::IpAddr;

use natgate::base::{DropReason, WorkerId};
use natgate::nat::helpers::sdp;
use natgate::nat::helpers::sip::{Form, Message, Named, PORT, Unread, read, write};

use crate::common::*;
use crate::engine::{fuzz, signature};
use crate::helpers::Said;

/// Pieces of messages.
const WORDS: &[&str] = &[
    "INVITE sip:bob@10.0.0.2:5060 SIP/2.0\r\n",
    "SIP/2.0 200 OK\r\n",
    "Via: SIP/2.0/UDP ",
    "v:SIP/2.0/UDP [fd00:1::2]:5060;rport=5060;received=10.0.0.2\r\n",
    "Contact: ",
    "m: *\r\n",
    "Record-Route: <sip:10.0.0.2;lr>\r\n",
    "<sip:a@",
    "10.0.0.2",
    "10.0.0.2:5060",
    "203.0.113.20:5060",
    "10.0.0.3",
    ">",
    "\"",
    "\\",
    ",",
    ";rport=5060",
    ";received=10.0.0.2",
    ";transport=udp",
    "Content-Length: 100\r\n",
    "l: 0\r\n",
    "c: application/sdp\r\n",
    "\r\n",
    "\n",
    " ",
    "v=0\r\n",
    "o=a 1 1 IN IP4 10.0.0.2\r\n",
    "c=IN IP4 10.0.0.2\r\n",
    "m=audio 8000 RTP/AVP 0\r\n",
    "m=video 8003 RTP/SAVPF 0\r\n",
    "m=image 8004 udptl t38\r\n",
    "a=rtcp:8005\r\n",
    "a=rtcp:8001 IN IP4 10.0.0.2\r\n",
    "0",
    "\0",
];

fn messages() -> Vec<Vec<u8>> {
    let body = "v=0\r\no=- 1 1 IN IP4 10.0.0.2\r\nc=IN IP4 10.0.0.2\r\nm=audio 8000 RTP/AVP 0\r\na=rtcp:8001\r\n";
    [
        format!(
            "INVITE sip:b@203.0.113.9 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2:5060;rport\r\n\
             Contact: \"A\" <sip:a@10.0.0.2:5060;transport=udp>;expires=1, <sip:a@10.0.0.2:5062>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        "SIP/2.0 200 OK\r\nv: SIP/2.0/UDP 203.0.113.20;received=203.0.113.20;rport=5060\r\nm: <sip:a@203.0.113.20>\r\nl: 0\r\n\r\n".to_owned(),
        "\r\n\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// The endpoint that is written in the place of any other.
const OTHER: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 77)), 61_000);

/// A message with `named` changed to [`OTHER`].
fn with_other(message: &[u8], named: &Named) -> Vec<u8> {
    let text = write(named, OTHER.0, OTHER.1).unwrap();
    let mut changed = message.to_vec();
    changed.splice(named.start..named.end, text.iter().copied());
    changed
}

/// What is found lies in the message, side by side, and what is written in its place is found there again.
fn places(message: &[u8]) -> Vec<u64> {
    let found = match read(message) {
        Ok(found) => found,
        Err(why) => return vec![signature(why)],
    };
    let mut outcomes = vec![signature((
        found.named.len().min(6),
        found.length.is_some(),
        found.description.is_some(),
    ))];
    let mut all: Vec<_> = found.named.iter().map(|n| n.start..n.end).collect();
    all.extend(found.length.clone());
    for named in &found.named {
        outcomes.push(signature((
            named.form,
            named.port.is_some(),
            named.address.is_ipv4(),
        )));
        let changed = with_other(message, named);
        if changed.len() > 4000 || found.description.is_some() {
            continue; // Too long perhaps, or with another body.
        }
        let again = read(&changed).unwrap();
        let is_there = |n: &&Named| n.start == named.start && n.form == named.form;
        let new =
            again.named.iter().find(is_there).unwrap_or_else(|| {
                panic!("not found again: {:?}", String::from_utf8_lossy(&changed))
            });
        let written = &changed[new.start..new.end];
        assert_eq!(written, &write(named, OTHER.0, OTHER.1).unwrap()[..]);
    }
    if let Some(range) = found.description {
        assert!(range.end <= message.len() && !range.is_empty());
        match sdp::read(message, range.clone()) {
            Ok(description) => {
                for medium in &description.media {
                    outcomes.push(signature((medium.is_rtp, medium.rtcp.is_some())));
                    all.push(medium.range.clone());
                    all.extend(medium.rtcp.iter().map(|rtcp| rtcp.range.clone()));
                    assert!(medium.end > medium.range.end && medium.end <= range.end);
                }
                all.extend(description.addresses.iter().map(|a| a.range.clone()));
            }
            Err(too_many) => outcomes.push(signature(too_many)),
        }
    }
    all.sort_by_key(|range| range.start);
    assert!(
        all.windows(2).all(|pair| pair[0].end <= pair[1].start),
        "{all:?}"
    );
    assert!(
        all.iter()
            .all(|range| range.start < range.end && range.end <= message.len())
    );
    outcomes
}

#[test]
fn sip_messages() {
    fuzz("sip", &Said(places, WORDS), messages(), 20);
}

/// Endpoints of a message that are `(address, port)`.
fn naming(message: &Message, end: (IpAddr, u16)) -> usize {
    let all = message.named.iter();
    // What was seen of a sender may be its address alone.
    all.filter(|n| n.form == Form::HostPort)
        .filter(|n| (n.address, n.port.unwrap_or(PORT)) == end)
        .count()
}

/// A phone says it, datagram by datagram, and gets it all back from its proxy. The proxy reads the phone's outside endpoint
/// where it wrote the inside one, the phone its own, and what is no message stays as it is.
fn phone(said: &[u8]) -> Vec<u64> {
    let rules = "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20\"]\nhelpers = [\"sip\"]\nselect = \"random\"\n\
        [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
    let mut rack = lab(1, rules);
    let (phone, proxy) = (("10.0.0.2", 5060), ("203.0.113.9", 5060));
    let (worker, inside) = (WorkerId(0), (IpAddr::from(ip(phone.0)), phone.1));
    let mut outcomes = Vec::new();
    let fits = |payload: &&[u8]| payload.len() <= 1200;
    for payload in said.split(|byte| *byte == 0).filter(fits) {
        let sent = rack.receive(worker, LAN, &[&udp(LAN, phone, proxy, payload)]);
        let Some(out) = sent.first().map(seen) else {
            assert_eq!(rack.drops(DropReason::HelperUnfit), 1, "{}", drops(&rack));
            outcomes.push(signature("unfit"));
            break;
        };
        let outside = (IpAddr::from(out.source.0), out.source.1);
        match (read(payload), read(&out.payload)) {
            (Ok(before), Ok(after)) => {
                assert_eq!(before.named.len(), after.named.len());
                assert_eq!(naming(&before, inside), naming(&after, outside));
                assert_eq!(naming(&after, inside), 0);
                assert_eq!(before.description.is_some(), after.description.is_some());
                outcomes.push(signature((
                    naming(&after, outside).min(4),
                    rack.sessions().min(8),
                )));
            }
            (before, after) => {
                assert_eq!(
                    (before, after),
                    (Err(Unread::Foreign), Err(Unread::Foreign))
                );
                assert_eq!(out.payload, payload);
            }
        }
        let public: &'static str = Box::leak(out.source.0.to_string().into_boxed_str());
        let answer = udp(WAN, proxy, (public, out.source.1), &out.payload);
        let back = rack.receive(worker, WAN, &[&answer]);
        let Some(back) = back.first().map(seen) else {
            assert_eq!(rack.drops(DropReason::HelperUnfit), 1, "{}", drops(&rack));
            break;
        };
        if let (Ok(before), Ok(after)) = (read(&out.payload), read(&back.payload)) {
            assert_eq!(naming(&before, outside), naming(&after, inside));
            assert_eq!(naming(&after, outside), 0);
        }
    }
    balanced(&rack);
    outcomes
}

#[test]
fn sip_phones() {
    fuzz("sip_phone", &Said(phone, WORDS), messages(), 10);
}
