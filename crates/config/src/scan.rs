//! A look at the shape of a KDL text before it is parsed: are strings, comments and braces closed, and how deep do
//! braces and comments go?
//!
//! The parser recovers from what it does not understand, which is good for a misspelled value and bad for a missing
//! brace: everything after it is then reported as wrong, and never the place where the brace is missing. It also calls
//! itself for every level, so depth must be bounded before it is called.

use crate::{
    diagnostic::{Diagnostic, code},
    source::Span,
};
use std::ops::Range;

/// Blocks in blocks. The language itself needs six; the rest is for the `config` blocks of agents.
const DEEPEST: usize = 32;

/// The first mistake in the shape of a text, if there is one.
pub(crate) fn check(source: u32, text: &str) -> Result<(), Diagnostic> {
    let mut scanner = Scanner {
        source,
        text,
        at: 0,
        open: Vec::new(),
        suspect: None,
    };
    scanner.run()
}

struct Scanner<'a> {
    source: u32,
    text: &'a str,
    at: usize,
    /// Where the blocks that are open now were opened.
    open: Vec<usize>,
    /// A block whose closing brace stands further left than the line that opened it: the likely culprit when a brace
    /// is missing at the end.
    suspect: Option<(usize, usize)>,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), Diagnostic> {
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' => self.quoted()?,
                b'#' => self.hash()?,
                b'/' if self.peek(1) == Some(b'/') => self.line_comment(),
                b'/' if self.peek(1) == Some(b'*') => self.block_comment()?,
                b'{' => self.open_brace()?,
                b'}' => self.close_brace()?,
                _ => self.at += 1,
            }
        }
        match self.open.last() {
            None => Ok(()),
            Some(&innermost) => Err(self.unclosed(innermost)),
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn starts_with(&self, what: &str) -> bool {
        self.text.as_bytes()[self.at..].starts_with(what.as_bytes())
    }

    fn error(&self, range: Range<usize>, message: &str) -> Diagnostic {
        Diagnostic::error(code::SYNTAX, Span::new(self.source, range), message)
    }

    fn quoted(&mut self) -> Result<(), Diagnostic> {
        let start = self.at;
        let quotes = if self.starts_with("\"\"\"") {
            "\"\"\""
        } else {
            "\""
        };
        self.at += quotes.len();
        loop {
            match self.peek(0) {
                None => return Err(self.unclosed_string(start, quotes)),
                Some(b'\n') if quotes.len() == 1 => return Err(self.unclosed_string(start, quotes)),
                Some(b'\\') => self.skip_escape(),
                Some(b'"') if self.starts_with(quotes) => {
                    self.at += quotes.len();
                    return Ok(());
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// A backslash takes the next character with it, or all the white space that follows, line breaks included.
    fn skip_escape(&mut self) {
        self.at += 1;
        let rest = &self.text[self.at..];
        let blank = rest.len() - rest.trim_start().len();
        self.at += if blank > 0 {
            blank
        } else {
            rest.chars().next().map_or(0, char::len_utf8)
        };
    }

    fn unclosed_string(&self, start: usize, quotes: &str) -> Diagnostic {
        let end = memchr::memchr(b'\n', &self.text.as_bytes()[start..])
            .map_or(self.text.len(), |at| start + at);
        let help = if quotes.len() == 1 {
            "add the closing quotation mark; text of several lines is written between \"\"\" and \"\"\""
        } else {
            "add the closing \"\"\", on a line of its own"
        };
        self.error(start..end, "this text has no end")
            .label("begins here")
            .help(help)
    }

    /// A raw string, or a keyword such as `#true`.
    fn hash(&mut self) -> Result<(), Diagnostic> {
        let start = self.at;
        let hashes = self.text.as_bytes()[start..]
            .iter()
            .take_while(|byte| **byte == b'#')
            .count();
        self.at += hashes;
        if self.peek(0) != Some(b'"') {
            return Ok(());
        }
        let quotes = if self.starts_with("\"\"\"") { 3 } else { 1 };
        self.at += quotes;
        let end = format!("{}{}", "\"".repeat(quotes), "#".repeat(hashes));
        let rest = &self.text[self.at..];
        // A raw string of one line ends at the line's end whether it is closed or not.
        let body = if quotes == 1 {
            rest.split('\n').next().unwrap_or(rest)
        } else {
            rest
        };
        match memchr::memmem::find(body.as_bytes(), end.as_bytes()) {
            Some(length) => {
                self.at += length + end.len();
                Ok(())
            }
            None => {
                let line_end = rest.find('\n').map_or(self.text.len(), |at| self.at + at);
                Err(self
                    .error(start..line_end, "this raw text has no end")
                    .label("begins here")
                    .help(format!("close it with {end}")))
            }
        }
    }

    fn line_comment(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
    }

    fn block_comment(&mut self) -> Result<(), Diagnostic> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                    if depth > DEEPEST {
                        return Err(self
                            .error(self.at - 2..self.at, "comments are nested too deeply")
                            .help(format!("{DEEPEST} levels are the most")));
                    }
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => {
                    return Err(self
                        .error(start..start + 2, "this comment has no end")
                        .label("begins here")
                        .help("close it with */"));
                }
            }
        }
    }

    fn open_brace(&mut self) -> Result<(), Diagnostic> {
        if self.open.len() == DEEPEST {
            return Err(self
                .error(self.at..self.at + 1, "blocks are nested too deeply")
                .help(format!("{DEEPEST} levels are the most")));
        }
        self.open.push(self.at);
        self.at += 1;
        Ok(())
    }

    fn close_brace(&mut self) -> Result<(), Diagnostic> {
        let Some(opened) = self.open.pop() else {
            return Err(self
                .error(self.at..self.at + 1, "this brace closes nothing")
                .label("no block is open here")
                .help("remove it, or look for a block before it that is closed too early"));
        };
        if self.suspect.is_none()
            && self.begins_line(self.at)
            && self.indentation(self.at) < self.indentation(opened)
        {
            self.suspect = Some((opened, self.at));
        }
        self.at += 1;
        Ok(())
    }

    fn line_start(&self, at: usize) -> usize {
        memchr::memrchr(b'\n', &self.text.as_bytes()[..at]).map_or(0, |newline| newline + 1)
    }

    fn begins_line(&self, at: usize) -> bool {
        self.text[self.line_start(at)..at].trim().is_empty()
    }

    fn indentation(&self, at: usize) -> usize {
        let line = &self.text[self.line_start(at)..];
        line.len() - line.trim_start_matches([' ', '\t']).len()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Option<(String, u32)> {
        check(0, text)
            .err()
            .map(|found| (found.message, found.labels[0].span.start))
    }

    #[test]
    fn texts_of_good_shape_pass() {
        for text in [
            "",
            "a { b \"}\" }",
            "a // }\nb",
            "a /* } /* } */ } */ { }",
            "a #\"}\"# { b ##\"x\"# \"## }",
            "a \"\"\"\n } \\\"\"\" \n\"\"\"",
            "a #\"\"\"\n } \n\"\"\"# #true",
            "a \"x \\\n   y\"",
            "a \"\\\"\" { }",
            "a/-{ }",
        ] {
            assert_eq!(first(text), None, "{text}");
        }
    }

    #[test]
    fn the_place_of_a_wrong_shape_is_found() {
        for (text, message, start) in [
            ("a {", "a closing brace is missing", 2),
            ("a }", "this brace closes nothing", 2),
            ("a {\n  b {\n}\nc\n", "a closing brace is missing", 8),
            ("a \"x\nb", "this text has no end", 2),
            ("a \"\"\"\nb", "this text has no end", 2),
            ("a #\"x\"\nb \"#", "this raw text has no end", 2),
            ("a /* b", "this comment has no end", 2),
            ("a \"\\", "this text has no end", 2),
        ] {
            assert_eq!(first(text), Some((message.to_owned(), start)), "{text}");
        }
        assert_eq!(
            first(&"a { ".repeat(33))
                .map(|(message, _)| message)
                .as_deref(),
            Some("blocks are nested too deeply")
        );
        assert_eq!(
            first(&"/*".repeat(33))
                .map(|(message, _)| message)
                .as_deref(),
            Some("comments are nested too deeply")
        );
    }
}
