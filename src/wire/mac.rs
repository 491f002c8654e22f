//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A 48-bit Ethernet address; written `aa:bb:cc:dd:ee:ff` in text and in configuration.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All stations of the link.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// No address: "unknown" in an ARP request.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// The address as a number, as [`mac_word`](super::mac_word) reads it.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// Whether this addresses a group (multicast or broadcast). A group is never a sender.
    #[inline]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

/// The text is not six two-digit hexadecimal numbers separated by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address; write six two-digit hexadecimal numbers like 02:00:5e:10:00:01")]
pub struct MacAddrError;

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrError)?;
            // `from_str_radix` alone would admit "+1".
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(MacAddrError),
        }
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_nonsense_is_refused() {
        let mac = MacAddr([0x02, 0, 0x5e, 0x10, 0xab, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:ab:ff");
        assert_eq!(format!("{mac:?}"), "02:00:5e:10:ab:ff");
        assert_eq!("02:00:5E:10:ab:FF".parse(), Ok(mac));
        for bad in [
            "",
            "02:00:5e:10:ab",
            "02:00:5e:10:ab:ff:00",
            "+2:00:5e:10:ab:ff",
            "02-00-5e-10-ab-ff",
            "2:00:5e:10:ab:ff",
            "002:00:5e:10:ab:ff",
            "0g:00:5e:10:ab:ff",
            "02:00:5e:10:ab:",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(MacAddrError), "{bad}");
        }
        let json = serde_json::to_string(&mac).unwrap();
        assert_eq!(json, "\"02:00:5e:10:ab:ff\"");
        assert_eq!(serde_json::from_str::<MacAddr>(&json).unwrap(), mac);
    }

    #[test]
    fn group_bit() {
        assert!(MacAddr::BROADCAST.is_group());
        assert!(MacAddr([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!MacAddr([0x02, 0, 0, 0, 0, 1]).is_group());
    }

    #[test]
    fn as_a_number_it_is_the_low_six_bytes_of_a_frame_that_goes_to_it() {
        let mac = MacAddr([1, 2, 3, 4, 5, 6]);
        assert_eq!(mac.word(), 0x0605_0403_0201);
        let frame = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(crate::wire::mac_word(&frame), Some(0x0807_0605_0403_0201));
        assert_eq!(crate::wire::mac_word(&frame[..7]), None);
    }
}
