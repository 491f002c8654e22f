//! Tests of the neighbour table: the life of an entry, the table under pressure, reloads.

use super::*;
use crate::base::{PortId, VlanId};
use crate::gateway::interface::tests::sample;
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 9, 9]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 8, 8]);

fn lan() -> Interface {
    sample(1, &["10.0.0.1/16", "2001:db8::1/64"])
}

fn host(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::V4([10, 0, high, low].into())
}

fn at(millis: u64) -> Now {
    Now::at(millis)
}

fn sweep(table: &mut Neighbours, millis: u64) -> Vec<Event> {
    let mut events = Vec::new();
    table.sweep(at(millis), usize::MAX, &mut |event| events.push(event));
    events
}

fn solicit(id: NeighbourId, unicast_to: Option<MacAddr>) -> Event {
    Event::Solicit {
        id,
        interface: InterfaceId(1),
        address: host(9),
        unicast_to,
    }
}

fn state(table: &Neighbours, id: NeighbourId) -> Option<State> {
    table.get(id).map(Neighbour::state)
}

/// A table with a reachable host 9, confirmed at `millis`.
fn reachable(millis: u64) -> (Neighbours, NeighbourId) {
    let mut table = Neighbours::new(8, 7);
    let (id, _) = table.resolve(&lan(), host(9), at(millis)).unwrap();
    assert_eq!(
        table.learn(&lan(), host(9), MAC, Learned::Solicited, at(millis)),
        Some(id)
    );
    (table, id)
}

/// The header of a frame to a neighbour, without the EtherType.
fn header(entry: &Neighbour) -> Vec<u8> {
    let mut frame = vec![0; entry.frame_header_length()];
    assert!(entry.write_frame_header(&mut frame, 0x0800));
    assert_eq!(frame.split_off(frame.len() - 2), [8, 0]);
    frame
}

#[test]
fn a_guess_is_believed_only_where_it_is_right() {
    let (mut table, nine) = reachable(1000);
    let (eight, _) = table.resolve(&lan(), host(8), at(1000)).unwrap();
    let near = |guess, interface, n| table.find_near(guess, InterfaceId(interface), host(n));
    for guess in [nine, eight, NeighbourId::NONE] {
        assert_eq!(near(guess, 1, 9), Some(nine), "{guess:?}");
        assert_eq!(near(guess, 1, 8), Some(eight), "{guess:?}");
        assert_eq!(near(guess, 1, 7), None, "{guess:?}");
        assert_eq!(near(guess, 2, 9), None, "{guess:?}");
    }
}

#[test]
fn a_host_is_asked_for_once_and_then_sent_to() {
    let mut table = Neighbours::new(8, 7);
    let (id, first) = table.resolve(&lan(), host(9), at(1000)).unwrap();
    assert_eq!(first, Resolution::Pending { solicit: true });
    let again = table.resolve(&lan(), host(9), at(1001)).unwrap();
    assert_eq!(again, (id, Resolution::Pending { solicit: false }));
    assert!(!table.get(id).unwrap().is_ready());
    assert_eq!(sweep(&mut table, 1500), []);
    assert_eq!(
        table.learn(&lan(), host(9), MAC, Learned::Solicited, at(1600)),
        Some(id)
    );
    assert_eq!(
        table.resolve(&lan(), host(9), at(1700)),
        Ok((id, Resolution::Ready))
    );
    let entry = table.get(id).unwrap();
    assert_eq!(header(entry), [2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 0, 1]);
    assert_eq!(
        (entry.port, entry.interface, entry.mtu),
        (PortId(1), InterfaceId(1), 1500)
    );
    assert_eq!((entry.mac(), entry.address()), (Some(MAC), host(9)));
    assert_eq!(sweep(&mut table, 5000), [], "an answer ends the asking");
}

