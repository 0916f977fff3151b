//! A regular expression as a table, stepped through byte by byte, so that a
//! search can rest where a piece ends and needs nothing of what came before
//! but a state.
//!
//! The table is anchored: from one place it says which bytes a match that
//! begins there has. That keeps it small where one that looks for all places
//! at once can be exponentially large, as for `x.{100}`; who searches keeps
//! the states of the places that are still open. What the regex library does
//! in a search beyond a step of the table would look at a byte more than once.

use regex_automata::Anchored;
use regex_automata::dfa::dense::{self, DFA};
use regex_automata::dfa::{Automaton, StartKind};
use regex_automata::nfa::thompson;
use regex_automata::util::{start, syntax};

pub(crate) use regex_automata::util::primitives::StateID as State;

/// The automaton that a table is made from, in bytes.
const NFA_BYTES: usize = 1 << 20;
/// The table of one expression, in bytes.
const TABLE_BYTES: usize = 4 << 20;
/// What is needed while a table is made, in bytes.
const MAKING_BYTES: usize = 32 << 20;

/// An expression over bytes whose matches are never empty.
#[derive(Debug)]
pub(crate) struct Expression {
    written: String,
    table: DFA<Vec<u32>>,
    /// Where a match begins after each byte, and at the very beginning.
    starts: [State; 257],
    /// The bytes that a match can begin with.
    first: [bool; 256],
    /// Whether a match depends on what stands around it.
    looks_around: bool,
    longest: Option<usize>,
}

/// What a state says at the end of what there is, the surest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// No match ends here.
    None,
    /// One does if the right byte follows, or none.
    Depends,
    /// One does.
    Match,
}

impl Expression {
    /// # Errors
    /// When it cannot be read, can match nothing at all or where nothing is, or needs too much memory.
    pub(crate) fn new(written: &str) -> Result<Self, String> {
        let bytes = syntax::Config::new().unicode(false).utf8(false);
        let parsed = syntax::parse_with(written, &bytes)
            .map_err(|error| format!("{written:?} is not a regular expression: {error}"))?;
        let properties = parsed.properties();
        match properties.minimum_len() {
            None => return Err(format!("{written:?} can never match")),
            Some(0) => {
                return Err(format!(
                    "{written:?} matches where nothing is: let it take at least one byte, as `a+` does and `a*` does not"
                ));
            }
            Some(_) => {}
        }
        let too_large = |error: &dyn std::fmt::Display| {
            format!(
                "{written:?} cannot be used: {error}; a shorter expression or smaller repetitions need less"
            )
        };
        let nfa = thompson::Config::new()
            .utf8(false)
            .nfa_size_limit(Some(NFA_BYTES));
        let nfa = thompson::Compiler::new()
            .configure(nfa)
            .build_from_hir(&parsed)
            .map_err(|error| too_large(&error))?;
        let table = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(TABLE_BYTES))
            .determinize_size_limit(Some(MAKING_BYTES));
        let table = dense::Builder::new()
            .configure(table)
            .build_from_nfa(&nfa)
            .map_err(|error| too_large(&error))?;
        let starts = starts(&table).map_err(|error| too_large(&error))?;
        let first = std::array::from_fn(|byte| {
            let byte = u8::try_from(byte).unwrap_or_default();
            let mut after = starts.iter().map(|start| table.next_state(*start, byte));
            after.any(|state| !table.is_dead_state(state))
        });
        Ok(Self {
            written: written.to_owned(),
            table,
            starts,
            first,
            looks_around: !properties.look_set().is_empty(),
            longest: properties.maximum_len(),
        })
    }

    /// As it is in the configuration.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    /// The bytes of the longest match, if there is one.
    pub(crate) fn longest(&self) -> Option<usize> {
        self.longest
    }

    /// Whether a match can begin with this byte.
    pub(crate) fn may_begin_with(&self, byte: u8) -> bool {
        self.first[usize::from(byte)]
    }

    /// Where a match begins that stands after this byte, or at the very beginning.
    pub(crate) fn begin(&self, before: Option<u8>) -> State {
        self.starts[before.map_or(256, usize::from)]
    }

    /// One byte further. Whether a match ended before that byte is seen at the state that this gives.
    pub(crate) fn step(&self, state: State, byte: u8) -> State {
        self.table.next_state(state, byte)
    }

    /// Past the last byte of all.
    pub(crate) fn end(&self, state: State) -> State {
        self.table.next_eoi_state(state)
    }

    /// Whether a match has ended one byte before this state.
    pub(crate) fn is_match(&self, state: State) -> bool {
        self.table.is_match_state(state)
    }

    /// Whether no match can come any more.
    pub(crate) fn is_dead(&self, state: State) -> bool {
        self.table.is_dead_state(state)
    }

    /// Whether a match ends at this state, of which nothing after it is known.
    pub(crate) fn ending(&self, state: State) -> Ending {
        let is_match_at_end = self.is_match(self.end(state));
        if !self.looks_around {
            return match is_match_at_end {
                true => Ending::Match,
                false => Ending::None,
            };
        }
        let mut before_bytes = self
            .table
            .byte_classes()
            .representatives(0..=255)
            .filter_map(|unit| unit.as_u8())
            .map(|byte| self.is_match(self.step(state, byte)));
        match before_bytes.all(|is_match| is_match == is_match_at_end) {
            true if is_match_at_end => Ending::Match,
            true => Ending::None,
            false => Ending::Depends,
        }
    }
}

fn starts(table: &DFA<Vec<u32>>) -> Result<[State; 257], regex_automata::dfa::StartError> {
    let mut starts = [State::ZERO; 257];
    for (start, before) in starts.iter_mut().zip((0..=255).map(Some).chain([None])) {
        let place = start::Config::new()
            .anchored(Anchored::Yes)
            .look_behind(before);
        *start = table.start_state(&place)?;
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used() {
        for (written, part) in [
            ("(", "is not a regular expression"),
            ("", "matches where nothing is"),
            ("a*", "matches where nothing is"),
            (r"\b", "matches where nothing is"),
            ("^", "matches where nothing is"),
            ("(?:a|$)", "matches where nothing is"),
            (r"[^\s\S]", "can never match"),
            (r"(?:\w{1000}){1000}", "cannot be used"),
            (r"(?u:\b)a", "cannot be used"),
        ] {
            let error = Expression::new(written).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_long_repetitions_need_is_bounded() {
        for written in [
            r"\b(?:\d[ -]*?){13,16}\b",
            "x.{1000}",
            r"(?i)union\s+(?:all\s+)?select",
            r"(?u:é|ß)+x",
        ] {
            Expression::new(written).unwrap();
        }
    }

    #[test]
    fn endings() {
        for (written, text, ending) in [
            ("ab", "ab", Ending::Match),
            ("ab", "a", Ending::None),
            ("ab.*", "ab", Ending::Match),
            (r"ab\b", "ab", Ending::Depends),
            (r"ab\b", "a", Ending::None),
            (r"\bab", "ab", Ending::Match),
            ("ab$", "ab", Ending::Depends),
        ] {
            let expression = Expression::new(written).unwrap();
            let mut state = expression.begin(None);
            for byte in text.bytes() {
                state = expression.step(state, byte);
            }
            assert_eq!(expression.ending(state), ending, "{written}");
        }
    }
}
