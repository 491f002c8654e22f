//! Tests of the tables.

use super::*;
use crate::cli::render::table;
use crate::control::api::{
    Block, HistoryEntry, Interface, Mapping, Neighbor, Port, Route, Subscriber, Translation,
};

fn end(text: &str) -> Endpoint {
    let socket: std::net::SocketAddr = text.parse().unwrap();
    Endpoint {
        address: socket.ip(),
        port: Some(socket.port()),
    }
}

pub(crate) fn sample_session() -> Session {
    let forward = Translation {
        source: end("10.0.0.2:4000"),
        destination: end("203.0.113.9:53"),
        translated_source: end("192.0.2.1:61000"),
        translated_destination: end("203.0.113.9:53"),
    };
    Session {
        protocol: "udp".into(),
        state: "replied".into(),
        forward,
        reverse: forward.reversed(),
        idle_seconds: 3.25,
        remaining_seconds: 296.75,
        interface: "lan".into(),
        out_interface: Some("wan".into()),
        pool: Some("public".into()),
        rule: Some("office".into()),
        filter: Some("filter.rule 2".into()),
        realm: "main".into(),
        far_realm: "main".into(),
        worker: 1,
    }
}

fn samples() -> Vec<(Listing, Item)> {
    let mapping = Mapping {
        protocol: "tcp".into(),
        inside: end("10.0.0.2:1"),
        outside: end("192.0.2.1:2"),
        pool: None,
        realm: "main".into(),
        sessions: 1,
        worker: 0,
    };
    vec![
        (Listing::Ports, Item::Port(Port::default())),
        (Listing::Queues, Item::Queue(Queue::default())),
        (Listing::Log, Item::LogSink(LogSink::default())),
        (Listing::Interfaces, Item::Interface(Interface::default())),
        (Listing::Routes, Item::Route(Route::default())),
        (Listing::Neighbors, Item::Neighbor(Neighbor::default())),
        (Listing::Workers, Item::Worker(Worker::default())),
        (Listing::Pools, Item::Pool(Pool::default())),
        (Listing::Blocks, Item::Block(Block::default())),
        (
            Listing::Subscribers,
            Item::Subscriber(Subscriber::default()),
        ),
        (Listing::Mappings, Item::Mapping(mapping)),
        (Listing::Sessions, Item::Session(sample_session())),
        (Listing::SourceNat, Item::Rule(Rule::default())),
        (Listing::Exempt, Item::Exempt(Exempt::default())),
        (Listing::StaticNat, Item::Rule(Rule::default())),
        (Listing::PortForwards, Item::Rule(Rule::default())),
        (Listing::Services, Item::Service(ServiceBackend::default())),
        (Listing::Filter, Item::FilterRule(FilterRule::default())),
        (Listing::History, Item::History(HistoryEntry::default())),
    ]
}

#[test]
fn every_listing_has_as_many_cells_as_headings() {
    let samples = samples();
    assert_eq!(samples.len(), Listing::ALL.len());
    for (listing, item) in samples {
        for verbose in [false, true] {
            let (cells, headings) = (cells(&item, verbose), headings(listing, verbose));
            assert_eq!(
                cells.len(),
                headings.len(),
                "{} verbose {verbose}",
                listing.name()
            );
        }
    }
}

#[test]
fn a_session_is_one_line_with_both_tuples() {
    let text = table(
        &headings(Listing::Sessions, false),
        [cells(&Item::Session(sample_session()), false)],
    );
    let expected = "\
PROTO  STATE    SOURCE         DESTINATION     TRANSLATED-SOURCE  TRANSLATED-DESTINATION  IDLE  LEFT   IN   RULE
udp    replied  10.0.0.2:4000  203.0.113.9:53  192.0.2.1:61000    203.0.113.9:53          3s    4m57s  lan  office
";
    assert_eq!(text, expected);
}

#[test]
fn rules_that_differ_only_in_out_can_be_told_apart() {
    let rule = |index: u32, egress: &str| {
        let rule = Rule {
            index,
            name: format!("#{index}"),
            ingress: "lan".into(),
            egress: egress.into(),
            src: "10.0.0.0/8".into(),
            dst: "any".into(),
            proto: "any".into(),
            via: "interface".into(),
            hits: 1,
            packets: 10,
            bytes: 420,
            ..Rule::default()
        };
        cells(&Item::Rule(rule), false)
    };
    let text = table(
        &headings(Listing::SourceNat, false),
        [rule(1, "wan0"), rule(2, "wan1")],
    );
    let expected = "\
INDEX  NAME  IN   OUT   SRC         DST  PROTO  VIA        PORTS  HITS  PACKETS  BYTES
    1  #1    lan  wan0  10.0.0.0/8  any  any    interface  -         1       10    420
    2  #2    lan  wan1  10.0.0.0/8  any  any    interface  -         1       10    420
";
    assert_eq!(text, expected);
}

#[test]
fn the_fullest_protocol_decides_how_full_a_pool_is() {
    let ports = |protocol: &str, in_use| PoolPorts {
        protocol: protocol.into(),
        total: 1000,
        in_use,
        hold: 1,
        high_water: 1,
        created: 300,
        refused: [("no_port".to_owned(), 2)].into(),
    };
    let pool = Pool {
        ports: vec![
            ports("tcp", 10),
            ports("udp", 250),
            ports("icmp", 0),
            ports("sctp", 40),
        ],
        ..Pool::default()
    };
    let cells = cells(&Item::Pool(pool), true);
    let expected = [
        "40", "1000", "25.0", "8", "4", "4", "1200", "-", "-", "no", "0",
    ];
    assert_eq!(cells[12..], expected);
}
