//! Puts other texts in the place of matches, in a body that comes in pieces.
//!
//! Places are decided one after the other: whether there is a match at a place
//! is known when the table of the expression says that none can come, or when
//! the search from there has come to its limit. Until then the place and what
//! follows it are held back. The first match counts, and the search goes on
//! behind it.
//!
//! The limit is the same for places that are near to each other: a body is
//! thought of as cut into windows of one size, and the search for a match that
//! begins in one ends with the next one. So what fits into a window is always
//! found, at most two windows are held back, and nothing depends on the pieces.
//!
//! A search that comes to nothing would be made again from the next place, in
//! vain: `<script.*?</script>` would read the same bytes once for each
//! `<script`. Hence it is kept at some places in which states nothing was found
//! until the limit. A search that comes to such a place in such a state ends
//! there.

use std::collections::HashSet;

use super::super::content::{Expression, State};

/// A state is kept at every so many bytes; a search in vain goes on for at most so much before it is known to be.
const KEEP_EVERY: u64 = 16;

/// What is put in the place of what.
#[derive(Debug)]
pub(super) struct Redaction {
    pub(super) expression: Expression,
    pub(super) with: String,
}

/// All of a direction; of two that match at one place the first counts.
#[derive(Debug, Default)]
pub(super) struct Redactions {
    list: Vec<Redaction>,
    /// Bytes.
    window: usize,
    first: Vec<bool>,
}

/// What is held back of a body.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    /// Begins with the place that is not decided.
    held: Vec<u8>,
    /// Where in the body that is.
    place: u64,
    /// The byte before it.
    before: Option<u8>,
    search: Option<Search>,
    vain: Vain,
    looked: u64,
}

/// A search for a match of one expression at one place.
#[derive(Debug)]
struct Search {
    redaction: usize,
    /// The byte that is looked at next.
    at: u64,
    state: State,
    /// Where the best match so far ends.
    end: Option<u64>,
    /// Where it was in which state since then.
    trace: Vec<Kept>,
}

/// How many bytes before the limit it was, and in which state.
type Kept = (u32, State);

/// States from which there is nothing until the limit.
#[derive(Debug, Default)]
struct Vain {
    limit: u64,
    /// With the redaction whose state it is.
    states: HashSet<(u32, Kept)>,
}

/// What there is at a place.
enum Found {
    Nothing,
    /// Up to here, to be replaced by what this redaction says.
    Match(u64, usize),
    /// More of the body has to come first.
    Unknown,
}

impl Redactions {
    /// Matches of up to `max_match` bytes are found whole.
    pub(super) fn new(list: Vec<Redaction>, max_match: usize) -> Self {
        let longest = |redaction: &Redaction| redaction.expression.longest().unwrap_or(max_match);
        let longest = list.iter().map(longest).max().unwrap_or_default();
        let begins = |byte| {
            let mut expressions = list.iter().map(|redaction| &redaction.expression);
            expressions.any(|expression| expression.may_begin_with(byte))
        };
        Self {
            first: (0..=255).map(begins).collect(),
            window: longest.clamp(1, max_match),
            list,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn may_begin_with(&self, byte: u8) -> bool {
        self.first[usize::from(byte)]
    }

    /// Where the search for a match ends that begins here: with the next window.
    fn limit(&self, place: u64) -> u64 {
        let window = self.window as u64;
        (place / window).saturating_add(2).saturating_mul(window)
    }

    /// The most that is held of a body: two windows, and what stands behind a match.
    pub(super) fn most_held(&self) -> usize {
        2 * self.window + 1
    }

    /// States that are kept at most, so that what is kept of a body is about as large as what is held of it.
    fn most_kept(&self) -> usize {
        self.window / 4 + 16
    }
}

impl Redactor {
    /// Takes the next piece and returns what may pass.
    pub(super) fn pass(&mut self, redactions: &Redactions, piece: &[u8], is_last: bool) -> Vec<u8> {
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(piece);
        let start = self.place;
        let mut out = Vec::with_capacity(piece.len());
        let mut at = 0;
        while at < text.len() {
            if self.search.is_none() {
                let rest = &text[at..];
                let begins = |byte: &u8| redactions.may_begin_with(*byte);
                let skipped = rest.iter().position(begins).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..skipped]);
                at += skipped;
                if at == text.len() {
                    break;
                }
            }
            self.place = start + at as u64;
            let before = at
                .checked_sub(1)
                .map_or(self.before, |last| text.get(last).copied());
            match self.find(redactions, &text[at..], before, is_last) {
                Found::Unknown => break,
                Found::Nothing => {
                    out.push(text[at]);
                    at += 1;
                }
                Found::Match(end, redaction) => {
                    let with = redactions.list.get(redaction).map(|found| &found.with);
                    out.extend_from_slice(with.map_or(&[], String::as_bytes));
                    at += usize::try_from(end - self.place).unwrap_or(text.len());
                }
            }
            self.search = None;
        }
        self.keep(text, at, redactions.most_held());
        self.place = start + at as u64;
        out
    }

