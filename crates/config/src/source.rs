//! The files of a configuration, and places in them.
//!
//! A [`Span`] is twelve bytes and means nothing by itself; lines and columns are worked out when somebody asks, from an
//! index of line starts that is made once per file. So ten thousand routes can each know where they were written.

use crate::model::Place;
use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// A range of bytes in one of the files of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Which file, in the order in which they were read.
    pub source: u32,
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Span {
    pub(crate) fn new(source: u32, range: Range<usize>) -> Self {
        let clip = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Self {
            source,
            start: clip(range.start),
            end: clip(range.end),
        }
    }
}

/// Something and where it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// The files of a configuration, in the order in which they were read.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    files: Vec<SourceFile>,
}

impl Sources {
    /// Adds a file and gives its number.
    pub(crate) fn add(&mut self, name: Arc<str>, text: Arc<str>) -> u32 {
        self.files.push(SourceFile {
            name,
            text,
            line_starts: OnceLock::new(),
            last_column: AtomicU64::new(0),
        });
        u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn file(&self, source: u32) -> Option<&SourceFile> {
        self.files.get(source as usize)
    }

    /// Puts as many asterisks in the place of a text, so that nothing else moves.
    pub(crate) fn hide(&mut self, span: Span) {
        let Some(file) = self.files.get_mut(span.source as usize) else {
            return;
        };
        let start = floor_boundary(&file.text, span.start as usize);
        let end = floor_boundary(&file.text, span.end as usize).max(start);
        let hidden = file.text[start..end]
            .bytes()
            .map(|byte| if byte == b'\n' { '\n' } else { '*' });
        let hidden: String = hidden.collect();
        file.text = [&file.text[..start], &hidden, &file.text[end..]]
            .concat()
            .into();
    }

    /// Puts asterisks in the place of what looks like the value of a token. Where a text cannot be read, nobody knows
    /// which values are secrets, and a mistake elsewhere must not show them.
    pub(crate) fn hide_tokens(&mut self) {
        let files = self.files.iter().enumerate();
        let values: Vec<Span> = files
            .flat_map(|(number, file)| {
                let source = u32::try_from(number).unwrap_or(u32::MAX);
                let values = token_values(&file.text).into_iter();
                values.map(move |range| Span::new(source, range))
            })
            .collect();
        values.into_iter().for_each(|span| self.hide(span));
    }

    /// Where a span begins, for people.
    pub(crate) fn place(&self, span: Span) -> Place {
        self.file(span.source)
            .map_or_else(Place::default, |file| file.place(span.start as usize))
    }
}

/// What stands behind `token` on its line: up to the end of the quotes, or of the word.
fn token_values(text: &str) -> Vec<Range<usize>> {
    const NAME: &str = "token";
    let mut values = Vec::new();
    for (at, _) in text.match_indices(NAME) {
        let rest = &text[at + NAME.len()..];
        let line = rest.split('\n').next().unwrap_or_default();
        let value = line.trim_start_matches([' ', '\t', '=', ':', '#', '"']);
        let lead = &line[..line.len() - value.len()];
        let is_name = match lead.strip_prefix('"') {
            // The end of a name in quotes, or of some other text.
            Some(rest) => rest.trim_start().starts_with(['=', ':']),
            None => lead.contains(['=', ':', '"']),
        };
        if !is_name {
            // Another word that begins like this one, or a sentence about tokens.
            continue;
        }
        let end = match lead.trim_end_matches('#').ends_with('"') {
            true => value.find('"'),
            false => value.find(|c: char| c.is_whitespace() || matches!(c, ';' | '}' | '"')),
        };
        let start = at + NAME.len() + lead.len();
        values.push(start..start + end.unwrap_or(value.len()));
    }
    values
}

/// One file: its name, its text and an index of its lines.
#[derive(Debug)]
pub(crate) struct SourceFile {
    name: Arc<str>,
    text: Arc<str>,
    line_starts: OnceLock<Vec<u32>>,
    /// The offset whose column was asked for last, and that column, so that a file of one long line is not counted
    /// through again for every place in it.
    last_column: AtomicU64,
}

impl SourceFile {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// At least one; what follows the last line break is a line, too.
    pub(crate) fn line_count(&self) -> usize {
        self.line_starts().len()
    }

