//! Puts other texts in the place of matches, in a body that comes in pieces.
//!
//! Whether there is a match at a place depends on one byte before it and on
//! `max-match` bytes from it on. As soon as these are here it is decided; so
//! much is held back at most. The result is the same however the body is cut
//! into pieces.

use super::rules::Redaction;

/// What is held back of a body.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    held: Vec<u8>,
    /// The first byte held was decided on already, and only stands before the rest.
    has_past: bool,
}

impl Redactor {
    /// Takes the next piece and returns what may pass.
    pub(super) fn pass(
        &mut self,
        redactions: &[Redaction],
        max_match: usize,
        piece: &[u8],
        is_last: bool,
    ) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let text = std::mem::take(&mut self.held);
        let mut at = usize::from(self.has_past).min(text.len());
        let mut out = Vec::with_capacity(text.len());
        // Places before this one can be decided.
        let decidable = match is_last {
            true => text.len(),
            false => text.len().saturating_sub(max_match),
        };
        while at < text.len() {
            let next = redactions
                .iter()
                .filter_map(|redaction| Some(redaction.regex.find_at(&text, at)?.start()))
                .min();
            let Some(start) = next.filter(|start| *start < decidable) else {
                let to = decidable.max(at);
                out.extend_from_slice(&text[at..to]);
                at = to;
                break;
            };
            out.extend_from_slice(&text[at..start]);
            // What is longer counts as far as it is looked at.
            let window = &text[..text.len().min(start + max_match)];
            let found = redactions.iter().find_map(|redaction| {
                let found = redaction.regex.find_at(window, start)?;
                (found.start() == start).then(|| (found.end(), redaction))
            });
            if let Some((end, redaction)) = found {
                out.extend_from_slice(redaction.with.as_bytes());
                at = end;
            } else {
                out.push(text[start]);
                at = start + 1;
            }
        }
        if !is_last {
            self.has_past = at > 0;
            self.held = text[at.saturating_sub(1)..].to_vec();
        }
        out
    }
}
