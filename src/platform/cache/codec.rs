//! How a value stands in Redis: a head of fixed length, then the value's own bytes. Pure.
//!
//! Whatever cannot be proved to be whole and of this format is no value: a release that writes otherwise, a value cut off by
//! a full memory and one that somebody overwrote are all the same as nothing. The scripts read the head as well
//! (`lua/entry.lua`).

use bytes::Bytes;
use ring::digest;

/// Length of the head.
pub(super) const HEAD: usize = 48;
/// The head's own format. Raised where its layout changes; it is a part of each key too.
pub(super) const FORMAT: u8 = 1;
/// Where the checksum stands.
const SUM: usize = 40;

/// What is kept under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A value.
    Value,
    /// That there is no such thing.
    Absent,
    /// Nothing: what was there is void, and older values may not come back.
    Withdrawn,
}

/// Which of two values is the newer one: the first part that differs decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    /// The life of the far tier in which it was written.
    pub generation: u64,
    /// The last change that is certainly in it.
    pub version: u64,
    /// Whose lease it was loaded under; 0 without one.
    pub fence: u64,
}

/// All that is known of a value without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The format of the value itself.
    pub format: u8,
    pub what: What,
    pub order: Order,
    /// When it was loaded, in microseconds since 1970 on the application clock.
    pub made_at: i64,
}

/// Head and value as they are kept.
pub(super) fn write(head: &Head, value: &[u8]) -> Vec<u8> {
    let what = match head.what {
        What::Value => 0,
        What::Absent => 1,
        What::Withdrawn => 2,
    };
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD + value.len());
    bytes.extend_from_slice(&[FORMAT, head.format, what, 0]);
    for number in [head.order.generation, head.order.version, head.order.fence] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(&head.made_at.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    let sum = sum_of(&bytes, value);
    bytes.extend_from_slice(&sum);
    bytes.extend_from_slice(value);
    bytes
}

/// Why bytes are no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Poisoned {
    /// When it says that it was made, if it says so.
    pub made_at: Option<i64>,
}

/// Takes apart what [`write`] put together.
pub(super) fn read(bytes: &Bytes, format: u8) -> Result<(Head, Bytes), Poisoned> {
    let nothing = Poisoned { made_at: None };
    let head = bytes.first_chunk::<HEAD>().ok_or(nothing)?;
    let number = |from: usize| head[from..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let made_at = head[28..].first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes));
    let poisoned = Poisoned { made_at: Some(made_at) };
    let what = match head[2] {
        0 => What::Value,
        1 => What::Absent,
        2 => What::Withdrawn,
        _ => return Err(poisoned),
    };
    let value = bytes.slice(HEAD..);
    let length = head[36..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let is_whole = u32::try_from(value.len()) == Ok(length) && head[SUM..] == sum_of(&head[..SUM], &value);
    if head[0] != FORMAT || head[1] != format || !is_whole {
        return Err(poisoned);
    }
    let order = Order { generation: number(4), version: number(12), fence: number(20) };
    Ok((Head { format, what, order, made_at }, value))
}

fn sum_of(head: &[u8], value: &[u8]) -> [u8; HEAD - SUM] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(head);
    context.update(value);
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let order = Order { generation: 3, version: u64::from(u32::MAX) + 7, fence: 1_800_000_000_000_000 };
        Head { format: 9, what: What::Value, order, made_at: 1_764_000_000_123_456 }
    }

    proptest::proptest! {
        #![proptest_config(crate::platform::properties::config())]

        #[test]
        fn what_was_written_is_read(value in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let written = Bytes::from(write(&head(), &value));
            let (read_head, read_value) = read(&written, 9).unwrap();
            proptest::prop_assert_eq!(read_head, head());
            proptest::prop_assert_eq!(&read_value[..], &value[..]);
        }

        #[test]
        fn no_bit_may_differ(value in proptest::collection::vec(proptest::num::u8::ANY, 0..50), at in 0_usize..800) {
            let mut written = write(&head(), &value);
            let bit = at % (written.len() * 8);
            written[bit / 8] ^= 1 << (bit % 8);
            proptest::prop_assert!(read(&Bytes::from(written), 9).is_err());
        }

        #[test]
        fn nothing_may_be_missing(value in proptest::collection::vec(proptest::num::u8::ANY, 1..50), kept in 0_usize..98) {
            let written = Bytes::from(write(&head(), &value));
            let kept = kept.min(written.len() - 1);
            proptest::prop_assert!(read(&written.slice(..kept), 9).is_err());
        }
    }

    #[test]
    fn another_format_is_no_value() {
        let written = Bytes::from(write(&head(), b"value"));
        assert!(read(&written, 9).is_ok());
        assert_eq!(read(&written, 8), Err(Poisoned { made_at: Some(head().made_at) }));
    }

    #[test]
    fn the_first_part_that_differs_decides() {
        let order = |generation, version, fence| Order { generation, version, fence };
        assert!(order(2, 1, 1) > order(1, 9, 9));
        assert!(order(1, 2, 0) > order(1, 1, 9));
        assert!(order(1, 1, 2) > order(1, 1, 1));
    }
}
