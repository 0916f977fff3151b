//! Text in quotation marks, and keywords.

use super::{Scanner, word};
use crate::diagnostic::Diagnostic;
use std::ops::Range;

impl Scanner<'_> {
    pub(super) fn quoted(&mut self) -> Result<(), Diagnostic> {
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
                Some(b'\n' | b'\r') if quotes.len() == 1 => {
                    return Err(self.unclosed_string(start, quotes));
                }
                Some(b'\\') => self.escape(),
                Some(b'"') if self.starts_with(quotes) => {
                    let body = start + quotes.len()..self.at;
                    self.at += quotes.len();
                    if quotes.len() > 1 {
                        self.lines(start, body);
                    }
                    return Ok(());
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// The body of a text of several lines: the line of the closing marks says how far all of it is indented.
    fn lines(&mut self, start: usize, body: Range<usize>) {
        let text = &self.text[body.clone()];
        let opening = start..body.start;
        if !text.starts_with(word::is_line_break) {
            let diagnostic = self.error(opening, "nothing can be written after an opening \"\"\"");
            self.add(
                diagnostic.help("begin the text on the next line, or use single quotation marks"),
            );
            return;
        }
        let indent_start = text.rfind(word::is_line_break).map_or(0, |at| at + 1);
        // A break of several bytes ends at the next boundary.
        let indent_start = (indent_start..=text.len())
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(text.len());
        let indent = &text[indent_start..];
        // Backslashes join lines, and what they join is the parser's business.
        if text.contains('\\') {
            return;
        }
        if !indent.trim().is_empty() {
            let at = body.start + indent_start;
            let diagnostic = self.error(
                at..body.end,
                "nothing can be written before a closing \"\"\"",
            );
            self.add(diagnostic.help("put the closing \"\"\" on a line of its own"));
            return;
        }
        let mut at = body.start;
        for line in text.split_inclusive(word::is_line_break) {
            let written = line.trim_end_matches(word::is_line_break);
            if !written.trim().is_empty() && !written.starts_with(indent) {
                let diagnostic = self
                    .error(
                        at..at + written.len(),
                        "this line is indented less than the closing \"\"\"",
                    )
                    .help("indent every line like the closing \"\"\", with the same characters");
                self.add(diagnostic);
                return;
            }
            at += line.len();
        }
    }

    /// A backslash takes the next character with it, or all the white space that follows, line breaks included.
    fn escape(&mut self) {
        let start = self.at;
        self.at += 1;
        let rest = &self.text[self.at..];
        let blank = rest.len() - rest.trim_start().len();
        let Some(c) = rest.chars().next() else { return };
        if blank > 0 {
            self.at += blank;
            return;
        }
        if let Some(code) = rest.strip_prefix("u{") {
            let code = code
                .split_once('}')
                .map(|(code, _)| code)
                .filter(|code| (1..=6).contains(&code.len()));
            let number = code
                .and_then(|code| u32::from_str_radix(code, 16).ok())
                .and_then(char::from_u32);
            if let (Some(code), Some(_)) = (code, number) {
                self.at += "u{}".len() + code.len();
                return;
            }
        } else if matches!(c, '\\' | '"' | 'b' | 'f' | 'n' | 'r' | 't' | 's') {
            self.at += 1;
            return;
        }
        self.at += c.len_utf8();
        self.add(
            self.error(
                start..self.at,
                format!("`\\{c}` means nothing in quotation marks"),
            )
            .help("for a backslash write \\\\, or write raw text: #\"…\"#"),
        );
    }

    fn unclosed_string(&self, start: usize, quotes: &str) -> Diagnostic {
        let help = if quotes.len() == 1 {
            "add the closing quotation mark; text of several lines is written between \"\"\" and \"\"\""
        } else {
            "add the closing \"\"\", on a line of its own"
        };
        self.error(start..self.line_end(start), "this text has no end")
            .label("begins here")
            .help(help)
    }

    /// A raw string, or a keyword such as `#true`.
    pub(super) fn hash(&mut self) -> Result<(), Diagnostic> {
        let start = self.at;
        let hashes = self.text.as_bytes()[start..]
            .iter()
            .take_while(|byte| **byte == b'#')
            .count();
        self.at += hashes;
        if self.peek(0) != Some(b'"') {
            self.at = start;
            return self.word();
        }
        let quotes = if self.starts_with("\"\"\"") { 3 } else { 1 };
        self.at += quotes;
        let end = format!("{}{}", "\"".repeat(quotes), "#".repeat(hashes));
        let rest = &self.text[self.at..];
        // A raw string of one line ends at the line's end whether it is closed or not. Looked at are only the bytes up
        // to the end, because a line can hold very many of them.
        let length = memchr::memmem::find(rest.as_bytes(), end.as_bytes()).filter(|length| {
            quotes > 1 || memchr::memchr2(b'\n', b'\r', &rest.as_bytes()[..*length]).is_none()
        });
        match length {
            Some(length) => {
                let body = self.at..self.at + length;
                self.at += length + end.len();
                if quotes > 1 {
                    self.lines(start, body);
                }
                Ok(())
            }
            None => Err(self
                .error(start..self.line_end(start), "this raw text has no end")
                .label("begins here")
                .help(format!("close it with {end}"))),
        }
    }
}
