//! Braces, and the pieces between them.

use super::{DEEPEST, DEEPEST_DASHED, Piece, Scanner, Token};
use crate::{
    diagnostic::{Diagnostic, code},
    source::Span,
};
use std::ops::Range;

/// A block that is not closed yet.
pub(super) struct Open {
    brace: usize,
    /// It is commented out.
    dashed: bool,
    /// The name, if what it holds becomes pieces of its own.
    list: Option<Range<usize>>,
}

impl Scanner<'_> {
    pub(super) fn open_brace(&mut self) -> Result<(), Diagnostic> {
        let brace = self.at..self.at + 1;
        if self.open.len() == DEEPEST {
            return Err(self
                .error(brace, "blocks are nested too deeply")
                .help(format!("{DEEPEST} levels are the most")));
        }
        let is_wrong = matches!(self.before, Token::Break | Token::Equals)
            || self.before == Token::Block && !self.dashed;
        if is_wrong {
            self.add(
                self.error(brace, "this block belongs to nothing")
                    .help("write a name before it, on the same line"),
            );
        }
        let dashed = std::mem::take(&mut self.dashed);
        if dashed && self.open.iter().filter(|open| open.dashed).count() >= DEEPEST_DASHED {
            return Err(self
                .error(
                    self.at..self.at + 1,
                    "too many blocks in each other are commented out",
                )
                .help(format!(
                    "{DEEPEST_DASHED} levels are the most; remove what is not needed"
                )));
        }
        let name = std::mem::take(&mut self.statement);
        let is_list = self.open.is_empty()
            && !name.is_empty()
            && self.lists.contains(&&self.text[name.clone()]);
        self.open.push(Open {
            brace: self.at,
            dashed,
            list: is_list.then_some(name),
        });
        self.at += 1;
        if is_list {
            // The name and the brace are no piece; what follows is.
            self.piece_start = self.at;
        }
        self.token(Token::Break);
        Ok(())
    }

    pub(super) fn close_brace(&mut self) -> Result<(), Diagnostic> {
        if self.open.is_empty() {
            return Err(self
                .error(self.at..self.at + 1, "this brace closes nothing")
                .label("no block is open here")
                .help("remove it, or look for a block before it that is closed too early"));
        }
        self.cut();
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        if self.suspect.is_none()
            && self.begins_line(self.at)
            && self.indentation(self.at) < self.indentation(open.brace)
        {
            self.suspect = Some((open.brace, self.at));
        }
        self.at += 1;
        if open.list.is_some() {
            self.piece_start = self.at;
        }
        self.dashed = false;
        self.statement = 0..0;
        // After a block that is commented out the real one may follow.
        self.token(if open.dashed {
            Token::Value
        } else {
            Token::Block
        });
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), Diagnostic> {
        if let Some(innermost) = self.open.last() {
            return Err(self.unclosed(innermost.brace));
        }
        self.cut();
        Ok(())
    }

    /// Ends a piece here, if this is a place between two nodes of the top or of a list.
    pub(super) fn cut(&mut self) {
        let list = match self.open.as_slice() {
            [] => None,
            [
                Open {
                    list: Some(name), ..
                },
            ] => Some(name.clone()),
            _ => return,
        };
        let range = self.piece_start..self.at;
        self.piece_start = self.at;
        if !self.text[range.clone()].trim().is_empty() {
            self.shape.pieces.push(Piece { range, list });
        }
    }

    /// Only white space stands before it in its line.
    fn begins_line(&self, at: usize) -> bool {
        let before = self.text[..at].trim_end_matches([' ', '\t']);
        before.is_empty() || before.ends_with('\n')
    }

    fn indentation(&self, at: usize) -> usize {
        let start =
            memchr::memrchr(b'\n', &self.text.as_bytes()[..at]).map_or(0, |newline| newline + 1);
        self.text[start..].len() - self.text[start..].trim_start_matches([' ', '\t']).len()
    }

    fn unclosed(&self, innermost: usize) -> Diagnostic {
        let brace = |at: usize| Span::new(self.source, at..at + 1);
        let message = "a closing brace is missing";
        let help = "add } where the block ends";
        match self.suspect {
            Some((opened, closed)) => Diagnostic::error(code::SYNTAX, brace(opened), message)
                .label("probably of this block")
                .also(
                    brace(closed),
                    "which is closed here, where the indentation says that an outer block ends",
                )
                .help(help),
            None => Diagnostic::error(code::SYNTAX, brace(innermost), message)
                .label("of this block")
                .help(help),
        }
    }
}