#[test]
fn a_vlan_interface_tags_its_frames() {
    let tagged = Interface {
        vlan: Some(VlanId(0x123)),
        ..lan()
    };
    let mut table = Neighbours::new(8, 7);
    let id = table.set_static(&tagged, host(9), MAC, at(0)).unwrap();
    let expected = [2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0x01, 0x23];
    assert_eq!(header(table.get(id).unwrap()), expected);
}

#[test]
fn three_tries_then_failed_then_a_pause() {
    let mut table = Neighbours::new(8, 7);
    let (id, _) = table.resolve(&lan(), host(9), at(0)).unwrap();
    assert_eq!(sweep(&mut table, 999), []);
    assert_eq!(sweep(&mut table, 1000), [solicit(id, None)]);
    assert_eq!(sweep(&mut table, 2000), [solicit(id, None)]);
    assert_eq!(sweep(&mut table, 2999), []);
    assert_eq!(sweep(&mut table, 3000), [Event::Failed { id }]);
    assert_eq!(sweep(&mut table, 4000), []);
    assert_eq!(
        table.resolve(&lan(), host(9), at(5999)),
        Ok((id, Resolution::Failed))
    );
    let retry = table.resolve(&lan(), host(9), at(6000));
    assert_eq!(retry, Ok((id, Resolution::Pending { solicit: true })));
    assert_eq!(
        sweep(&mut table, 7000),
        [solicit(id, None)],
        "three tries again"
    );
}

#[test]
fn a_used_neighbour_is_probed_and_answers() {
    let (mut table, id) = reachable(0);
    assert_eq!(sweep(&mut table, 29_999), []);
    assert_eq!(sweep(&mut table, 30_000), []);
    assert_eq!(state(&table, id), Some(State::Stale));
    assert!(table.touch(id, at(31_000)).unwrap().is_ready());
    assert_eq!(sweep(&mut table, 31_000), [solicit(id, Some(MAC))]);
    assert_eq!(state(&table, id), Some(State::Probe));
    assert!(table.get(id).unwrap().is_ready(), "traffic goes on");
    table.learn(&lan(), host(9), MAC, Learned::Solicited, at(31_001));
    assert_eq!(state(&table, id), Some(State::Reachable));
    assert_eq!(sweep(&mut table, 40_000), []);
}

#[test]
fn a_probed_neighbour_that_is_gone_fails_and_is_asked_for_at_once() {
    let (mut table, id) = reachable(0);
    table.touch(id, at(30_500));
    let mut seen = Vec::new();
    for millis in (30_500..=33_500).step_by(500) {
        seen.extend(sweep(&mut table, millis));
    }
    let probe = solicit(id, Some(MAC));
    assert_eq!(seen, [probe, probe, probe, Event::Failed { id }]);
    let retry = table.resolve(&lan(), host(9), at(33_500));
    assert_eq!(retry, Ok((id, Resolution::Pending { solicit: true })));
}

#[test]
fn an_unused_neighbour_is_not_probed_and_vanishes() {
    let (mut table, id) = reachable(0);
    assert_eq!(sweep(&mut table, 299_999), []);
    assert_eq!(state(&table, id), Some(State::Stale));
    assert_eq!(sweep(&mut table, 300_000), []);
    assert_eq!(state(&table, id), None);
    assert!(table.is_empty() && table.find(InterfaceId(1), host(9)).is_none());
}

#[test]
fn a_hint_confirms_what_has_an_address() {
    let (mut table, id) = reachable(0);
    sweep(&mut table, 30_000);
    table.confirm(id, at(31_000));
    assert_eq!(state(&table, id), Some(State::Reachable));
    let (asked, _) = table.resolve(&lan(), host(8), at(0)).unwrap();
    table.confirm(asked, at(1));
    assert_eq!(state(&table, asked), Some(State::Incomplete));
}

