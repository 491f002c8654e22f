//! What ends at the edge of a worker: a full ring, a packet that goes round, a checksum the card found wrong.

use natgate::base::time::Now;
use natgate::base::{DropReason, InterfaceId};
use natgate::dataplane::buffer::{Buffer, Burst, Incoming, Message, Sink};
use natgate::dataplane::memory::MemoryBuffer;
use natgate::dataplane::shard::Shard;
use natgate::nat::policy::Policy;

use crate::common::*;
use crate::*;

const NOW: u64 = 1_000_000;

/// A buffer whose card has an opinion about its checksum.
struct Judged {
    buffer: MemoryBuffer,
    bad: bool,
}

impl Buffer for Judged {
    fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut()
    }
    fn prepend(&mut self, count: usize) -> bool {
        self.buffer.prepend(count)
    }
    fn trim_front(&mut self, count: usize) -> bool {
        self.buffer.trim_front(count)
    }
    fn set_len(&mut self, length: usize) -> bool {
        self.buffer.set_len(length)
    }
    fn checksum_bad(&self) -> bool {
        self.bad
    }
}

/// A way out whose rings have room for some messages.
struct Narrow {
    room: usize,
    handed: usize,
    sent: u64,
}

impl<B: Buffer> Sink<B> for Narrow {
    fn allocate(&mut self) -> Option<B> {
        None
    }
    fn transmit(&mut self, _: PortId, _: B) {
        self.sent += 1;
    }
    fn discard(&mut self, _: B) {}
    fn hand_over(&mut self, _: WorkerId, message: Message<B>) -> Result<(), Message<B>> {
        if self.handed == self.room {
            return Err(message);
        }
        self.handed += 1;
        Ok(())
    }
}

fn shard<B: Buffer>(policy: &Policy, sink: &mut impl Sink<B>) -> Shard<B> {
    let mut shard = Shard::new(WorkerId(0), ShardSize::small(), 1, [3, 4]).unwrap();
    shard.policy_changed(policy, Now::at(NOW), sink);
    shard
}

/// In = out + dropped + held, what was handed over among what is out.
fn books<B: Buffer>(shard: &mut Shard<B>, sent: u64) {
    shard.counters.sent = sent;
    assert_eq!(shard.counters.imbalance(shard.held()), 0);
}

// Proves: G11a.
#[test]
fn a_full_ring_drops_what_it_cannot_take_and_counts_it() {
    let policy = lab_policy(4, MASQUERADE);
    let mut sink = Narrow {
        room: 7,
        handed: 0,
        sent: 0,
    };
    let mut shard = shard::<MemoryBuffer>(&policy, &mut sink);
    sink.handed = 0;
    let hosts = [
        "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7",
    ];
    let mut burst: Burst<MemoryBuffer> = (0..60)
        .map(|n| MemoryBuffer::from_frame(&call((hosts[usize::from(n % 6)], 5000 + n))))
        .collect();
    shard.receive(&policy, Now::at(NOW), LAN, &mut burst, &mut sink);
    let full = shard.counters.drops[DropReason::HandoffFull.index()];
    assert_eq!((shard.counters.handoff_out, sink.handed), (7, 7));
    assert!(full > 0);
    // What this worker owns is not touched by it.
    assert_eq!(sink.sent + full + 7, 60);
    books(&mut shard, sink.sent);
}

#[test]
fn a_packet_that_goes_round_ends_after_eight_hops() {
    let policy = lab_policy(4, MASQUERADE);
    let mut sink = Narrow {
        room: 1000,
        handed: 0,
        sent: 0,
    };
    let mut shard = shard::<MemoryBuffer>(&policy, &mut sink);
    // Whichever of these hosts is not this worker's is to be handed on.
    for (hops, loops) in [(7, false), (8, true)] {
        for host in [
            "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7",
        ] {
            let before = (sink.handed, sink.sent);
            let dropped = shard.counters.drops[DropReason::HairpinLoop.index()];
            let message = Message::Packet(Incoming {
                buffer: MemoryBuffer::from_frame(&call((host, 5000))),
                ingress: InterfaceId(0),
                looped: false,
                shown: None,
                not_a_reply: false,
                no_call: false,
                waited: false,
                hops,
            });
            shard.receive_message(&policy, Now::at(NOW), message, &mut sink);
            let now = shard.counters.drops[DropReason::HairpinLoop.index()];
            if sink.sent == before.1 {
                assert_eq!(now - dropped, u64::from(loops));
                assert_eq!(sink.handed - before.0, usize::from(!loops));
            }
        }
    }
    assert!(sink.handed > 0, "some host is another worker's");
    let sent = sink.sent;
    books(&mut shard, sent);
}

#[test]
fn what_the_card_found_wrong_is_dropped() {
    let policy = lab_policy(1, MASQUERADE);
    let mut sink = Narrow {
        room: 0,
        handed: 0,
        sent: 0,
    };
    let mut shard = shard::<Judged>(&policy, &mut sink);
    for (round, bad) in [(1, true), (2, false), (3, true)] {
        let mut burst: Burst<Judged> = [
            call(("10.0.0.2", 5000)),
            tcp(LAN, ("10.0.0.2", 5000), SERVER, "S"),
        ]
        .iter()
        .map(|frame| Judged {
            buffer: MemoryBuffer::from_frame(frame),
            bad,
        })
        .collect();
        shard.receive(&policy, Now::at(NOW), LAN, &mut burst, &mut sink);
        let wrong = shard.counters.drops[DropReason::L4Checksum.index()];
        assert_eq!(wrong, [2, 2, 4][round - 1]);
    }
    assert_eq!(sink.sent, 2, "of a flow that is known, too");
    books(&mut shard, 2);
}

/// The translator corrects the text of a control connection, so it has to know that it is right.
#[test]
fn a_wrong_checksum_is_not_made_right_by_a_helper() {
    let mut rack = lab(1, MASQUERADE);
    let client = ("10.0.0.2", 40000);
    let (server, public) = (("203.0.113.9", 21), ("203.0.113.1", 40000));
    one(&mut rack, 0, LAN, &tcp(LAN, client, server, "S"));
    one(&mut rack, 0, WAN, &tcp(WAN, server, public, "SA"));
    one(&mut rack, 0, LAN, &tcp(LAN, client, server, "A"));
    let mut line = Vec::new();
    etherparse::PacketBuilder::ethernet2(HOST_MAC, [2, 0, 0, 0, 1, 0])
        .ipv4([10, 0, 0, 2], [203, 0, 113, 9], 64)
        .tcp(40000, 21, 1001, 1024)
        .ack(1001)
        .write(&mut line, b"PORT 10,0,0,2,10,20\r\n")
        .unwrap();
    line[50] ^= 1;
    dropped(&mut rack, 0, LAN, &line, DropReason::L4Checksum);
    line[50] ^= 1;
    one(&mut rack, 0, LAN, &line);
}