    /// Keeps what is not decided, in no more memory than it needs.
    fn keep(&mut self, mut text: Vec<u8>, decided: usize, most: usize) {
        if let Some(last) = decided.checked_sub(1) {
            self.before = text.get(last).copied();
            text.drain(..decided);
        }
        if text.capacity() > most {
            text.shrink_to(most);
        }
        self.held = text;
    }

    /// What there is at the place that is not decided, with which the text begins.
    fn find(
        &mut self,
        redactions: &Redactions,
        text: &[u8],
        before: Option<u8>,
        is_last: bool,
    ) -> Found {
        let limit = redactions.limit(self.place);
        if self.vain.limit != limit {
            self.vain = Vain {
                limit,
                ..Vain::default()
            };
        }
        let first = self.search.as_ref().map_or(0, |search| search.redaction);
        for (redaction, Redaction { expression, .. }) in
            redactions.list.iter().enumerate().skip(first)
        {
            let search = match self.search.take() {
                Some(search) => search,
                None if !expression.may_begin_with(text[0]) => continue,
                None => Search {
                    redaction,
                    at: self.place,
                    state: expression.begin(before),
                    end: None,
                    trace: Vec::new(),
                },
            };
            let search = self.search.insert(search);
            let from = search.at - self.place;
            let rest = text.get(usize::try_from(from).unwrap_or(usize::MAX)..);
            let rest = rest.unwrap_or_default();
            let is_over = search.go_on(expression, rest, &self.vain, &mut self.looked);
            if !is_over {
                if !is_last {
                    return Found::Unknown;
                }
                search.finish(expression);
            }
            self.vain
                .keep(redaction, &mut search.trace, redactions.most_kept());
            if let Some(end) = search.end {
                return Found::Match(end, redaction);
            }
            self.search = None;
        }
        Found::Nothing
    }

    /// Steps through tables so far: the measure of the work.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests bound the work by it"))]
    pub(super) fn looked(&self) -> u64 {
        self.looked
    }

    /// Bytes that are kept between pieces.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests bound the memory by it"))]
    pub(super) fn memory(&self) -> usize {
        let trace = self
            .search
            .as_ref()
            .map_or(0, |search| search.trace.capacity());
        self.held.capacity()
            + trace * size_of::<Kept>()
            + self.vain.states.capacity() * size_of::<(u32, Kept)>()
    }
}

impl Search {
    /// Whether it has come to an end with these bytes.
    fn go_on(
        &mut self,
        expression: &Expression,
        bytes: &[u8],
        vain: &Vain,
        looked: &mut u64,
    ) -> bool {
        for byte in bytes {
            if self.at.is_multiple_of(KEEP_EVERY) {
                let kept = (vain.left(self.at), self.state);
                if vain.states.contains(&(number(self.redaction), kept)) {
                    return true;
                }
                self.trace.push(kept);
            }
            *looked += 1;
            self.state = expression.step(self.state, *byte);
            self.note_end(expression);
            // What stands at the limit is looked at, but belongs to no match.
            if expression.is_dead(self.state) || self.at >= vain.limit {
                return true;
            }
            self.at += 1;
        }
        false
    }

    /// Nothing comes any more.
    fn finish(&mut self, expression: &Expression) {
        self.state = expression.end(self.state);
        self.note_end(expression);
    }

    fn note_end(&mut self, expression: &Expression) {
        if expression.is_match(self.state) {
            self.end = Some(self.at);
            self.trace.clear();
        }
    }
}

impl Vain {
    /// How far it is to the limit.
    fn left(&self, at: u64) -> u32 {
        u32::try_from(self.limit.saturating_sub(at)).unwrap_or(u32::MAX)
    }

    fn keep(&mut self, redaction: usize, trace: &mut Vec<Kept>, most: usize) {
        let room = most.saturating_sub(self.states.len());
        let states = trace.drain(..).take(room);
        self.states
            .extend(states.map(|kept| (number(redaction), kept)));
    }
}

/// There are never so many that it does not fit.
fn number(redaction: usize) -> u32 {
    u32::try_from(redaction).unwrap_or(u32::MAX)
}
