//! SIP over UDP: phones inside that call and are called, the media they name, and what is none of the helper's business.

use natgate::base::DropReason;

use crate::common::*;
use crate::filter_v6::udp6;
use crate::nat66::{at, one6};
use crate::*;

const PHONE: End = ("10.0.0.2", 5060);
const PROXY: End = ("203.0.113.9", 5060);
const OUTSIDE: &str = "203.0.113.20";

/// A pool with the helper, and more keys.
fn helped(keys: &str) -> String {
    pool(&format!("helpers = [\"sip\"]\n{keys}"))
}

/// A message with its body and the length of it.
fn message(head: &str, body: &str) -> String {
    let kind = match body {
        "" => "",
        _ => "Content-Type: application/sdp\r\n",
    };
    format!(
        "{head}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn offer(address: &str, port: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=sendrecv\r\n"
    )
}

/// A call of the phone, as it looks with this address and these ports.
fn invite(address: &str, port: &str, body: &str) -> String {
    let head = format!(
        "INVITE sip:bob@203.0.113.9 SIP/2.0\r\n\
         Via: SIP/2.0/UDP {address}:{port};branch=z9hG4bK1;rport\r\n\
         From: <sip:alice@10.0.0.2>;tag=1\r\nTo: <sip:bob@203.0.113.9>\r\nCall-ID: 7@10.0.0.2\r\n\
         Contact: <sip:alice@{address}:{port}>"
    );
    message(&head, body)
}

fn said(frame: &Seen) -> String {
    String::from_utf8(frame.payload.clone()).unwrap()
}

/// Sends a message of the phone and returns what the proxy reads, and from which port.
fn out(rack: &mut Rack, at: u8, from: End, text: &str) -> (String, u16) {
    let seen = one(rack, at, LAN, &udp(LAN, from, PROXY, text.as_bytes()));
    assert_eq!((seen.port, seen.source.0), (WAN, ip(OUTSIDE)));
    (said(&seen), seen.source.1)
}

/// Sends a message of the proxy to an outside port and returns what the phone reads.
fn back(rack: &mut Rack, at: u8, port: u16, text: &str) -> String {
    let frame = udp(WAN, PROXY, (OUTSIDE, port), text.as_bytes());
    let seen = one(rack, at, WAN, &frame);
    assert_eq!(seen.port, LAN);
    said(&seen)
}

/// The port of the first medium of a message.
fn media_port(text: &str) -> u16 {
    let line = text.split("m=audio ").nth(1).unwrap();
    line.split(' ').next().unwrap().parse().unwrap()
}

fn voice(from: End, port: u16) -> Vec<u8> {
    udp(WAN, from, (OUTSIDE, port), b"voice")
}

#[test]
fn a_call_from_inside_gets_its_voice() {
    // With ports kept and with ports drawn, single ones and blocks of them.
    for keys in ["", "select = \"random\"", "block = { size = 64 }"] {
        everywhere(|workers, at| {
            let mut rack = lab(workers, &helped(keys));
            let (text, signal) = out(
                &mut rack,
                at,
                PHONE,
                &invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000")),
            );
            let rtp = media_port(&text);
            let body = offer(OUTSIDE, &rtp.to_string());
            assert_eq!(text, invite(OUTSIDE, &signal.to_string(), &body));
            assert!(rtp.is_multiple_of(2), "{rtp}");
            assert_eq!(
                rtp == 8000,
                !keys.contains("random") && !keys.contains("block")
            );
            // From whomever, more than one, RTP and RTCP; and the phone's own from the same port.
            for from in [("203.0.113.11", 9000), ("203.0.113.10", 9002), PROXY] {
                for more in [0, 1] {
                    let seen = one(&mut rack, at, WAN, &voice(from, rtp + more));
                    assert_eq!(
                        (seen.port, seen.destination),
                        (LAN, (ip("10.0.0.2"), 8000 + more))
                    );
                }
            }
            let answer = udp(LAN, ("10.0.0.2", 8000), ("203.0.113.11", 9000), b"voice");
            assert_eq!(one(&mut rack, at, LAN, &answer).source, (ip(OUTSIDE), rtp));
            // The same once more.
            let again = out(
                &mut rack,
                at,
                PHONE,
                &invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000")),
            );
            assert_eq!(again, (text, signal));
        });
    }
}