#[test]
fn who_may_teach_what() {
    use Learned::{Request, Solicited, Unsolicited};
    let mut table = Neighbours::new(8, 7);
    for how in [Solicited, Unsolicited] {
        assert_eq!(
            table.learn(&lan(), host(9), MAC, how, at(0)),
            None,
            "nobody asked: {how:?}"
        );
    }
    let off_link = "192.0.2.1".parse().unwrap();
    let own = "10.0.0.1".parse().unwrap();
    assert_eq!(table.learn(&lan(), off_link, MAC, Request, at(0)), None);
    assert_eq!(table.learn(&lan(), own, MAC, Request, at(0)), None);
    let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
    for bad in [group, MacAddr([0xff; 6]), MacAddr([0; 6])] {
        assert_eq!(
            table.learn(&lan(), host(9), bad, Request, at(0)),
            None,
            "{bad:?}"
        );
    }
    let id = table.learn(&lan(), host(9), MAC, Request, at(0)).unwrap();
    assert_eq!(
        state(&table, id),
        Some(State::Stale),
        "believed, not confirmed"
    );
    table.learn(&lan(), host(9), MAC, Solicited, at(1));
    table.learn(&lan(), host(9), MAC, Unsolicited, at(2));
    assert_eq!(state(&table, id), Some(State::Reachable), "no news");
    table.learn(&lan(), host(9), OTHER, Unsolicited, at(3));
    assert_eq!(state(&table, id), Some(State::Stale), "moved: verify");
    assert_eq!(header(table.get(id).unwrap())[..6], OTHER.0);
}

#[test]
fn an_announcement_frees_waiting_packets() {
    let mut table = Neighbours::new(8, 7);
    let (id, _) = table.resolve(&lan(), host(9), at(0)).unwrap();
    assert_eq!(
        table.learn(&lan(), host(9), MAC, Learned::Unsolicited, at(1)),
        Some(id)
    );
    assert!(table.get(id).unwrap().is_ready());
    assert_eq!(table.incomplete, 0);
}

#[test]
fn configured_neighbours_neither_age_nor_learn() {
    let mut table = Neighbours::new(8, 7);
    let id = table.set_static(&lan(), host(9), MAC, at(0)).unwrap();
    table.learn(&lan(), host(9), OTHER, Learned::Solicited, at(1));
    table.confirm(id, at(2));
    assert_eq!(sweep(&mut table, 9_000_000), []);
    table.flush_interface(InterfaceId(1), &mut |_| panic!("stays"));
    let entry = table.get(id).unwrap();
    assert_eq!((entry.state(), entry.mac()), (State::Static, Some(MAC)));
    table.retain_static(|_, address| address == host(9));
    assert_eq!(table.len(), 1);
    table.retain_static(|_, _| false);
    assert!(table.is_empty());
}

#[test]
fn families_and_interfaces_do_not_mix() {
    let mut table = Neighbours::new(8, 7);
    let wan = sample(2, &["10.0.0.2/16"]);
    let six: IpAddr = "2001:db8::9".parse().unwrap();
    let ids: Vec<_> = [(&lan(), host(9)), (&wan, host(9)), (&lan(), six)]
        .map(|(interface, address)| table.resolve(interface, address, at(0)).unwrap().0)
        .into();
    assert_eq!(table.len(), 3);
    table.learn(&wan, host(9), MAC, Learned::Solicited, at(1));
    let ready: Vec<_> = ids
        .iter()
        .map(|&id| table.get(id).unwrap().is_ready())
        .collect();
    assert_eq!(ready, [false, true, false]);
}

#[test]
fn stale_ids_find_nothing() {
    let mut table = Neighbours::new(1, 7);
    let first = table
        .learn(&lan(), host(3), MAC, Learned::Request, at(0))
        .unwrap();
    let second = table
        .learn(&lan(), host(4), MAC, Learned::Request, at(60_000))
        .unwrap();
    assert_eq!(first.index(), second.index());
    assert!(table.get(first).is_none() && table.touch(first, at(1)).is_none());
    assert!(table.get(second).is_some() && table.get(NeighbourId::NONE).is_none());
    let beyond = NeighbourId(1 << 16 | 5);
    assert!(table.get(beyond).is_none());
}