    fn line_starts(&self) -> &[u32] {
        self.line_starts.get_or_init(|| {
            let after = |offset: usize| u32::try_from(offset + 1).unwrap_or(u32::MAX);
            std::iter::once(0)
                .chain(memchr::memchr_iter(b'\n', self.text.as_bytes()).map(after))
                .collect()
        })
    }

    /// The line of an offset, from 0.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.line_starts()
            .partition_point(|&start| start as usize <= offset)
            .saturating_sub(1)
    }

    /// Where a line begins; the end of the text for a line after the last.
    pub(crate) fn line_start(&self, line: usize) -> usize {
        self.line_starts()
            .get(line)
            .map_or(self.text.len(), |&start| start as usize)
    }

    /// The column of an offset in characters, from 0.
    pub(crate) fn column(&self, offset: usize) -> usize {
        let line_start = self.line_start(self.line(offset));
        let last = self.last_column.load(Ordering::Relaxed);
        let (last_offset, last_column) = ((last >> 32) as usize, (last & 0xffff_ffff) as usize);
        let (from, before) = if (line_start..=offset).contains(&last_offset) {
            (last_offset, last_column)
        } else {
            (line_start, 0)
        };
        let column = before
            + self
                .text
                .get(from..offset)
                .map_or(0, |between| between.chars().count());
        if let (Ok(offset), Ok(column)) = (u32::try_from(offset), u32::try_from(column)) {
            self.last_column.store(
                u64::from(offset) << 32 | u64::from(column),
                Ordering::Relaxed,
            );
        }
        column
    }

    fn place(&self, offset: usize) -> Place {
        let offset = floor_boundary(&self.text, offset);
        let clip = |count: usize| u32::try_from(count + 1).unwrap_or(u32::MAX);
        Place {
            file: self.name.clone(),
            line: clip(self.line(offset)),
            column: clip(self.column(offset)),
        }
    }
}

/// The character boundary at or before an offset.
pub(crate) fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile {
            name: Arc::from("a.kdl"),
            text: Arc::from(text),
            line_starts: OnceLock::new(),
            last_column: AtomicU64::new(0),
        }
    }

    #[test]
    fn what_looks_like_a_token_is_hidden_where_it_stands() {
        for (text, shown) in [
            (
                r#"verdict-trace token="secret" # "x""#,
                r#"verdict-trace token="******" # "x""#,
            ),
            (
                "token = \"sec\nlevel \"info\"",
                "token = \"***\nlevel \"info\"",
            ),
            (r##"token=#"se"#"##, r##"token=#"**"#"##),
            ("token:secret; level", "token:******; level"),
            ("token=\"\u{e4}b\"}", "token=\"***\"}"),
            (r#"api-token "secret""#, r#"api-token "******""#),
            (r#"token-file="/path""#, r#"token-file="/path""#),
            ("tokens=\"many\"", "tokens=\"many\""),
            (r#"file "/run/token" }"#, r#"file "/run/token" }"#),
            (r#""token"=secret }"#, r#""token"=****** }"#),
            ("// a token is secret", "// a token is secret"),
            ("token", "token"),
        ] {
            let mut sources = Sources {
                files: vec![file(text)],
            };
            sources.hide_tokens();
            assert_eq!(&*sources.files[0].text, shown);
        }
    }

    #[test]
    fn places_count_characters_from_one() {
        let file = file("ab\n\u{e4}\u{e4}x\n");
        for (offset, place) in [
            (0, "a.kdl:1:1"),
            (1, "a.kdl:1:2"),
            (3, "a.kdl:2:1"),
            (7, "a.kdl:2:3"),
            (9, "a.kdl:3:1"),
        ] {
            assert_eq!(file.place(offset).to_string(), place, "offset {offset}");
        }
    }

    #[test]
    fn places_inside_a_character_or_after_the_end_are_moved_to_a_boundary() {
        let file = file("\u{e4}b");
        assert_eq!(file.place(1).to_string(), "a.kdl:1:1");
        assert_eq!(file.place(100).to_string(), "a.kdl:1:3");
    }
}