#[test]
fn nobody_calls_without_an_expectation_or_after_it() {
    everywhere(|workers, at| {
        let filter =
            "[filter]\ndefault = \"drop\"\n[[filter.rule]]\nin = \"lan0\"\naction = \"accept\"\n";
        let mut rack = lab(workers, &format!("{}{filter}", helped("")));
        dropped(
            &mut rack,
            at,
            WAN,
            &voice(("203.0.113.11", 9000), 8000),
            DropReason::NoMapping,
        );
        out(
            &mut rack,
            at,
            PHONE,
            &invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000")),
        );
        one(&mut rack, at, WAN, &voice(("203.0.113.11", 9000), 8000));
        // Nobody is 0.0.0.0, whom the expectation names.
        let forged = send(&mut rack, at, WAN, &voice(("0.0.0.0", 0), 8000));
        assert!(forged.is_empty(), "{forged:02x?}");
        rack.advance(119_000);
        one(&mut rack, at, WAN, &voice(("203.0.113.10", 9000), 8000));
        rack.advance(2_000);
        let talk = udp(LAN, ("10.0.0.2", 8000), ("203.0.113.11", 9000), b"voice");
        one(&mut rack, at, LAN, &talk);
        dropped(
            &mut rack,
            at,
            WAN,
            &voice(("203.0.113.11", 9001), 8000),
            DropReason::Filtered,
        );
        one(&mut rack, at, WAN, &voice(("203.0.113.11", 9000), 8000));
    });
}

#[test]
fn a_phone_inside_is_called_where_it_registered() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped("select = \"random\""));
        let register = |contact: &str| {
            let head = format!(
                "REGISTER sip:203.0.113.9 SIP/2.0\r\nVia: SIP/2.0/UDP {contact};branch=1;rport\r\n\
                 Contact: <sip:alice@{contact}>, <sip:other@10.0.0.3:5060>\r\nTo: <sip:alice@203.0.113.9>"
            );
            message(&head, "")
        };
        let (text, port) = out(&mut rack, at, PHONE, &register("10.0.0.2"));
        let public = format!("{OUTSIDE}:{port}");
        assert_eq!(text, register(&public), "a third host is left alone");
        let registered = |sent_by: &str, seen: &str, port: &str| {
            let head = format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP {sent_by};branch=1;received={seen};rport={port}\r\n\
                 Contact: <sip:alice@{sent_by}>, <sip:carol@{OUTSIDE}:1>"
            );
            message(&head, "")
        };
        let answer = back(
            &mut rack,
            at,
            port,
            &registered(&public, OUTSIDE, &port.to_string()),
        );
        assert_eq!(answer, registered("10.0.0.2:5060", "10.0.0.2", "5060"));
        // The call, and what the phone answers.
        let call = |to: &str| {
            let head = format!(
                "INVITE sip:alice@{to} SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9:5060\r\n\
                 Record-Route: <sip:203.0.113.9;lr>\r\nContact: <sip:bob@203.0.113.11>"
            );
            message(&head, &offer("203.0.113.11", "7000"))
        };
        assert_eq!(
            back(&mut rack, at, port, &call(&public)),
            call("10.0.0.2:5060")
        );
        let ringing = |contact: &str, body: &str| {
            let head = format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.9:5060\r\nRecord-Route: <sip:203.0.113.9;lr>\r\n\
                 Contact: <sip:alice@{contact}>"
            );
            message(&head, body)
        };
        let (text, _) = out(
            &mut rack,
            at,
            PHONE,
            &ringing("10.0.0.2:5060", &offer("10.0.0.2", "8000")),
        );
        let rtp = media_port(&text);
        assert_eq!(text, ringing(&public, &offer(OUTSIDE, &rtp.to_string())));
        let seen = one(&mut rack, at, WAN, &voice(("203.0.113.11", 7000), rtp));
        assert_eq!(seen.destination, (ip("10.0.0.2"), 8000));
    });
}

