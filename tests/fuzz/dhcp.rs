//! What DHCP servers say, to a client that is wherever they find it.

use natgate::base::Random;
use natgate::gateway::dhcp::{Action, Client, Lease};
use natgate::wire::MacAddr;

use crate::common::mutate::{blindly, pick};
use crate::engine::{Target, fuzz, signature};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
/// Where a message's options begin, here with what kind of message it is.
const OPTIONS: usize = 240;
/// An offer, its confirmation, one more after half of the lease, and a refusal.
const KINDS: [u8; 4] = [2, 5, 5, 6];

/// An answer of 203.0.113.1 about 203.0.113.7/24, with more options.
fn answer(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; OPTIONS];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[16..20].copy_from_slice(&[203, 0, 113, 7]);
    bytes[OPTIONS - 4..].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, 2, 54, 4, 203, 0, 113, 1, 1, 4, 255, 255, 255, 0]);
    bytes.extend([51, 4, 0, 0, 14, 16]);
    bytes.extend(options);
    bytes
}

fn answers() -> Vec<Vec<u8>> {
    let route = [121, 8, 24, 198, 51, 100, 203, 0, 113, 2];
    [
        &[][..],
        &[3, 4, 203, 0, 113, 254, 26, 2, 5, 120, 255],
        &[58, 4, 0, 0, 0, 60, 59, 4, 0, 0, 0, 90, 0, 0, 255],
        &route,
        &[51, 4, 255, 255, 255, 255, 56, 2, b'n', b'o', 255],
    ]
    .map(answer)
    .to_vec()
}

/// A client while it is talked to.
struct Talk {
    client: Client,
    random: Random,
    now: u64,
    /// The number of its last question.
    transaction: [u8; 4],
    outcomes: Vec<u64>,
}

impl Talk {
    /// Lets time pass until it asks, or waits for nothing any more.
    fn until_it_asks(&mut self) {
        for _ in 0..16 {
            if self.client.due() == u64::MAX {
                return;
            }
            self.now = self.now.max(self.client.due());
            let actions = self.client.poll(self.now, &mut self.random);
            if self.look(&actions) {
                return;
            }
        }
    }

    /// Whether it asked a server something.
    fn look(&mut self, actions: &[Action]) -> bool {
        let mut asked = false;
        for action in actions {
            self.outcomes.push(signature((
                self.client.state(),
                std::mem::discriminant(action),
            )));
            match action {
                Action::Broadcast { message, .. } | Action::Unicast { message, .. } => {
                    assert!(message.len() >= 300, "too short for BOOTP");
                    self.transaction.copy_from_slice(&message[4..8]);
                    asked = true;
                }
                Action::Use(lease) | Action::Extend(lease) => self.usable(lease),
                Action::Probe(_) | Action::Stop(_) | Action::Conflict(..) => {}
            }
        }
        asked
    }

    fn usable(&self, lease: &Lease) {
        let address = lease.grant.net.addr();
        assert!(
            !address.is_unspecified() && !address.is_loopback() && !address.is_multicast(),
            "{lease:?}"
        );
        assert!(
            lease.renew <= lease.rebind && lease.rebind <= lease.expire,
            "{lease:?}"
        );
        assert!(lease.expire > self.now, "{lease:?}");
    }
}

/// A client that hears nothing but these bytes, with its own numbers in them, each time it asks.
struct Server;

impl Target for Server {
    fn run(&self, input: &[u8]) -> Vec<u64> {
        let mut random = Random::from_seed(1);
        let mut talk = Talk {
            client: Client::new(MAC, None, random.next_u64() % 1_000),
            random,
            now: 1_000,
            transaction: [0; 4],
            outcomes: Vec::new(),
        };
        for kind in KINDS {
            talk.until_it_asks();
            let mut message = input.to_vec();
            if message.get(OPTIONS..OPTIONS + 2) == Some(&[53, 1])
                && let Some(said) = message.get_mut(OPTIONS + 2)
            {
                *said = kind;
            }
            if message.len() >= 34 {
                message[4..8].copy_from_slice(&talk.transaction);
                message[28..34].copy_from_slice(&MAC.0);
            }
            let ignored = talk.client.ignored();
            let actions = talk.client.receive(talk.now, &mut talk.random, &message);
            let taken = talk.client.ignored() == ignored;
            talk.outcomes
                .push(signature((kind, taken, talk.client.state())));
            talk.look(&actions);
        }
        talk.outcomes
    }

    fn next(&self, corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut message = pick(corpus, random).cloned().unwrap_or_default();
        let other = pick(corpus, random).cloned().unwrap_or_default();
        // What is before the options hardly matters.
        let from = if random.below(4) == 0 { 0 } else { OPTIONS + 3 };
        blindly(&mut message, from, &other, random);
        message
    }
}

#[test]
fn dhcp_servers() {
    fuzz("dhcp", &Server, answers(), 12);
}
