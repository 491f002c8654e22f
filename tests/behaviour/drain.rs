//! Addresses go out of use, and change how they give out ports, without anybody losing a session that may live.

use natgate::base::DropReason;
use natgate::dataplane::rack::Rack;

use crate::common::*;
use crate::*;

/// A pool of two addresses with more keys.
fn two(workers: u8, keys: &str) -> String {
    let rules = format!(
        "[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.20-203.0.113.21\"]\n{keys}\n\
         [[source-nat]]\nout = \"wan0\"\nvia = \"pool:p\"\n"
    );
    lab_text(workers, &rules, "")
}

const HOSTS: [&str; 8] = [
    "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "10.0.0.9",
];

/// Nothing comes back through this public endpoint.
fn is_closed(rack: &mut Rack, at: u8, public: (std::net::Ipv4Addr, u16)) {
    let address: &'static str = Box::leak(public.0.to_string().into_boxed_str());
    let late = udp(WAN, SERVER, (address, public.1), b"late");
    dropped(rack, at, WAN, &late, DropReason::NoMapping);
}

#[test]
fn a_draining_address_gets_nothing_new_and_keeps_what_it_has() {
    everywhere(|workers, at| {
        let mut rack = rack(&two(workers, ""));
        let before = HOSTS.map(|host| one(&mut rack, at, LAN, &call((host, 5000))).source);
        assert!(before.iter().any(|public| public.0 == ip("203.0.113.20")));
        reload(&mut rack, &two(workers, "drain = [\"203.0.113.20\"]"));
        rack.maintain();
        for (host, public) in HOSTS.into_iter().zip(before) {
            works(&mut rack, at, (host, 5000), public);
            let new = one(&mut rack, at, LAN, &call((host, 5001))).source;
            assert_eq!(new.0, ip("203.0.113.21"), "{host}");
            works(&mut rack, at, (host, 5001), new);
        }
        let both = "drain = [\"203.0.113.20\", \"203.0.113.21\"]";
        reload(&mut rack, &two(workers, both));
        let refused = call((HOSTS[0], 5002));
        dropped(&mut rack, at, LAN, &refused, DropReason::PoolDraining);
        works(&mut rack, at, (HOSTS[0], 5000), before[0]);
        reload(&mut rack, &two(workers, ""));
        one(&mut rack, at, LAN, &refused);
        assert_eq!(rack.sessions(), 17);
    });
}

#[test]
fn an_address_under_quarantine_has_no_sessions() {
    everywhere(|workers, at| {
        let mut rack = rack(&two(workers, "filtering = \"endpoint\""));
        let before = HOSTS.map(|host| one(&mut rack, at, LAN, &call((host, 5000))).source);
        // One session of an outside host for each.
        for public in before {
            let address: &'static str = Box::leak(public.0.to_string().into_boxed_str());
            let knock = udp(WAN, ("203.0.113.10", 7), (address, public.1), b"knock");
            assert_eq!(one(&mut rack, at, WAN, &knock).port, LAN);
        }
        let keys = "filtering = \"endpoint\"\nquarantine = [\"203.0.113.20\"]";
        reload(&mut rack, &two(workers, keys));
        let (gone, kept): (Vec<_>, Vec<_>) = HOSTS
            .into_iter()
            .zip(before)
            .partition(|(_, public)| public.0 == ip("203.0.113.20"));
        assert!(!gone.is_empty() && !kept.is_empty());
        for (_, public) in &gone {
            is_closed(&mut rack, at, *public);
        }
        rack.maintain();
        assert_eq!(rack.sessions(), 2 * kept.len());
        for (host, public) in kept {
            works(&mut rack, at, (host, 5000), public);
        }
        for (host, _) in gone {
            let new = one(&mut rack, at, LAN, &call((host, 5000))).source;
            assert_eq!(new.0, ip("203.0.113.21"));
        }
    });
}

#[test]
fn a_pool_grows_and_shrinks_under_its_sessions() {
    everywhere(|workers, at| {
        let one_address = lab_text(workers, &pool(""), "");
        let mut rack = rack(&two(workers, ""));
        let before = HOSTS.map(|host| one(&mut rack, at, LAN, &call((host, 5000))).source);
        reload(&mut rack, &one_address);
        for (host, public) in HOSTS.into_iter().zip(before) {
            works(&mut rack, at, (host, 5000), public);
            let new = one(&mut rack, at, LAN, &call((host, 5001))).source;
            assert_eq!(new.0, ip("203.0.113.20"));
        }
        reload(&mut rack, &two(workers, ""));
        for (host, public) in HOSTS.into_iter().zip(before) {
            works(&mut rack, at, (host, 5000), public);
        }
        assert_eq!(rack.sessions(), 16);
    });
}

#[test]
fn blocks_change_their_size_once_the_address_is_drained() {
    everywhere(|workers, at| {
        let text = |keys: &str| lab_text(workers, &pool(keys), "");
        let (small, large) = ("block = { size = 64 }", "block = { size = 128 }");
        let drain = format!("{small}\ndrain = [\"203.0.113.20\"]");
        let mut rack = rack(&text(small));
        let refused = |rack: &Rack, keys: &str| {
            let compiled =
                natgate::config::compile::recompile_text("test", &text(keys), &rack.policy);
            let report = compiled.err().expect("the address is in use").to_string();
            assert!(report.contains("list it under drain"), "{report}");
        };
        // Nobody uses it yet, but somebody may at any moment.
        refused(&rack, large);
        let public = one(&mut rack, at, LAN, &call(("10.0.0.2", 5000))).source;
        reload(&mut rack, &text(&drain));
        refused(&rack, large);
        works(&mut rack, at, ("10.0.0.2", 5000), public);
        let new = call(("10.0.0.3", 5000));
        dropped(&mut rack, at, LAN, &new, DropReason::PoolDraining);
        for _ in 0..2 {
            rack.advance(301_000);
            rack.maintain();
        }
        assert_eq!(rack.sessions(), 0);
        reload(&mut rack, &text(large));
        let ports: Vec<u16> = (0..128)
            .map(|port| {
                one(&mut rack, at, LAN, &call(("10.0.0.2", 6000 + port)))
                    .source
                    .1
            })
            .collect();
        let first = ports.iter().min().copied().unwrap();
        assert_eq!((first - 1024) % 128, 0, "a block of the new size");
        assert!(ports.iter().all(|port| (first..first + 128).contains(port)));
        let more = call(("10.0.0.2", 7000));
        dropped(&mut rack, at, LAN, &more, DropReason::QuotaBlocks);
    });
}