#[test]
fn a_server_inside_is_called_at_its_public_port() {
    let rules = format!(
        "{MASQUERADE}[[port-forward]]\nin = \"wan0\"\nproto = \"udp\"\ndport = \"5070\"\nto = \"10.0.0.3:5060\"\n"
    );
    everywhere(|workers, at| {
        let text = lab_text(workers, &rules, "").replacen(
            "address = [\"203.0.113.1/24\"",
            "helpers = [\"sip\"]\naddress = [\"203.0.113.1/24\"",
            1,
        );
        let mut rack = rack(&text);
        let caller = ("203.0.113.10", 5060);
        let call = |to: &str| {
            let head = format!(
                "INVITE sip:pbx@{to} SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.10:5060\r\nRoute: <sip:{to};lr>"
            );
            message(&head, &offer("203.0.113.10", "7000"))
        };
        let frame = udp(
            WAN,
            caller,
            ("203.0.113.1", 5070),
            call("203.0.113.1:5070").as_bytes(),
        );
        let seen = one(&mut rack, at, WAN, &frame);
        assert_eq!(
            (said(&seen), seen.destination),
            (call("10.0.0.3:5060"), (ip("10.0.0.3"), 5060))
        );
        let answer = |contact: &str, body: &str| {
            let head = format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.10:5060\r\nContact: <sip:pbx@{contact}>"
            );
            message(&head, body)
        };
        let ours = answer("10.0.0.3", &offer("10.0.0.3", "8000"));
        let seen = one(
            &mut rack,
            at,
            LAN,
            &udp(LAN, ("10.0.0.3", 5060), caller, ours.as_bytes()),
        );
        assert_eq!(
            said(&seen),
            answer("203.0.113.1:5070", &offer("203.0.113.1", "8000"))
        );
        let voice = udp(WAN, ("203.0.113.11", 1), ("203.0.113.1", 8000), b"voice");
        assert_eq!(
            one(&mut rack, at, WAN, &voice).destination,
            (ip("10.0.0.3"), 8000)
        );
    });
}

#[test]
fn a_contact_at_another_port_is_expected_to_be_called() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped("select = \"random\""));
        let (text, signal) = out(
            &mut rack,
            at,
            ("10.0.0.2", 40000),
            &invite("10.0.0.2", "5062", ""),
        );
        let contact = text
            .split("Contact: <sip:alice@203.0.113.20:")
            .nth(1)
            .unwrap();
        let port: u16 = contact.split('>').next().unwrap().parse().unwrap();
        assert_ne!(port, signal);
        assert_eq!(text, invite(OUTSIDE, &port.to_string(), ""));
        let bye = |to: &str| {
            message(
                &format!("BYE sip:alice@{to} SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9"),
                "",
            )
        };
        let frame = udp(WAN, ("203.0.113.11", 5060), (OUTSIDE, port), b"x");
        dropped(&mut rack, at, WAN, &frame, DropReason::Filtered);
        let public = format!("{OUTSIDE}:{port}");
        let zero = udp(WAN, ("203.0.113.9", 0), (OUTSIDE, port), b"x");
        dropped(&mut rack, at, WAN, &zero, DropReason::Filtered);
        // Through the flow that is there, and through the one that was expected (not SIP's port: nobody reads along).
        assert_eq!(
            back(&mut rack, at, signal, &bye(&public)),
            bye("10.0.0.2:5062")
        );
        assert_eq!(
            back(&mut rack, at, port, &bye("x.example")),
            bye("x.example")
        );
    });
}

