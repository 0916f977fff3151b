//! Finds texts in a body that comes in pieces.

use super::rules::Pattern;

/// The end of what was seen, in which something may have begun.
#[derive(Debug, Default)]
pub(super) struct Finder {
    tail: Vec<u8>,
    /// The tail is not the beginning of the body; its first byte is only looked at as what stands before a match.
    has_past: bool,
}

impl Finder {
    /// Looks at the next piece. Returns the name of the pattern that was found; what is longer than `max_match` may be
    /// missed.
    pub(super) fn find<'a>(
        &mut self,
        patterns: &'a [Pattern],
        max_match: usize,
        piece: &[u8],
        is_last: bool,
    ) -> Option<&'a str> {
        if patterns.is_empty() {
            return None;
        }
        self.tail.extend_from_slice(piece);
        let start = usize::from(self.has_past);
        let text = &self.tail;
        // What ends where the text ends so far may look different when there is more.
        let is_sure = |end: usize| is_last || end < text.len();
        let found = patterns.iter().find(|pattern| {
            start <= text.len()
                && pattern
                    .regex
                    .find_at(text, start)
                    .is_some_and(|found| is_sure(found.end()))
        });
        let found = found.map(|pattern| pattern.written.as_str());
        let kept = max_match + 1;
        if self.tail.len() > kept {
            self.tail.drain(..self.tail.len() - kept);
            self.has_past = true;
        }
        found
    }
}
