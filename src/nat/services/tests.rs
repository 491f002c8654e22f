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

#[test]
fn sessions_end_with_their_backend_as_the_service_says() {
    for (drain, udp, tcp, any) in [
        (Drain::ByProtocol, true, false, false),
        (Drain::Keep, false, false, false),
        (Drain::End, true, true, true),
    ] {
        let ends = [Some(UDP), Some(TCP), None].map(|protocol| drain.ends(protocol));
        assert_eq!(ends, [udp, tcp, any], "{drain:?}");
    }
}

#[test]
fn flows_go_by_weight_and_never_to_who_takes_none() {
    let mut backends = vec![backend(1, 1), backend(2, 2), backend(3, 3), backend(4, 4)];
    (backends[1].weight, backends[2].weight) = (0, 3);
    backends[3].healthy = false;
    for balance in [Balance::Hash, Balance::Maglev(1009)] {
        let mut services = Services::default();
        let mut one = service("s", backends.clone());
        one.balance = balance;
        services.add(one, (VIP, VIRTUAL), &[key(Some(TCP), Some(80))]);
        let service = services.get(ServiceIndex(0)).unwrap();
        let mut met = [0; 5];
        for source_port in 0..4000 {
            let flow = Tuple {
                source_port,
                ..to(80)
            };
            met[service.pick(&flow, TCP).unwrap().address as usize] += 1;
        }
        assert_eq!((met[0], met[2], met[4]), (0, 0, 0), "{balance:?}");
        assert!((850..1150).contains(&met[1]), "{balance:?}: {met:?}");
        let taking = (1..5).map(|id| service.taking(RuleId(id)).is_some());
        assert_eq!(taking.collect::<Vec<_>>(), [true, false, true, false]);
    }
    let mut nobody = Services::default();
    nobody.add(
        service("s", vec![]),
        (VIP, VIRTUAL),
        &[key(Some(TCP), Some(80))],
    );
    let empty = nobody.get(ServiceIndex(0)).unwrap();
    assert!(empty.pick(&to(80), TCP).is_none());
    assert!(nobody.get(ServiceIndex(1)).is_none());
}

#[test]
fn what_services_at_one_address_say_adds_up() {
    let address = |unmatched, ping| ServiceAddress { unmatched, ping };
    let (drop, reject) = (Some(Refusal::Drop), Some(Refusal::Reject));
    for (said, refusal, pings, is_virtual) in [
        (
            [address(drop, false), address(drop, false)],
            Refusal::Drop,
            false,
            true,
        ),
        (
            [address(drop, true), address(reject, false)],
            Refusal::Reject,
            true,
            true,
        ),
        (
            [address(reject, false), address(drop, true)],
            Refusal::Reject,
            true,
            true,
        ),
        (
            [address(None, false), address(None, false)],
            Refusal::Drop,
            false,
            false,
        ),
        (
            [address(drop, false), address(None, false)],
            Refusal::Drop,
            false,
            true,
        ),
    ] {
        let mut services = Services::default();
        assert!(services.is_empty());
        for (port, said) in (80..).zip(said) {
            let mut one = service("s", vec![]);
            one.empty = Refusal::Reject;
            services.add(one, (VIP, said), &[key(Some(TCP), Some(port))]);
        }
        assert_eq!(services.iter().count(), 2);
        assert!(!services.is_empty());
        assert_eq!(services.refusal(&to(99), TCP), refusal, "{said:?}");
        assert_eq!(
            services.refusal(&to(80), TCP),
            Refusal::Reject,
            "no backend"
        );
        assert_eq!(
            (services.pings(VIP), services.is_virtual(VIP)),
            (pings, is_virtual)
        );
        assert_eq!((services.pings(7), services.is_virtual(7)), (false, false));
        let elsewhere = Tuple {
            destination: 7,
            ..to(80)
        };
        assert_eq!(services.refusal(&elsewhere, TCP), Refusal::Drop);
    }
}

