//! A look at a KDL text before it is parsed: the mistakes that people make with quotation marks, braces and
//! semicolons, each at its place; and where the text can be cut into pieces.
//!
//! The parser recovers from what it does not understand, which is good for a misspelled number and bad for a missing
//! brace: everything after it is then reported as wrong, and never the place where the brace is missing. It calls
//! itself for every level of blocks and for every mistake, so both must be few before it is called. And its tree takes
//! fifty times the room of the text. So this scanner, which knows just enough of the language to tell words, strings,
//! comments and braces apart, objects to what it can see is wrong, and cuts the rest at the ends of nodes: a route at a
//! time is parsed, read and forgotten, and a mistake in one does not hide those in the next.

mod block;
mod string;
mod word;

use crate::{
    diagnostic::{Code, Diagnostic, code},
    source::Span,
};
use block::Open;
use std::ops::Range;

/// Blocks in blocks. The language itself needs six; the rest is for the `config` blocks of agents.
const DEEPEST: usize = 32;
/// Blocks that are commented out inside each other. The parser reads each twice, so the time doubles with each.
const DEEPEST_DASHED: usize = 4;
/// After this many mistakes of one text the rest is probably the same mistake.
const MOST_MISTAKES: usize = 100;

/// What the text looks like from afar.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// What is wrong; if there is anything, the pieces are not for parsing.
    pub(crate) mistakes: Vec<Diagnostic>,
    /// There were so many of them that the rest was not looked at.
    pub(crate) cut_short: bool,
    /// The text without the braces around its lists, cut between nodes.
    pub(crate) pieces: Vec<Piece>,
}

/// A part of the text that is a document by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) range: Range<usize>,
    /// The name of the block that it was cut out of. None: it stood at the top.
    pub(crate) list: Option<Range<usize>>,
}

/// Looks at a text. Blocks at the top that have one of the names in `lists`, and nothing but their name, are cut
/// into what they hold.
///
/// A string, comment or block without an end is the last mistake, because what follows it cannot be understood.
pub(crate) fn scan(source: u32, text: &str, lists: &[&str]) -> Shape {
    let mut scanner = Scanner {
        source,
        text,
        lists,
        at: 0,
        before: Token::Break,
        token_end: 0,
        continued: false,
        dashed: false,
        statement: 0..0,
        open: Vec::new(),
        suspect: None,
        piece_start: 0,
        shape: Shape::default(),
    };
    if let Err(last) = scanner.run() {
        scanner.shape.mistakes.push(last);
    }
    scanner.shape
}

/// What came before the place where the scanner is, without spaces and comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// A line break, a semicolon, an opening brace, or the beginning.
    Break,
    /// A word or a string.
    Value,
    Equals,
    /// A closing brace.
    Block,
    /// `/-`, which comments out what follows.
    Dash,
}

struct Scanner<'a> {
    source: u32,
    text: &'a str,
    lists: &'a [&'a str],
    at: usize,
    before: Token,
    token_end: usize,
    /// A backslash has joined this line and the next.
    continued: bool,
    /// Part of this statement is commented out.
    dashed: bool,
    /// The first word of this statement as long as it is the only thing in it, else empty.
    statement: Range<usize>,
    open: Vec<Open>,
    /// A block whose closing brace stands further left than the line that opened it: the likely culprit when a brace
    /// is missing at the end.
    suspect: Option<(usize, usize)>,
    piece_start: usize,
    shape: Shape,
}

