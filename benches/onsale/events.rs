//! Counting the events of a stream as its bytes come in. No I/O.

/// What begins the line that every event has once.
const DATA: &[u8] = b"data:";

/// Counts lines that begin with `data:`, wherever the bytes are cut. What a chunked body has between its chunks stands on
/// lines of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Events {
    /// How many bytes of [`DATA`] this line has begun with; none where it began otherwise.
    matched: Option<usize>,
    is_begun: bool,
}

impl Events {
    /// How many events these bytes complete the beginning of.
    pub fn count(&mut self, bytes: &[u8]) -> u64 {
        let mut count = 0;
        for byte in bytes {
            if *byte == b'\n' {
                *self = Self::default();
                continue;
            }
            let matched = if self.is_begun { self.matched } else { Some(0) };
            self.is_begun = true;
            self.matched = matched.filter(|at| DATA.get(*at) == Some(byte)).map(|at| at + 1);
            if self.matched == Some(DATA.len()) {
                count += 1;
                self.matched = None;
            }
        }
        count
    }
}
