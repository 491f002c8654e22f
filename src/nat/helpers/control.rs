//! What is remembered of control connections whose texts changed: by how much they are moved, and the latest text.

use hashbrown::HashMap;

use super::edit::Text;
use super::shift::Shift;
use crate::flow::session::SessionIndex;

/// Connections remembered at a time, by one worker. Others keep their texts unless the new one is as long as the old.
const CAPACITY: usize = 4096;

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// How far its inside's numbers are moved.
    pub shift: Shift,
    /// How far its remote's are.
    pub back: Shift,
    /// What the text at `shift.position` became: what is sent again becomes the same again.
    pub text: Text,
}

impl Control {
    /// How far the numbers of the inside, or of the remote, are moved.
    pub fn sent(&self, from_inside: bool) -> &Shift {
        match from_inside {
            true => &self.shift,
            false => &self.back,
        }
    }
}

/// The control connections of one worker.
pub struct Controls {
    known: HashMap<u32, Control>,
}

impl Default for Controls {
    fn default() -> Controls {
        Controls {
            known: HashMap::with_capacity(CAPACITY),
        }
    }
}

impl Controls {
    /// What is remembered of a session.
    pub fn get(&self, index: SessionIndex) -> Option<&Control> {
        self.known.get(&index.0)
    }

    /// Remembers a text of the inside, or of the remote, that was changed; false when there is no room.
    pub fn changed(
        &mut self,
        index: SessionIndex,
        from_inside: bool,
        position: u32,
        more: u32,
        text: Text,
    ) -> bool {
        if self.known.len() >= CAPACITY && !self.known.contains_key(&index.0) {
            return false;
        }
        let control = self.known.entry(index.0).or_default();
        let shift = match from_inside {
            true => &mut control.shift,
            false => &mut control.back,
        };
        *shift = shift.then(position, more);
        control.text = text;
        true
    }

    /// The session ended.
    pub fn forget(&mut self, index: SessionIndex) {
        self.known.remove(&index.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_remembered_up_to_a_number_and_until_they_end() {
        let mut controls = Controls::default();
        let mut changed = |index: usize, from_inside, position, more| {
            let index = SessionIndex(index as u32);
            controls.changed(index, from_inside, position, more, Text::new())
        };
        assert!((0..CAPACITY).all(|index| changed(index, true, 10, 2)));
        assert!(!changed(CAPACITY, true, 10, 2), "no room");
        assert!(changed(0, false, 7, 1), "one that is known");
        let one = controls.get(SessionIndex(0)).unwrap();
        assert_eq!((one.sent(true).after, one.sent(false).after), (2, 1));
        assert_eq!((one.shift.position, one.back.position), (10, 7));
        controls.forget(SessionIndex(0));
        assert!(controls.get(SessionIndex(0)).is_none());
        assert!(controls.changed(SessionIndex(9999), true, 1, 1, Text::new()));
    }
}