impl Scanner<'_> {
    fn run(&mut self) -> Result<(), Diagnostic> {
        self.forbidden_characters();
        while let Some(byte) = self.peek(0) {
            if self.shape.mistakes.len() >= MOST_MISTAKES {
                self.shape.cut_short = true;
                return Ok(());
            }
            match byte {
                b'"' => self.value(Self::quoted)?,
                b'#' => self.value(Self::hash)?,
                b'/' if self.peek(1) == Some(b'/') => self.at = self.line_end(self.at),
                b'/' if self.peek(1) == Some(b'*') => self.block_comment()?,
                b'/' if self.peek(1) == Some(b'-') => self.dash(),
                b'{' => self.open_brace()?,
                b'}' => self.close_brace()?,
                b' ' | b'\t' => self.at += 1,
                b'\n' => self.line_break(1),
                b'\r' if self.peek(1) == Some(b'\n') => self.line_break(2),
                b';' => {
                    self.at += 1;
                    self.statement_end();
                }
                b'=' => self.equals(),
                b'(' | b')' => self.annotation(),
                b'\\' => self.backslash(),
                _ => self.word_or_space()?,
            }
        }
        self.end()
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn starts_with(&self, what: &str) -> bool {
        self.text.as_bytes()[self.at..].starts_with(what.as_bytes())
    }

    fn line_end(&self, at: usize) -> usize {
        self.text[at..]
            .find(word::is_line_break)
            .map_or(self.text.len(), |length| at + length)
    }

    fn error(&self, range: Range<usize>, message: impl Into<String>) -> Diagnostic {
        self.mistake(code::SYNTAX, range, message)
    }

    fn mistake(&self, code: Code, range: Range<usize>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(code, Span::new(self.source, range), message)
    }

    fn add(&mut self, diagnostic: Diagnostic) {
        self.shape.mistakes.push(diagnostic);
    }

    /// Control characters and those that change the direction of writing, so that a text says what it seems to say.
    fn forbidden_characters(&mut self) {
        let forbidden = |&(at, c): &(usize, char)| match c {
            '\u{0}'..='\u{8}' | '\u{e}'..='\u{1f}' | '\u{7f}' => true,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
            '\u{feff}' => at > 0,
            _ => false,
        };
        if let Some((at, c)) = self.text.char_indices().find(forbidden) {
            let message = format!(
                "the character U+{:04X} is not allowed in a configuration",
                u32::from(c)
            );
            let help = format!(
                "remove it, or write \\u{{{:x}}} inside quotation marks",
                u32::from(c)
            );
            self.add(
                self.error(at..at + c.len_utf8(), message)
                    .label("it cannot be seen")
                    .help(help),
            );
        }
    }

    /// A word or a string, and what may stand before it.
    fn value(&mut self, read: fn(&mut Self) -> Result<(), Diagnostic>) -> Result<(), Diagnostic> {
        let start = self.at;
        let (before, touches) = (self.before, self.token_end == start && start > 0);
        read(self)?;
        match before {
            Token::Value if touches => self.add(
                self.error(
                    start..self.at,
                    "there is no space between this and what stands before it",
                )
                .help("put a space before it"),
            ),
            Token::Block => self.add(
                self.error(
                    start..self.at,
                    "there is no semicolon between this and the block before it",
                )
                .help("put a `;` or a line break before it"),
            ),
            _ => {}
        }
        self.statement = if before == Token::Break && !self.dashed {
            start..self.at
        } else {
            0..0
        };
        self.token(Token::Value);
        Ok(())
    }

    fn token(&mut self, token: Token) {
        self.before = token;
        self.token_end = self.at;
    }

    fn word_or_space(&mut self) -> Result<(), Diagnostic> {
        match self.text[self.at..].chars().next() {
            Some(c) if word::is_line_break(c) => self.line_break(c.len_utf8()),
            Some(c) if c.is_whitespace() => self.at += c.len_utf8(),
            _ => return self.value(Self::word),
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), Diagnostic> {
        let start = self.at;
        self.at += word::length(&self.text[start..]);
        if let Some(wrong) = word::check(&self.text[start..self.at]) {
            self.add(self.error(start..self.at, wrong.message).help(wrong.help));
        }
        Ok(())
    }

    fn equals(&mut self) {
        let start = self.at;
        self.at += 1;
        let rest = self.text[self.at..].trim_start_matches([' ', '\t']);
        let problem = if self.before != Token::Value {
            "there is no name before this `=`"
        } else if rest.is_empty() || rest.starts_with([';', '{', '}', '\n', '\r', '=', ')']) {
            "there is no value after this `=`"
        } else {
            self.statement = 0..0;
            self.token(Token::Equals);
            return;
        };
        self.add(
            self.error(start..self.at, problem)
                .help("a property is written name=\"value\""),
        );
        self.token(Token::Equals);
    }

    /// Valid KDL, but nothing here has a use for it.
    fn annotation(&mut self) {
        let start = self.at;
        let rest = &self.text[start..self.line_end(start)];
        let length = rest.find([')', '{', '}', ';', '"']).map_or(1, |at| {
            if rest[at..].starts_with(')') {
                at + 1
            } else {
                1
            }
        });
        self.at += length;
        self.add(
            self.mistake(
                code::UNEXPECTED,
                start..self.at,
                "type annotations have no meaning here",
            )
            .help("remove it together with its parentheses, or put the text into quotation marks"),
        );
        // What follows may touch it.
        self.token_end = start;
    }

    fn dash(&mut self) {
        let start = self.at;
        self.at += 2;
        if self.before == Token::Dash {
            self.add(
                self.error(start..self.at, "this `/-` comments out another `/-`")
                    .help("one of them is enough"),
            );
        }
        self.dashed = true;
        self.statement = 0..0;
        self.token(Token::Dash);
    }

    /// Outside a string it joins a line with the next.
    fn backslash(&mut self) {
        let start = self.at;
        self.at += 1;
        let rest = self.text[self.at..self.line_end(self.at)].trim_start();
        if rest.is_empty() || rest.starts_with("//") || rest.starts_with("/*") {
            self.continued = true;
            return;
        }
        self.add(
            self.error(
                start..self.at,
                "a backslash outside quotation marks joins two lines",
            )
            .help("put the text into quotation marks, or end the line after the backslash"),
        );
    }

    fn line_break(&mut self, length: usize) {
        self.at += length;
        if std::mem::take(&mut self.continued) {
            return;
        }
        // `/-` reaches over line breaks.
        if self.before != Token::Dash {
            self.statement_end();
        }
    }

    fn statement_end(&mut self) {
        if self.before == Token::Equals {
            // Reported where the sign is.
            self.before = Token::Break;
        }
        self.cut();
        self.dashed = false;
        self.statement = 0..0;
        self.token(Token::Break);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, u32)> {
        let shape = scan(0, text, &[]);
        shape
            .mistakes
            .into_iter()
            .map(|found| (found.message, found.labels[0].span.start))
            .collect()
    }

    #[test]
    fn texts_of_good_shape_pass() {
        for text in [
            "",
            "\u{feff}a",
            "a { b \"}\" }",
            "a // } /x\nb",
            "a /* } /* } */ 30s */ { }",
            "a #\"}\"# { b ##\"x\"# \"## }",
            "a \"\"\"\n } \\\"\"\" \n\"\"\"",
            "a #\"\"\"\n } \n\"\"\"# #true",
            "a \"x \\\n   y\" \"\\n\\u{1f600}\\s\"",
            "a \"\\\"\" { }",
            "a /-{ }",
            "a /-{ b } { c } /-{ d }",
            "/-\na { }\nb",
            "a { } /- { b }",
            "a { b { }; c }; d",
            "a { } // comment\nb",
            "a 1 -2 +3 1_000 1.5 1e10 -1.5E-3 0xff 0o17 0b1_0 #inf #-inf #nan #null #false",
            "a b=1 c = #true \"d\"=e",
            "a \\ // comment\n  b=\\\n 2",
            "n\u{e4}me \u{65e5}\u{672c} a.b -x +y .z a,b a:b <x> 'y'",
            "a;b;c {d;e}",
            "true-ish nullable x=inf-y",
            "a\r\nb { }\r\nc",
            "a { }\rb { }\u{85}c { }\u{2028}d { } // }\u{2029}e",
            "a \"\"\"\r\n  b\r\n\r\n   c\u{2028}  \"\"\"",
            "a \"\"\"\n\"\"\"",
            "a\u{a0}b\u{3000}c=1",
        ] {
            assert_eq!(found(text), [], "{text}");
            assert!(kdl::KdlDocument::parse_v2(text).is_ok(), "not KDL: {text}");
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
            (
                "a { } b",
                "there is no semicolon between this and the block before it",
                6,
            ),
            (
                "a \"b\"c",
                "there is no space between this and what stands before it",
                5,
            ),
            ("a b=", "there is no value after this `=`", 3),
            ("=b", "there is no name before this `=`", 0),
            ("a (u8)3", "type annotations have no meaning here", 2),
            ("a (", "type annotations have no meaning here", 2),
            (
                "a \\d",
                "a backslash outside quotation marks joins two lines",
                2,
            ),
            ("a \"\\d\"", "`\\d` means nothing in quotation marks", 3),
            ("/- /- a", "this `/-` comments out another `/-`", 3),
            ("{ }", "this block belongs to nothing", 0),
            (
                "a \"\u{1}\"",
                "the character U+0001 is not allowed in a configuration",
                3,
            ),
        ] {
            assert_eq!(found(text), [(message.to_owned(), start)], "{text}");
        }
        assert_eq!(
            found(&"a { ".repeat(33))[0].0,
            "blocks are nested too deeply"
        );
        assert_eq!(
            found(&"/*".repeat(33))[0].0,
            "comments are nested too deeply"
        );
        assert_eq!(
            found(&"a /- { ".repeat(5))[0].0,
            "too many blocks in each other are commented out"
        );
    }

    #[test]
    fn mistakes_that_leave_the_shape_alone_are_all_found() {
        assert_eq!(found(&"a 30s\n".repeat(1000)).len(), MOST_MISTAKES);
        let found = found("a 30s\nb /x\nc true\nd {\n");
        assert_eq!(
            found.iter().map(|(_, start)| *start).collect::<Vec<_>>(),
            [2, 8, 13, 20]
        );
    }

    #[test]
    fn texts_are_cut_between_nodes() {
        for (text, expected) in [
            ("a; b\nc", &["a;", " b\n", "c"][..]),
            (
                "list { x; y { z; z } }\nb",
                &["list: x;", "list: y { z; z } ", "b"],
            ),
            ("other { x; y }", &["other { x; y }"]),
            ("list 1 { x; y }", &["list 1 { x; y }"]),
            ("/- list { x; y }\nb", &["/- list { x; y }\n", "b"]),
            ("/-\nlist { x; y }", &["/-\nlist { x; y }"]),
            ("list { /-\nx\ny }", &["list: /-\nx\n", "list:y "]),
            (
                "a \\\n b\nc \"\"\"\n x\n \"\"\"\n/*\n*/ d",
                &["a \\\n b\n", "c \"\"\"\n x\n \"\"\"\n", "/*\n*/ d"],
            ),
            ("a\r\nb\rc\u{2028}d", &["a\r\n", "b\r", "c\u{2028}", "d"]),
            ("list { }", &[]),
        ] {
            let shape = scan(0, text, &["list"]);
            assert_eq!(shape.mistakes, [], "{text}");
            let pieces: Vec<String> = shape
                .pieces
                .iter()
                .map(|piece| {
                    let list = piece
                        .list
                        .clone()
                        .map(|name| format!("{}:", &text[name]))
                        .unwrap_or_default();
                    list + &text[piece.range.clone()]
                })
                .collect();
            assert_eq!(pieces, expected, "{text}");
        }
    }
}
