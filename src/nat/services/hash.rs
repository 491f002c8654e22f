//! The hash that picks a backend. It has no secret: gateways side by side, and one gateway after a restart, choose alike.

use crate::flow::key::{Address, Tuple};

/// What of a packet the choice of a backend depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fields {
    /// The client's address.
    pub source: bool,
    /// The service's address.
    pub destination: bool,
    /// The client's port.
    pub source_port: bool,
    /// The service's port.
    pub destination_port: bool,
    /// The protocol.
    pub protocol: bool,
}

impl Fields {
    /// Everything: each flow on its own.
    pub const ALL: Fields = Fields {
        source: true,
        destination: true,
        source_port: true,
        destination_port: true,
        protocol: true,
    };

    /// Nothing: the start of a selection.
    pub const NONE: Fields = Fields {
        source: false,
        destination: false,
        source_port: false,
        destination_port: false,
        protocol: false,
    };

    /// The selected fields as they are configured.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            ("src", self.source),
            ("dst", self.destination),
            ("sport", self.source_port),
            ("dport", self.destination_port),
            ("proto", self.protocol),
        ];
        let selected = all.into_iter().filter(|(_, selected)| *selected);
        selected.map(|(name, _)| name).collect()
    }

    /// The hash of a packet's selected fields.
    pub fn hash<A: Address + Into<u128>>(&self, tuple: &Tuple<A>, protocol: u8) -> u64 {
        let mut hash = 0;
        let mut add = |selected: bool, value: u128| {
            if selected {
                hash = absorb(hash, value);
            }
        };
        add(self.source, tuple.source.into());
        add(self.destination, tuple.destination.into());
        add(self.source_port, tuple.source_port.into());
        // Distinguished from a source port of the same number.
        add(
            self.destination_port,
            1 << 16 | u128::from(tuple.destination_port),
        );
        add(self.protocol, protocol.into());
        hash
    }
}

/// What tells a backend from others.
pub fn identity<A: Address + Into<u128>>(address: A, port: Option<u16>) -> u64 {
    let port = port.map_or(0, |port| 1 << 16 | u128::from(port));
    absorb(absorb(0, address.into()), port)
}

fn absorb(hash: u64, value: u128) -> u64 {
    mix(mix(hash ^ value as u64) ^ (value >> 64) as u64)
}

/// The finaliser of a 64-bit mixer: every input bit reaches every output bit.
pub(super) fn mix(value: u64) -> u64 {
    let mut x = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_selected_fields_count() {
        let tuple = Tuple {
            source: 0x0a00_0002u32,
            destination: 0x0a60_0028,
            source_port: 40000,
            destination_port: 80,
        };
        let pair = Fields {
            source: true,
            destination: true,
            ..Fields::NONE
        };
        let other_port = Tuple {
            source_port: 40001,
            ..tuple
        };
        let other_client = Tuple {
            source: 0x0a00_0003,
            ..tuple
        };
        assert_eq!(pair.hash(&tuple, 6), pair.hash(&other_port, 17));
        assert_ne!(pair.hash(&tuple, 6), pair.hash(&other_client, 6));
        assert_ne!(
            Fields::ALL.hash(&tuple, 6),
            Fields::ALL.hash(&other_port, 6)
        );
        assert_ne!(Fields::ALL.hash(&tuple, 6), Fields::ALL.hash(&tuple, 17));
    }

    #[test]
    fn a_port_tells_backends_apart() {
        let all = [
            identity(1u32, None),
            identity(1u32, Some(0)),
            identity(1u32, Some(80)),
            identity(2u32, Some(80)),
        ];
        let distinct: std::collections::BTreeSet<u64> = all.into();
        assert_eq!(distinct.len(), all.len());
    }

    /// Gateways side by side, and the next release, choose alike.
    #[test]
    fn hashes_stay_what_they_are() {
        let v4 = Tuple {
            source: 0x0a00_0002u32,
            destination: 0x0a60_0028,
            source_port: 40000,
            destination_port: 80,
        };
        let v6 = Tuple {
            source: 0x2001_0db8_0001_0002_0003_0004_0005_0006u128,
            destination: 0xfd00_0001_0000_0000_0000_0000_0000_0009,
            source_port: 40000,
            destination_port: 80,
        };
        let source = Fields {
            source: true,
            ..Fields::NONE
        };
        assert_eq!(Fields::NONE.hash(&v4, 6), 0);
        assert_eq!(source.hash(&v4, 6), 0xa762_1fa0_f52b_0341);
        assert_eq!(Fields::ALL.hash(&v4, 6), 0x2125_d196_3fdd_d25b);
        assert_eq!(Fields::ALL.hash(&v6, 17), 0xc8ac_8eec_545d_4f8a);
        assert_eq!(identity(1u32, None), 0xe281_95dd_d9ee_4956);
        assert_eq!(identity(v4.source, Some(8080)), 0x4c8e_2eb7_e6f6_9421);
        assert_eq!(identity(v6.source, Some(80)), 0x9420_7750_2f6f_eb1c);
    }

    #[test]
    fn fields_are_named_as_they_are_configured() {
        let all = ["src", "dst", "sport", "dport", "proto"];
        assert_eq!(Fields::ALL.names(), all);
        assert!(Fields::NONE.names().is_empty());
        let destination = Fields {
            destination: true,
            ..Fields::NONE
        };
        assert_eq!(destination.names(), ["dst"]);
    }
}