#[test]
fn a_full_table_evicts_the_idle_and_keeps_the_busy() {
    let mut table = Neighbours::new(4, 7);
    let fixed = table.set_static(&lan(), host(1), MAC, at(0)).unwrap();
    let request = |table: &mut Neighbours, n, millis| {
        table.learn(&lan(), host(n), MAC, Learned::Request, at(millis))
    };
    let idle = request(&mut table, 2, 0).unwrap();
    let busy = request(&mut table, 3, 0).unwrap();
    let (asked, _) = table.resolve(&lan(), host(4), at(9000)).unwrap();
    table.touch(busy, at(9500));
    assert!(request(&mut table, 5, 10_000).is_some());
    assert!(table.get(idle).is_none());
    assert!(
        [fixed, busy, asked]
            .iter()
            .all(|&id| table.get(id).is_some())
    );
    assert_eq!(request(&mut table, 6, 10_000), None, "nothing is idle");
    assert_eq!(table.resolve(&lan(), host(6), at(10_000)), Err(Full));
    assert_eq!(table.len(), 4);
}

#[test]
fn a_scan_leaves_room_for_hosts_that_exist() {
    let mut table = Neighbours::new(100, 7);
    let scanned = (0..1000).filter(|&n| table.resolve(&lan(), host(1000 + n), at(0)).is_ok());
    assert_eq!(scanned.count(), 50);
    for n in 2..40 {
        assert!(
            table
                .learn(&lan(), host(n), MAC, Learned::Request, at(1))
                .is_some()
        );
    }
    for millis in [1000, 2000, 3000] {
        sweep(&mut table, millis);
    }
    assert!(
        table.resolve(&lan(), host(5000), at(3000)).is_ok(),
        "the silent ones gave up"
    );
}

#[test]
fn asking_again_counts_as_unanswered_too() {
    let mut table = Neighbours::new(4, 7);
    let ask =
        |table: &mut Neighbours, n, millis| table.resolve(&lan(), host(n), at(millis)).unwrap().1;
    for n in [2, 3] {
        ask(&mut table, n, 0);
    }
    for millis in [1000, 2000, 3000] {
        sweep(&mut table, millis);
    }
    for n in [4, 5] {
        assert_eq!(
            ask(&mut table, n, 5000),
            Resolution::Pending { solicit: true }
        );
    }
    assert_eq!(
        ask(&mut table, 2, 6000),
        Resolution::Failed,
        "half of the table is taken"
    );
    sweep(&mut table, 6000);
    table.learn(&lan(), host(4), MAC, Learned::Solicited, at(6000));
    assert_eq!(
        ask(&mut table, 2, 6000),
        Resolution::Pending { solicit: true }
    );
}

#[test]
fn a_budget_bounds_the_work_and_the_hand_gets_around() {
    let mut table = Neighbours::new(100, 7);
    for n in 0..40 {
        table.resolve(&lan(), host(10 + n), at(0)).unwrap();
    }
    let mut asked = 0;
    for _ in 0..4 {
        let mut seen = 0;
        table.sweep(at(1000), 10, &mut |_| seen += 1);
        assert_eq!(seen, 10);
        asked += seen;
    }
    assert_eq!(asked, 40);
    assert_eq!(sweep(&mut table, 1500), []);
}

#[test]
fn a_reload_rebuilds_headers_and_drops_what_is_gone() {
    let mut table = Neighbours::new(8, 7);
    let wan = sample(2, &["203.0.113.1/24"]);
    let (lan_id, _) = table.resolve(&lan(), host(9), at(0)).unwrap();
    table.learn(&lan(), host(9), MAC, Learned::Solicited, at(0));
    let (wan_id, _) = table
        .resolve(&wan, "203.0.113.9".parse().unwrap(), at(0))
        .unwrap();
    let mut gone = Vec::new();
    table.rebind(&Interfaces::new([lan(), wan]), at(1), &mut |id| {
        gone.push(id)
    });
    assert_eq!(gone, []);
    assert_eq!(
        state(&table, lan_id),
        Some(State::Reachable),
        "nothing changed"
    );
    let moved = Interface {
        vlan: Some(VlanId(5)),
        mtu: 9000,
        ..lan()
    };
    table.rebind(&Interfaces::new([moved]), at(2), &mut |id| gone.push(id));
    assert_eq!(gone, [wan_id]);
    let entry = table.get(lan_id).unwrap();
    assert_eq!((header(entry).len(), entry.mtu), (16, 9000));
    assert_eq!(entry.state(), State::Stale, "verified when next used");
    let taken = sample(1, &["10.0.0.9/16"]);
    table.rebind(&Interfaces::new([taken]), at(3), &mut |id| gone.push(id));
    assert_eq!(gone, [wan_id, lan_id], "the address became ours");
    assert!(table.is_empty() && table.incomplete == 0);
}

