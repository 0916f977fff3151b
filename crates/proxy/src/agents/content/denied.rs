//! What contents must not hold, and the search for it.
//!
//! Every byte is looked at once, whatever the pieces are. Between pieces a
//! search keeps states and no text: one of the automaton of all texts, and for
//! each expression those of the places where a match may have begun. Two
//! places in one state have one future, so there are never more states than
//! the expression's table has, and mostly none or one.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use super::expression::{Ending, Expression, State};

/// The longest text that can be denied, in bytes.
const MOST_TEXT_BYTES: usize = 64 << 10;

/// Texts and expressions.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    texts: Vec<String>,
    automaton: Option<(NFA, StateID)>,
    expressions: Vec<Expression>,
}

/// A search under way.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// In the texts; `None` before the first byte.
    text: Option<StateID>,
    /// In each expression.
    open: Vec<Vec<State>>,
    before: Option<u8>,
    looked: u64,
}

/// What is known after a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// Nothing has been found up to here.
    Nothing,
    /// Whether something ends here depends on what follows; the last byte must not be passed on before that is known.
    Depends,
    /// This has been found, as it is in the configuration.
    Denied(&'a str),
}

impl Denied {
    /// # Errors
    /// What is wrong with a text, or with an expression.
    pub(crate) fn new(
        texts: Vec<String>,
        ignore_case: bool,
        expressions: &[String],
    ) -> Result<Self, String> {
        let allowed = 1..=MOST_TEXT_BYTES;
        if let Some(text) = texts.iter().find(|text| !allowed.contains(&text.len())) {
            let start: String = text.chars().take(32).collect();
            return Err(format!(
                "deny: {start:?} has to have 1 to {MOST_TEXT_BYTES} bytes"
            ));
        }
        if ignore_case && texts.is_empty() {
            return Err(
                "ignore-case: there is no `deny` that it is for; in an expression write `(?i)`"
                    .to_owned(),
            );
        }
        let automaton = match texts.is_empty() {
            true => None,
            false => {
                Some(automaton(&texts, ignore_case).map_err(|error| format!("deny: {error}"))?)
            }
        };
        let expressions = expressions
            .iter()
            .map(|written| Expression::new(written))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("deny-regex: {error}"))?;
        Ok(Self {
            texts,
            automaton,
            expressions,
        })
    }
}

fn automaton(
    texts: &[String],
    ignore_case: bool,
) -> Result<(NFA, StateID), Box<dyn std::error::Error>> {
    let automaton = NFA::builder()
        .match_kind(MatchKind::Standard)
        .ascii_case_insensitive(ignore_case)
        .build(texts)?;
    let start = automaton.start_state(Anchored::No)?;
    Ok((automaton, start))
}

impl Search {
    /// Looks at the next piece; after the last one nothing depends on anything. What is denied is always the same, and
    /// is told with the piece that has its last byte, or is `Depends` with that piece.
    pub(crate) fn look<'a>(&mut self, denied: &'a Denied, piece: &[u8], is_last: bool) -> Seen<'a> {
        if let Some(text) = self.look_for_texts(denied, piece) {
            return Seen::Denied(text);
        }
        self.open.resize_with(denied.expressions.len(), Vec::new);
        let mut seen = Seen::Nothing;
        for (expression, open) in denied.expressions.iter().zip(&mut self.open) {
            let ending = look_for(expression, open, self.before, piece, &mut self.looked);
            let is_match = match ending {
                Ending::Match => true,
                Ending::Depends | Ending::None if is_last => open
                    .iter()
                    .any(|state| expression.is_match(expression.end(*state))),
                Ending::Depends => {
                    seen = Seen::Depends;
                    false
                }
                Ending::None => false,
            };
            if is_match {
                return Seen::Denied(expression.written());
            }
        }
        self.before = piece.last().copied().or(self.before);
        seen
    }

    fn look_for_texts<'a>(&mut self, denied: &'a Denied, piece: &[u8]) -> Option<&'a str> {
        let (automaton, start) = denied.automaton.as_ref()?;
        let mut state = self.text.unwrap_or(*start);
        self.looked += piece.len() as u64;
        for byte in piece {
            state = automaton.next_state(Anchored::No, state, *byte);
            if automaton.is_match(state) {
                let found = automaton.match_pattern(state, 0).as_usize();
                return denied.texts.get(found).map(String::as_str);
            }
        }
        self.text = Some(state);
        None
    }

    /// Steps through tables so far: the measure of the work.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests bound the work by it"))]
    pub(crate) fn looked(&self) -> u64 {
        self.looked
    }

    /// Bytes that are kept between pieces.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests bound the memory by it"))]
    pub(crate) fn memory(&self) -> usize {
        let open = self.open.iter().map(Vec::capacity).sum::<usize>();
        size_of::<Self>() + open * size_of::<State>()
    }
}

/// What a piece ends with. A match inside it is one at its end, for it is denied all the same.
fn look_for(
    expression: &Expression,
    open: &mut Vec<State>,
    mut before: Option<u8>,
    piece: &[u8],
    looked: &mut u64,
) -> Ending {
    for byte in piece {
        if expression.may_begin_with(*byte) {
            open.push(expression.begin(before));
        }
        before = Some(*byte);
        if open.is_empty() {
            continue;
        }
        *looked += open.len() as u64;
        let mut is_match = false;
        open.retain_mut(|state| {
            *state = expression.step(*state, *byte);
            is_match |= expression.is_match(*state);
            !expression.is_dead(*state)
        });
        if is_match {
            return Ending::Match;
        }
        if open.len() > 1 {
            open.sort_unstable();
            open.dedup();
        }
    }
    let endings = open.iter().map(|state| expression.ending(*state));
    endings.max().unwrap_or(Ending::None)
}
