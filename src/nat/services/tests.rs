//! What services are told apart by, and what a reload leaves of them.

use super::*;
use crate::wire::TCP;

const VIP: u32 = 0xc612_0002;

fn backend(id: u16, address: u32) -> Backend<u32> {
    Backend {
        id: RuleId(id),
        address,
        port: Some(8080),
        source: ServiceSource::Auto,
        weight: 1,
        direct: false,
        healthy: true,
    }
}

fn key(protocol: Option<u8>, port: Option<u16>) -> ServiceKey<u32> {
    ServiceKey {
        address: VIP,
        protocol,
        port,
    }
}

const VIRTUAL: ServiceAddress = ServiceAddress {
    unmatched: Some(Refusal::Drop),
    ping: false,
};

fn service(name: &str, backends: Vec<Backend<u32>>) -> Service<u32> {
    Service::new(name.to_owned(), 1, backends)
}

fn to(port: u16) -> Tuple<u32> {
    Tuple {
        source: 9,
        destination: VIP,
        source_port: 5555,
        destination_port: port,
    }
}

#[test]
fn the_most_particular_service_is_found_first() {
    let mut services = Services::default();
    for (number, key) in [
        key(None, None),
        key(Some(TCP), None),
        key(Some(TCP), Some(80)),
    ]
    .into_iter()
    .enumerate()
    {
        let one = service(&number.to_string(), vec![backend(number as u16, 1)]);
        services.add(one, (VIP, VIRTUAL), &[key]);
    }
    let found = |protocol, port| match services.find(&to(port), protocol) {
        Some(ServiceMatch::Service(index)) => services.get(index).map(|s| s.name.clone()),
        _ => None,
    };
    assert_eq!(found(TCP, 80).as_deref(), Some("2"));
    assert_eq!(found(TCP, 81).as_deref(), Some("1"));
    assert_eq!(found(UDP, 80).as_deref(), Some("0"));
    assert_eq!(services.find(&to(0), ICMP), Some(ServiceMatch::Unmatched));
    let elsewhere = Tuple {
        destination: 7,
        ..to(80)
    };
    assert_eq!(services.find(&elsewhere, TCP), None);
}

#[test]
fn unwell_backends_get_no_flows_and_tables_are_shared() {
    let mut services = Services::default();
    for name in ["a", "b"] {
        let mut one = service(name, vec![backend(1, 1), backend(2, 2)]);
        one.balance = Balance::Maglev(1009);
        services.add(one, (VIP, VIRTUAL), &[key(Some(TCP), Some(80))]);
    }
    assert_eq!(services.tables.now.len(), 1, "equal tables are built once");
    services.judge(|name, address, _| name == "b" || address == 1);
    let met = |at: u32| -> HashSet<u32> {
        let service = services.get(ServiceIndex(at)).unwrap();
        let flows = (0..200).map(|port| Tuple {
            source_port: port,
            ..to(80)
        });
        flows
            .map(|flow| service.pick(&flow, TCP).unwrap().address)
            .collect()
    };
    assert_eq!(met(0), HashSet::from([1]));
    assert_eq!(met(1), HashSet::from([1, 2]));
}

#[test]
fn sessions_end_with_backends_that_took_them_along_until_those_are_back() {
    let session = Session {
        before: to(80),
        after: Tuple {
            destination: 1,
            destination_port: 8080,
            ..to(80)
        },
        link: MappingLink::default(),
        protocol: UDP,
        ..Session::default()
    };
    let with = |backends: Vec<Backend<u32>>, before: Option<&Services<u32>>| {
        let mut services = Services::after(before);
        services.add(
            service("s", backends),
            (VIP, VIRTUAL),
            &[key(Some(UDP), Some(80))],
        );
        before
            .into_iter()
            .for_each(|before| services.succeed(before));
        services
    };
    let first = with(vec![backend(1, 1), backend(2, 2)], None);
    assert!(!first.has_ended(&session));
    let without = with(vec![backend(2, 2)], Some(&first));
    assert!(without.has_ended(&session));
    let later = with(vec![backend(2, 2)], Some(&without));
    assert!(
        later.has_ended(&session),
        "not all sessions may have been looked at"
    );
    let back = with(vec![backend(1, 1)], Some(&later));
    assert!(!back.has_ended(&session));
    let mut none = Services::after(Some(&first));
    none.succeed(&first);
    assert!(none.has_ended(&session) && none.were_called(&session.before, UDP));
    let tcp = Session {
        protocol: TCP,
        ..session
    };
    assert!(!none.has_ended(&tcp));
}

#[test]
fn packets_to_a_direct_backend_know_their_way_after_it_is_gone() {
    let direct = Backend {
        direct: true,
        ..backend(7, 1)
    };
    let mut first = Services::default();
    first.add(
        service("s", vec![direct]),
        (VIP, VIRTUAL),
        &[key(Some(UDP), Some(80))],
    );
    let mut session = Session {
        link: MappingLink::default(),
        protocol: UDP,
        ..Session::<u32>::default()
    };
    assert_eq!(first.towards(&session), None);
    note_direct(&mut session, RuleId(7));
    assert_eq!(first.towards(&session), Some(1));
    let mut none = Services::after(Some(&first));
    none.succeed(&first);
    assert_eq!(none.towards(&session), Some(1));
    assert!(none.has_ended(&session), "and datagrams end with it");
}