#[test]
fn rtcp_is_named_where_it_is_not_next_to_rtp() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped(""));
        // Another host has the port of RTCP.
        one(&mut rack, at, LAN, &call(("10.0.0.2", 8001)));
        let other = one(&mut rack, at, LAN, &call(("10.0.0.3", 8000)));
        assert_eq!(other.source.1, 8000);
        let (text, _) = out(
            &mut rack,
            at,
            PHONE,
            &invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000")),
        );
        let rtp = media_port(&text);
        let control = text.split("a=rtcp:").nth(1).unwrap().trim_end();
        assert_eq!(control, "8001", "the port has a mapping already");
        let body = format!("{}a=rtcp:8001\r\n", offer(OUTSIDE, &rtp.to_string()));
        assert_eq!(text, invite(OUTSIDE, "5060", &body));
        // One that is named is translated.
        let named = |address: &str, rtp: u16, rtcp: u16| {
            format!(
                "{}a=rtcp:{rtcp} IN IP4 {address}\r\n",
                offer(address, &rtp.to_string())
            )
        };
        let (text, _) = out(
            &mut rack,
            at,
            ("10.0.0.4", 5060),
            &invite("10.0.0.4", "5060", &named("10.0.0.4", 9001, 9077)),
        );
        let body = named(OUTSIDE, 9001, 9077);
        assert!(
            text.ends_with(&body) && text.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{text}"
        );
        let seen = one(&mut rack, at, WAN, &voice(("203.0.113.11", 9), 9077));
        assert_eq!(seen.destination, (ip("10.0.0.4"), 9077));
    });
}

#[test]
fn what_is_not_the_hosts_own_stays() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped(""));
        for text in [
            message(
                "OPTIONS sip:10.0.0.3 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.3:5060\r\nContact: <sip:a@10.0.0.3>",
                &offer("10.0.0.3", "8000"),
            ),
            message(
                "SIP/2.0 200 OK\r\nContact: <sip:a@phone.example>, <sip:a@10.0.0.2;transport=tcp>",
                &offer("0.0.0.0", "8000"),
            ),
            message(
                "SIP/2.0 200 OK",
                "v=0\r\nc=IN IP4 10.0.0.22\r\nm=audio 8000 RTP/AVP 0\r\n",
            ),
            "\r\n\r\n".to_owned(),
            "no SIP: 10.0.0.2:5060".to_owned(),
        ] {
            assert_eq!(out(&mut rack, at, PHONE, &text).0, text);
        }
        assert_eq!(rack.sessions(), 1, "nothing is expected");
        // Off, nothing is touched at all.
        let mut rack = lab(workers, &pool(""));
        let text = invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000"));
        assert_eq!(out(&mut rack, at, PHONE, &text).0, text);
    });
}

#[test]
fn what_cannot_be_changed_is_dropped() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped(""));
        let text = invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000"));
        // A wrong checksum must not be made right, and opens nothing.
        let mut frame = udp(LAN, PHONE, PROXY, text.as_bytes());
        let last = frame.len() - 1;
        frame[last] ^= 1;
        dropped(&mut rack, at, LAN, &frame, DropReason::L4Checksum);
        assert_eq!(rack.sessions(), 1);
        // None at all stays none.
        let mut frame = udp(LAN, PHONE, PROXY, text.as_bytes());
        frame[14 + 20 + 6..14 + 20 + 8].fill(0);
        let sent = send(&mut rack, at, LAN, &frame);
        assert_eq!(sent[0].1[14 + 20 + 6..14 + 20 + 8], [0, 0]);
        assert_eq!(
            said(&seen(&sent[0])),
            invite(OUTSIDE, "5060", &offer(OUTSIDE, "8000"))
        );
        let media = "m=audio 0 RTP/AVP 0\r\n".repeat(9);
        let many = message("SIP/2.0 200 OK", &format!("v=0\r\n{media}"));
        dropped(
            &mut rack,
            at,
            LAN,
            &udp(LAN, PHONE, PROXY, many.as_bytes()),
            DropReason::HelperUnfit,
        );
        let long = invite("10.0.0.2", "5060", &"a=x\r\n".repeat(900));
        dropped(
            &mut rack,
            at,
            LAN,
            &udp(LAN, PHONE, PROXY, long.as_bytes()),
            DropReason::HelperUnfit,
        );
        // Two fragments.
        let whole = udp(LAN, PHONE, PROXY, &text.as_bytes()[..160]);
        for (flags, part) in [(0x2000u16, &whole[34..114]), (80 / 8, &whole[114..])] {
            let mut frame = whole[..34].to_vec();
            frame[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            frame[20..22].copy_from_slice(&flags.to_be_bytes());
            frame[24..26].fill(0);
            let sum = natgate::wire::checksum::ipv4_header(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            frame.extend(part);
            dropped(&mut rack, at, LAN, &frame, DropReason::HelperUnfit);
        }
    });
}

