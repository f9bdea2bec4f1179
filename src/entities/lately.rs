//! What a subject asked lately: no more than marks, by which what is asked again is told from what is asked once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many marks there are. What a subject asks beyond that takes the place of something else.
const MARKS: usize = 64;

/// What one subject asked lately.
#[derive(Debug)]
pub struct Lately {
    number: u64,
    marks: [AtomicU32; MARKS],
}

impl Lately {
    /// Nothing yet, of a subject that was just made. Whoever is made anew, of the same token too, has another number.
    pub(super) fn nothing() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        Self { number, marks: [const { AtomicU32::new(0) }; MARKS] }
    }

    /// Names the subject as it was made.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The mark that what has this digest leaves, if it was the last to leave it; else it is from now on.
    pub fn again(&self, digest: u64) -> Option<usize> {
        let (high, low) = (digest >> 32, digest & u64::from(u32::MAX));
        let place = usize::try_from(high).ok()?.checked_rem(MARKS)?;
        // The mark that nothing has left yet is 0.
        let mark = u32::try_from(low).ok()?.max(1);
        (self.marks.get(place)?.swap(mark, Ordering::Relaxed) == mark).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_last_in_its_place_is_known_again() {
        let lately = Lately::nothing();
        for digest in [0, 2, 7 << 32 | 5, 71 << 32 | 6, 7 << 32 | 5] {
            assert_eq!(lately.again(digest), None, "{digest:x} is asked for the first time, or after another");
            assert_eq!(lately.again(digest), usize::try_from(digest >> 32).ok().map(|it| it % MARKS), "{digest:x}");
        }
        assert_ne!(lately.number(), Lately::nothing().number());
    }
}