#[test]
fn answers_come_from_backends_and_from_services_that_are_answered_for() {
    let direct = Backend {
        direct: true,
        ..backend(2, 2)
    };
    let keeps_port = Backend {
        port: None,
        ..backend(3, 3)
    };
    let mut services = Services::default();
    let all = vec![backend(1, 1), direct, keeps_port];
    services.add(
        service("s", all),
        (VIP, VIRTUAL),
        &[key(Some(TCP), Some(80))],
    );
    let from = |source, source_port| Tuple {
        source,
        source_port,
        ..to(7)
    };
    for (tuple, answers) in [
        (from(1, 8080), true),
        (from(1, 80), false),
        (from(2, 8080), false),
        (from(VIP, 80), true),
        (from(3, 80), true),
        (from(4, 80), false),
    ] {
        assert_eq!(services.answers(&tuple, TCP), answers, "{tuple:?}");
        assert_eq!(services.leads_to_backend(&tuple.reversed(), TCP), answers);
        assert!(!services.answers(&tuple, UDP));
    }
    assert!(!services.were_called(&to(80), TCP), "it still is");
    let mut none = Services::after(Some(&services));
    none.succeed(&services);
    assert!(none.were_called(&to(80), TCP) && !none.were_called(&to(81), TCP));
    assert!(none.answers(&from(1, 8080), TCP));
    assert_eq!(none.addresses().collect::<Vec<_>>(), [VIP]);
    assert_eq!(services.addresses().collect::<Vec<_>>(), [VIP]);
    let empty = Services::<u32>::default();
    assert!(!empty.answers(&from(1, 8080), TCP) && !empty.were_called(&to(80), TCP));
}

#[test]
fn sessions_are_kept_alike_while_no_backend_goes() {
    let with = |backends: Vec<Backend<u32>>, before: Option<&Services<u32>>| {
        let mut services = Services::after(before);
        let one = service("s", backends);
        services.add(one, (VIP, VIRTUAL), &[key(Some(UDP), Some(80))]);
        if let Some(before) = before {
            services.succeed(before);
        }
        services
    };
    let direct = Backend {
        direct: true,
        ..backend(2, 2)
    };
    let first = with(vec![backend(1, 1), direct.clone()], None);
    let more = with(
        vec![backend(1, 1), direct.clone(), backend(3, 3)],
        Some(&first),
    );
    assert!(first.keep_sessions_as(&more));
    let gone = with(vec![direct.clone()], Some(&first));
    assert!(!first.keep_sessions_as(&gone), "sessions end");
    let direct_gone = with(vec![backend(1, 1)], Some(&first));
    assert!(!first.keep_sessions_as(&direct_gone), "sessions end");
    let another = Backend {
        direct: true,
        ..backend(5, 5)
    };
    let another = with(vec![backend(1, 1), direct, another], Some(&first));
    assert!(!first.keep_sessions_as(&another), "another way");
}

#[test]
fn tables_outlive_a_reload_and_are_built_anew_when_nobody_is_well() {
    let with = |before: Option<&Services<u32>>| {
        let mut services = Services::after(before);
        let mut one = service("s", vec![backend(1, 1), backend(2, 2)]);
        one.balance = Balance::Maglev(1009);
        services.add(one, (VIP, VIRTUAL), &[key(Some(TCP), Some(80))]);
        services
    };
    let first = with(None);
    let second = with(Some(&first));
    let table = |services: &Services<u32>| services.tables.now.values().next().cloned().unwrap();
    assert!(Arc::ptr_eq(&table(&first), &table(&second)));
    assert!(!Arc::ptr_eq(&table(&first), &table(&with(None))));
    for balance in [Balance::Hash, Balance::Maglev(1009)] {
        let mut services = Services::default();
        let mut one = service("s", vec![backend(1, 1)]);
        one.balance = balance;
        services.add(one, (VIP, VIRTUAL), &[key(Some(TCP), Some(80))]);
        assert!(
            services
                .get(ServiceIndex(0))
                .unwrap()
                .pick(&to(80), TCP)
                .is_some()
        );
        services.judge(|_, _, _| false);
        assert!(
            services
                .get(ServiceIndex(0))
                .unwrap()
                .pick(&to(80), TCP)
                .is_none()
        );
    }
}
