//! Changes of a payload: pieces that become other pieces, of other lengths perhaps.

use core::ops::Range;

use arrayvec::ArrayVec;

/// The longest piece a helper writes.
pub const TEXT: usize = 64;

/// The most pieces of one payload.
pub const EDITS: usize = 80;

/// What is written in the place of a piece.
pub type Text = ArrayVec<u8, TEXT>;

/// One piece that becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Where in the payload; empty where something is put in between.
    pub range: Range<usize>,
    /// What is there afterwards.
    pub text: Text,
}

/// The changes of one payload.
pub type Edits = ArrayVec<Edit, EDITS>;

/// Something written out, if it is no longer than [`TEXT`].
pub fn text(what: core::fmt::Arguments<'_>) -> Option<Text> {
    use std::io::Write;
    let mut text = Text::new();
    text.write_fmt(what).ok().map(|()| text)
}

/// By how much the payload gets longer.
pub fn growth(edits: &[Edit]) -> isize {
    let more = |edit: &Edit| edit.text.len() as isize - edit.range.len() as isize;
    edits.iter().map(more).sum()
}

/// Room that [`apply`] needs behind the payload: no later piece makes up for one that grows.
pub fn room(edits: &[Edit]) -> usize {
    let more = |edit: &Edit| edit.text.len().saturating_sub(edit.range.len());
    edits.iter().map(more).sum()
}

/// Makes the changes in `bytes`, whose first `length` are the payload, and returns its new length. The edits are in order and
/// lie side by side in the payload, and there is [`room`] for them.
pub fn apply(bytes: &mut [u8], length: usize, edits: &[Edit]) -> usize {
    let mut length = length;
    for Edit { range, text } in edits.iter().rev() {
        let end = range.start + text.len();
        let behind = end + length.saturating_sub(range.end);
        if range.start > range.end || range.end > length || behind > bytes.len() {
            continue;
        }
        bytes.copy_within(range.end..length, end);
        for (to, from) in bytes.iter_mut().skip(range.start).zip(text) {
            *to = *from;
        }
        length = behind;
    }
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edit(range: Range<usize>, what: &str) -> Edit {
        let text = text(format_args!("{what}")).unwrap();
        Edit { range, text }
    }

    #[test]
    fn pieces_grow_shrink_and_come_in_between() {
        let edits = [
            edit(0..3, "Monday"),
            edit(4..4, "and "),
            edit(4..7, "T"),
            edit(7..8, ""),
        ];
        let mut bytes = b"Mon Tue Wed".to_vec();
        let length = bytes.len();
        bytes.resize(length + room(&edits), 0);
        let new = apply(&mut bytes, length, &edits);
        assert_eq!(&bytes[..new], b"Monday and TWed");
        assert_eq!(new as isize, length as isize + growth(&edits));
        assert_eq!(text(format_args!("{:65}", 0)), None, "longer than a piece");
    }

    proptest! {
        #[test]
        fn as_if_it_was_written_anew(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            cuts in proptest::collection::btree_set(0usize..60, 0..12),
            texts in proptest::collection::vec("[a-z]{0,9}", 6),
        ) {
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= payload.len()).collect();
            let pairs = cuts.chunks_exact(2).zip(&texts);
            let edits: Vec<Edit> = pairs.map(|(cut, text)| edit(cut[0]..cut[1], text)).collect();
            let (mut expected, mut at) = (Vec::<u8>::new(), 0);
            for edit in &edits {
                expected.extend(&payload[at..edit.range.start]);
                expected.extend(&edit.text);
                at = edit.range.end;
            }
            expected.extend(&payload[at..]);
            let mut bytes = payload.clone();
            bytes.resize(payload.len() + room(&edits), 0);
            let new = apply(&mut bytes, payload.len(), &edits);
            prop_assert_eq!(&bytes[..new], &expected[..]);
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let changed = |edits: &[Edit], room: usize| {
            let mut bytes = b"0123456789".to_vec();
            bytes.resize(10 + room, b'.');
            let length = apply(&mut bytes, 10, edits);
            bytes.truncate(length);
            String::from_utf8(bytes).unwrap()
        };
        let backwards = Edit {
            range: Range { start: 5, end: 4 },
            ..edit(0..0, "x")
        };
        assert_eq!(changed(&[backwards], 9), "0123456789");
        assert_eq!(changed(&[edit(9..11, "x")], 9), "0123456789");
        assert_eq!(changed(&[edit(9..10, "xyz")], 1), "0123456789");
        assert_eq!(changed(&[edit(9..10, "xyz")], 2), "012345678xyz");
        assert_eq!(changed(&[edit(10..10, "x")], 1), "0123456789x");
        assert_eq!(changed(&[edit(5..5, "x")], 1), "01234x56789");
    }

    #[test]
    fn growth_may_be_negative_and_room_adds_up_what_grows() {
        let edits = [edit(0..3, "Monday"), edit(3..10, ""), edit(11..12, "ab")];
        assert_eq!((growth(&edits), room(&edits)), (3 - 7 + 1, 4));
        assert_eq!((growth(&edits[1..2]), room(&edits[1..2])), (-7, 0));
        assert_eq!(
            text(format_args!("{:64}", 0)).map(|text| text.len()),
            Some(TEXT)
        );
    }
}