#[test]
fn media_that_are_refused_leave_the_body_alone() {
    everywhere(|workers, at| {
        let mut rack = rack(&lab_text(workers, &helped(""), "sessions_per_host = 2"));
        let text = invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000"));
        let (sent, _) = out(&mut rack, at, PHONE, &text);
        assert_eq!(sent, invite(OUTSIDE, "5060", &offer("10.0.0.2", "8000")));
        assert_eq!(rack.sessions(), 1, "half a pair is none");
    });
}

#[test]
fn two_phones_inside_call_each_other_through_their_proxy() {
    everywhere(|workers, at| {
        let mut rack = lab(workers, &helped(""));
        let (text, _) = out(
            &mut rack,
            at,
            PHONE,
            &invite("10.0.0.2", "5060", &offer("10.0.0.2", "8000")),
        );
        let body = offer(OUTSIDE, "8000");
        assert!(text.ends_with(&body));
        let (_, port) = out(&mut rack, at, ("10.0.0.3", 5060), "\r\n\r\n");
        // The proxy passes the offer on as it came: the caller's public endpoint is none of the called phone's.
        let passed = message(&format!("INVITE sip:b@{OUTSIDE}:{port} SIP/2.0"), &body);
        let read = back(&mut rack, at, port, &passed);
        assert_eq!(read, message("INVITE sip:b@10.0.0.3:5060 SIP/2.0", &body));
        let voice = udp(LAN, ("10.0.0.3", 8000), (OUTSIDE, 8000), b"voice");
        let heard = one(&mut rack, at, LAN, &voice);
        assert_eq!(
            (heard.port, heard.destination),
            (LAN, (ip("10.0.0.2"), 8000))
        );
    });
}

#[test]
fn a_call_over_ipv6_gets_its_voice() {
    let rules = "[[pool]]\nname = \"p\"\naddresses = [\"2001:db8::20\"]\nhelpers = [\"sip\"]\nselect = \"random\"\n\
        [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n";
    let (phone, proxy, public) = (("fd00:1::2", 5060), ("2001:db8::9", 5060), "2001:db8::20");
    let call = |host: &str, port: &str, rtp: &str| {
        let body = offer(host, rtp).replace("IP4", "IP6");
        let head = format!(
            "INVITE sip:bob@[2001:db8::9] SIP/2.0\r\nVia: SIP/2.0/UDP [{host}]{port}\r\nContact: <sip:alice@[{host}]{port}>"
        );
        message(&head, &body)
    };
    everywhere(|workers, receiver| {
        let mut rack = lab(workers, rules);
        let frame = udp6(LAN, phone, proxy, call("fd00:1::2", "", "8000").as_bytes());
        let out = one6(&mut rack, receiver, LAN, &frame);
        let read = String::from_utf8(out.frame[14 + 40 + 8..].to_vec()).unwrap();
        let length =
            |at: usize| usize::from(u16::from_be_bytes([out.frame[at], out.frame[at + 1]]));
        assert_eq!((length(18), length(58)), (read.len() + 8, read.len() + 8));
        let (rtp, port) = (media_port(&read), out.source.1);
        assert_eq!(read, call(public, &format!(":{port}"), &rtp.to_string()));
        for more in [0, 1] {
            let voice = udp6(WAN, ("2001:db8::77", 9000), (public, rtp + more), b"voice");
            let heard = one6(&mut rack, receiver, WAN, &voice);
            assert_eq!(heard.destination, at("fd00:1::2", 8000 + more));
        }
        let bye = |to: &str| message(&format!("BYE sip:alice@{to} SIP/2.0"), "");
        let text = bye(&format!("[{public}]:{port}"));
        let frame = udp6(WAN, proxy, (public, port), text.as_bytes());
        let ended = one6(&mut rack, receiver, WAN, &frame);
        assert_eq!(&ended.frame[62..], bye("[fd00:1::2]:5060").as_bytes());
    });
}
