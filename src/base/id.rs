//! Newtypes for every index, so that a port is never taken for an interface.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Declares a small index type. A macro only because ten hand-written copies would drift apart.
macro_rules! index {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(transparent)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The value as a vector index.
            #[inline]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// A device natgate drives: position in the configuration's `[[port]]` list.
    PortId(u16)
}
index! {
    /// A layer-3 interface (a port, or a VLAN of one): index in the policy's interface list. Interface ids
    /// are stable across reloads while the interface keeps its name.
    InterfaceId(u16)
}
index! {
    /// A poll-mode worker, counted from 0.
    WorkerId(u8)
}
index! {
    /// An address realm (`vrf`): overlapping inside addresses live in different realms. 0 is `main`.
    RealmId(u8)
}
index! {
    /// An address pool of the policy.
    PoolId(u16)
}
index! {
    /// A counted rule (source-nat, exempt, port-forward, static-nat): index into the rule counters. Stable
    /// across reloads while the rule keeps its identity.
    RuleId(u16)
}
index! {
    /// The number of a published policy; grows by one with every reload that changes something.
    Generation(u32)
}
index! {
    /// The low half of a [`Generation`], as sessions note it. Whoever bears one from 65,536 reloads ago was looked at since.
    Stamp(u16)
}
index! {
    /// An 802.1Q VLAN id, 1–4094.
    VlanId(u16)
}

impl Generation {
    /// What sessions note of it.
    pub fn stamp(self) -> Stamp {
        Stamp(self.0 as u16)
    }
}

impl RuleId {
    /// "No rule": the flow was not decided by a counted rule.
    pub const NONE: RuleId = RuleId(u16::MAX);
}
