//! CRC32c (RFC 9260 appendix A), SCTP's checksum, in full and by what a change of a few bytes does to it.
//!
//! A CRC is linear: over data of one length, the CRCs of two packets differ by what the difference of the packets gives,
//! wherever it stands. So a rewritten field changes the checksum by the remainder of its own bits, moved by as many bytes
//! as follow it, which is a multiplication by a power of x. The payload is not read: damage in it stays visible to the
//! receiver, and the cost does not depend on the packet's size.
//!
//! Polynomials are kept bit-reversed, as the CRC itself is: the highest bit stands for x to the power of 0.

/// Castagnoli's polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x to the power of 0.
const ONE: u32 = 1 << 31;
/// x to the power of 8: one byte further.
const BYTE: u32 = 1 << 23;

/// The remainder each byte leaves.
const REMAINDERS: [u32; 256] = remainders();
/// Moves by 0 to 255 bytes.
const BYTES: [u32; 256] = powers(BYTE);
/// Moves by multiples of 256 bytes.
const PAGES: [u32; 256] = powers(product(BYTES[255], BYTE));

const fn remainders() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = times_x(remainder);
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
}

/// The powers of `base` from 0 to 255.
const fn powers(base: u32) -> [u32; 256] {
    let mut table = [ONE; 256];
    let mut n = 1;
    while n < 256 {
        table[n] = product(table[n - 1], base);
        n += 1;
    }
    table
}

/// `a` times x.
const fn times_x(a: u32) -> u32 {
    a >> 1 ^ (a & 1).wrapping_neg() & POLYNOMIAL
}

/// `a` times `b`.
const fn product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            sum ^= b;
        }
        b = times_x(b);
        bit >>= 1;
    }
    sum
}

/// Feeds `bytes` to a CRC.
fn feed(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        crc >> 8 ^ REMAINDERS[usize::from(crc as u8 ^ byte)]
    })
}

/// The CRC32c of `bytes`.
pub fn full(bytes: &[u8]) -> u32 {
    joined([bytes])
}

/// The CRC32c of these parts, one behind the other.
pub fn joined<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    !parts.into_iter().fold(!0, feed)
}

/// What the CRC32c of data changes by when the bits of `difference` flip in four of its bytes, the first in the highest
/// byte of the number, and `following` bytes come after them.
pub fn change(difference: u32, following: u16) -> u32 {
    let [pages, bytes] = following.to_be_bytes();
    let moved = product(
        feed(0, &difference.to_be_bytes()),
        BYTES[usize::from(bytes)],
    );
    product(moved, PAGES[usize::from(pages)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, bit by bit.
    fn slow(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ POLYNOMIAL
                } else {
                    crc >> 1
                };
            }
        }
        !crc
    }

    #[test]
    fn known_values() {
        // The check value of the algorithm, and the examples of RFC 3720 appendix B.4.
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        for (bytes, crc) in [
            (&b"123456789"[..], 0xe306_9283),
            (&[], 0),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (&descending, 0x113f_db5c),
        ] {
            assert_eq!(full(bytes), crc, "{bytes:02x?}");
        }
    }

    #[test]
    fn the_longest_move() {
        let mut bytes = vec![0x5a; 4 + 65_535];
        let before = full(&bytes);
        bytes[..4].copy_from_slice(&[0x5b, 0x5a, 0x5a, 0xda]);
        assert_eq!(before ^ full(&bytes), change(0x0100_0080, 65_535));
    }

    proptest! {
        #[test]
        fn full_matches_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(full(&bytes), slow(&bytes));
        }

        #[test]
        fn incremental_equals_full(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..3000),
            at in any::<proptest::sample::Index>(),
            difference in any::<u32>(),
        ) {
            let at = at.index(bytes.len() - 3);
            let before = full(&bytes);
            for (byte, flip) in bytes[at..].iter_mut().zip(difference.to_be_bytes()) {
                *byte ^= flip;
            }
            let following = (bytes.len() - at - 4) as u16;
            prop_assert_eq!(before ^ full(&bytes), change(difference, following));
        }
    }
}