#[test]
fn flushing_names_who_packets_waited_for() {
    let (mut table, id) = reachable(0);
    let (asked, _) = table.resolve(&lan(), host(8), at(0)).unwrap();
    let mut gone = Vec::new();
    table.flush_interface(InterfaceId(1), &mut |id| gone.push(id));
    assert_eq!(gone, [id, asked]);
    assert_eq!((table.len(), table.incomplete), (0, 0));
}

#[derive(Clone, Debug)]
enum Op {
    Resolve(u16),
    Learn(u16, u8),
    Static(u16),
    Sweep(u16),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (2u16..30).prop_map(Op::Resolve),
        4 => (2u16..30, 0u8..3).prop_map(|(n, how)| Op::Learn(n, how)),
        1 => (2u16..30).prop_map(Op::Static),
        4 => (0u16..4000).prop_map(Op::Sweep),
        1 => Just(Op::Flush),
    ]
}

proptest! {
    /// Whatever happens: counts agree, every entry is found under its address, ids of removed entries stay dead, and a
    /// pending neighbour is answered, failed or named as gone.
    #[test]
    fn the_table_stays_consistent(ops in prop::collection::vec(op(), 1..300)) {
        let mut table = Neighbours::new(8, 7);
        let mut pending = std::collections::BTreeSet::new();
        let mut now = 0u64;
        for op in ops {
            match op {
                Op::Resolve(n) => {
                    if let Ok((id, Resolution::Pending { solicit })) = table.resolve(&lan(), host(n), at(now)) {
                        prop_assert_eq!(pending.insert(id), solicit, "asked exactly once");
                    }
                }
                Op::Learn(n, how) => {
                    let how = [Learned::Solicited, Learned::Unsolicited, Learned::Request][usize::from(how)];
                    if let Some(id) = table.learn(&lan(), host(n), MAC, how, at(now)) {
                        prop_assert!(table.get(id).is_some_and(Neighbour::is_ready));
                        pending.remove(&id);
                    }
                }
                Op::Static(n) => {
                    if let Ok(id) = table.set_static(&lan(), host(n), MAC, at(now)) {
                        pending.remove(&id);
                    }
                    table.retain_static(|_, address| address == host(n));
                }
                Op::Sweep(step) => {
                    now += u64::from(step);
                    for event in sweep(&mut table, now) {
                        if let Event::Failed { id } = event {
                            pending.remove(&id);
                        }
                    }
                }
                Op::Flush => table.flush_interface(InterfaceId(1), &mut |id| { pending.remove(&id); }),
            }
            let listed: Vec<_> = table.iter().map(|(id, e)| (id, e.address(), e.state())).collect();
            prop_assert_eq!(listed.len(), table.len());
            for &(id, address, _) in &listed {
                prop_assert_eq!(table.find(InterfaceId(1), address), Some(id));
            }
            let incomplete: std::collections::BTreeSet<_> =
                listed.iter().filter(|(_, _, s)| *s == State::Incomplete).map(|&(id, _, _)| id).collect();
            prop_assert_eq!(incomplete.len(), table.incomplete);
            prop_assert!(incomplete.len() <= 4, "half of the table");
            prop_assert_eq!(&incomplete, &pending);
        }
    }
}
