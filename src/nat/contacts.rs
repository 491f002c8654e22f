//! Which remote addresses a mapping talks to: what address-dependent filtering admits (RFC 4787 §5).
//!
//! Kept only where a pool filters so. The size is fixed: what does not fit is not remembered, and an outside host is then
//! filtered as if by address and port, never admitted by mistake.

use hashbrown::HashMap;

use crate::flow::key::Address;
use crate::nat::mapping::OutsideEndpoint;

/// Remote addresses by mapping, with the sessions that lead there.
pub struct Contacts<A> {
    sessions: HashMap<(OutsideEndpoint<A>, A), u32>,
    capacity: usize,
}

impl<A: Address> Contacts<A> {
    /// Room for `capacity` pairs of mapping and remote address.
    pub fn new(capacity: u32) -> Contacts<A> {
        Contacts {
            sessions: HashMap::with_capacity(capacity as usize),
            capacity: capacity as usize,
        }
    }

    /// Counts a session from a mapping to a remote address.
    pub fn remember(&mut self, mapping: OutsideEndpoint<A>, remote: A) {
        if let Some(count) = self.sessions.get_mut(&(mapping, remote)) {
            *count += 1;
        } else if self.sessions.len() < self.capacity {
            self.sessions.insert((mapping, remote), 1);
        }
    }

    /// Counts one session less.
    pub fn forget(&mut self, mapping: OutsideEndpoint<A>, remote: A) {
        if let Some(count) = self.sessions.get_mut(&(mapping, remote)) {
            *count -= 1;
            if *count == 0 {
                self.sessions.remove(&(mapping, remote));
            }
        }
    }

    /// Whether the mapping has a session with that remote address.
    pub fn knows(&self, mapping: OutsideEndpoint<A>, remote: A) -> bool {
        self.sessions.contains_key(&(mapping, remote))
    }

    /// Bytes it may take.
    pub fn memory_bytes(&self) -> usize {
        self.sessions.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::ports::PortSpace;

    #[test]
    fn a_contact_lasts_as_long_as_a_session_leads_there() {
        let mut contacts = Contacts::new(2);
        let outside = |port| OutsideEndpoint {
            address: 0xcb00_7101u32,
            port,
            space: PortSpace::Udp,
        };
        let (a, b) = (outside(1), outside(2));
        contacts.remember(a, 9);
        contacts.remember(a, 9);
        contacts.remember(b, 9);
        contacts.remember(b, 10);
        assert!(
            !contacts.knows(b, 10),
            "full: not remembered, so not admitted"
        );
        contacts.forget(a, 9);
        assert!(contacts.knows(a, 9) && contacts.knows(b, 9) && !contacts.knows(a, 8));
        contacts.forget(a, 9);
        assert!(!contacts.knows(a, 9));
    }

    #[test]
    fn memory_is_had_from_the_start() {
        let bytes = |capacity| Contacts::<u32>::new(capacity).memory_bytes();
        assert_eq!(bytes(0), 0);
        assert!(bytes(10_000) - bytes(1_000) > 9_000 * 16);
    }
}
