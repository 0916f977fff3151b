//! The lines of a file that one diagnostic shows, and nothing else of it: long lines are cut around what is pointed
//! to, and what a terminal would act on is made visible. Both move everything that stands after them, so an excerpt
//! has offsets of its own, and knows the true places of its labels.

use super::{
    Label,
    visible::{self, ELLIPSIS},
};
use crate::source::{SourceFile, Span, floor_boundary};
use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use std::{collections::BTreeSet, ops::Range};

/// Characters of a line that are shown around a place.
const WIDTH: usize = 160;
/// So many of them stand before the place.
const BEFORE: usize = 60;
/// Something that has more lines is shown by its first.
const MOST_LINES: usize = 20;
/// Lines before and after what is pointed to.
pub(super) const CONTEXT: usize = 1;

pub(super) struct Excerpt {
    name: String,
    text: String,
    lines: Vec<Line>,
    places: Vec<Place>,
}

struct Line {
    /// Where it begins in the excerpt.
    start: usize,
    /// Which it is in the file, from 0.
    number: usize,
}

/// Where a label is.
struct Place {
    /// In the excerpt.
    range: Range<usize>,
    /// In the file, in characters, from 0.
    column: usize,
}

impl Excerpt {
    /// The lines of the labels, which all are of this file, and [`CONTEXT`] around them.
    pub(super) fn new(file: &SourceFile, labels: &[&Label]) -> Self {
        let ranges: Vec<Range<usize>> = labels
            .iter()
            .map(|label| shown_range(file, label.span))
            .collect();
        let mut numbers = BTreeSet::new();
        let mut offsets = BTreeSet::new();
        for range in &ranges {
            offsets.extend([range.start, range.end]);
            let (first, last) = lines_of(file, range);
            numbers.extend(
                first.saturating_sub(CONTEXT)..=(last + CONTEXT).min(file.line_count() - 1),
            );
        }
        let mut writer = Writer {
            file: file.text(),
            text: String::new(),
            offsets: offsets.into_iter().map(|offset| (offset, 0)).collect(),
            settled: 0,
        };
        let mut lines = Vec::with_capacity(numbers.len());
        for number in numbers {
            lines.push(Line {
                start: writer.text.len(),
                number,
            });
            writer.line(
                file.line_start(number)..file.line_start(number + 1),
                &ranges,
            );
        }
        writer.settle(usize::MAX);
        let places = ranges.iter().map(|range| Place {
            range: writer.shown(range.start)..writer.shown(range.end),
            column: file.column(range.start),
        });
        Self {
            name: visible::visible(file.name()),
            places: places.collect(),
            lines,
            text: writer.text,
        }
    }

    /// Where the label of this number is in the excerpt.
    pub(super) fn range(&self, label: usize) -> Range<usize> {
        self.places
            .get(label)
            .map_or(0..0, |place| place.range.clone())
    }

    fn line(&self, offset: usize) -> usize {
        self.lines
            .partition_point(|line| line.start <= offset)
            .saturating_sub(1)
    }

    /// Whether this line and the next are neighbours in the file too.
    fn goes_on(&self, line: usize) -> bool {
        match self.lines.get(line..line + 2) {
            Some([one, other]) => one.number + 1 == other.number,
            _ => false,
        }
    }
}

/// The range of a label, or its first line if there are too many of them.
fn shown_range(file: &SourceFile, span: Span) -> Range<usize> {
    let start = floor_boundary(file.text(), span.start as usize);
    let end = floor_boundary(file.text(), span.end as usize).max(start);
    let (first, last) = lines_of(file, &(start..end));
    if last - first < MOST_LINES {
        return start..end;
    }
    let line = &file.text()[start..file.line_start(first + 1)];
    start..start + line.trim_end_matches(['\r', '\n']).len()
}

fn lines_of(file: &SourceFile, range: &Range<usize>) -> (usize, usize) {
    let last_byte = if range.is_empty() {
        range.end
    } else {
        range.end - 1
    };
    (file.line(range.start), file.line(last_byte))
}

/// Writes lines of a file, and notes where in the excerpt some offsets of the file have come to stand.
struct Writer<'a> {
    file: &'a str,
    text: String,
    /// Of the file, in their order, and of the excerpt.
    offsets: Vec<(usize, usize)>,
    /// How many of them are known.
    settled: usize,
}

impl Writer<'_> {
    /// The offsets up to this one of the file are where the excerpt ends now.
    fn settle(&mut self, offset: usize) {
        while let Some((in_file, in_excerpt)) = self.offsets.get_mut(self.settled)
            && *in_file <= offset
        {
            *in_excerpt = self.text.len();
            self.settled += 1;
        }
    }

    fn shown(&self, offset: usize) -> usize {
        self.offsets
            .binary_search_by_key(&offset, |(in_file, _)| *in_file)
            .ok()
            .and_then(|index| self.offsets.get(index))
            .map_or(0, |(_, in_excerpt)| *in_excerpt)
    }

    fn line(&mut self, line: Range<usize>, labels: &[Range<usize>]) {
        let whole = &self.file[line.clone()];
        let content = whole.strip_suffix('\n').unwrap_or(whole);
        let content = content.strip_suffix('\r').unwrap_or(content);
        let end = line.start + content.len();
        let mut at = line.start;
        for window in windows(self.file, line.start..end, labels) {
            if window.start > at {
                self.text.push(ELLIPSIS);
            }
            self.window(window.clone());
            at = window.end;
        }
        if at < end {
            self.text.push(ELLIPSIS);
        }
        self.settle(end);
        if whole.ends_with('\n') {
            self.text.push('\n');
        }
    }

    fn window(&mut self, range: Range<usize>) {
        for (at, c) in self.file[range.clone()].char_indices() {
            let at = range.start + at;
            self.settle(at);
            match c {
                '\t' => self.text.push(c),
                // Says at the beginning of a file how it is encoded.
                '\u{feff}' if at == 0 => {}
                _ => visible::push(&mut self.text, c),
            }
        }
    }
}

/// The parts of a line that are shown, in their order: all of a short one, else what surrounds the places where labels
/// begin or end, or the beginning if there are none.
fn windows(text: &str, line: Range<usize>, labels: &[Range<usize>]) -> Vec<Range<usize>> {
    let forward = |from: usize, count: usize| {
        text[from..line.end]
            .char_indices()
            .nth(count)
            .map_or(line.end, |(at, _)| from + at)
    };
    if forward(line.start, WIDTH) == line.end {
        return vec![line];
    }
    let mut windows = Vec::new();
    for label in labels {
        let begins_here = (line.start..=line.end).contains(&label.start);
        let ends_here = (line.start..=line.end).contains(&label.end);
        let at = match (begins_here, ends_here) {
            (true, _) => label.start,
            (false, true) => label.end,
            (false, false) => continue,
        };
        let before: Vec<usize> = text[line.start..at]
            .char_indices()
            .rev()
            .take(BEFORE)
            .map(|(offset, _)| line.start + offset)
            .collect();
        let start = before.last().copied().unwrap_or(at);
        windows.push(start..forward(at, WIDTH - before.len()));
    }
    if windows.is_empty() {
        windows.push(line.start..forward(line.start, WIDTH));
    }
    windows.sort_by_key(|window| window.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(windows.len());
    for window in windows {
        match merged.last_mut() {
            Some(last) if window.start <= last.end => last.end = last.end.max(window.end),
            _ => merged.push(window),
        }
    }
    merged
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let range = span.offset()..span.offset() + span.len();
        let mut first = self.line(range.start);
        let mut last = self.line(range.end.saturating_sub(1).max(range.start));
        for _ in 0..lines_before {
            first -= usize::from(first > 0 && self.goes_on(first - 1));
        }
        for _ in 0..lines_after {
            last += usize::from(self.goes_on(last));
        }
        let start_of = |line: usize| {
            self.lines
                .get(line)
                .map_or(self.text.len(), |line| line.start)
        };
        // Without lines around it only the place of a label is wanted.
        let place = (lines_before == 0)
            .then(|| self.places.iter().find(|place| place.range == range))
            .flatten();
        let shown = match place {
            Some(place) => place.range.start..start_of(last + 1),
            None => start_of(first)..start_of(last + 1),
        };
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            &self.text.as_bytes()[shown.clone()],
            (shown.start, shown.len()).into(),
            self.lines.get(first).map_or(0, |line| line.number),
            place.map_or(0, |place| place.column),
            last + 1 - first,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Sources;
    use std::sync::Arc;

    fn excerpt(text: &str, ranges: &[Range<usize>]) -> Excerpt {
        let mut sources = Sources::default();
        let source = sources.add(Arc::from("a.kdl"), Arc::from(text));
        let labels: Vec<Label> = ranges
            .iter()
            .map(|range| Label {
                span: Span::new(source, range.clone()),
                text: String::new(),
            })
            .collect();
        let labels: Vec<&Label> = labels.iter().collect();
        Excerpt::new(sources.file(source).unwrap(), &labels)
    }

    /// The text, and what each label points to.
    fn shown(text: &str, ranges: &[Range<usize>]) -> (String, Vec<String>) {
        let excerpt = excerpt(text, ranges);
        let pointed = (0..ranges.len())
            .map(|label| excerpt.text[excerpt.range(label)].to_owned())
            .collect();
        (excerpt.text, pointed)
    }

    #[test]
    fn only_the_lines_around_labels_are_there() {
        for (text, range, expected, pointed) in [
            ("a\nb\nc\nd\ne\n", 4..5, "b\nc\nd\n", "c"),
            ("a\r\nbc\r\n", 4..5, "a\nbc\n", "c"),
            ("a\n", 2..2, "a\n", ""),
            ("", 0..0, "", ""),
            ("\u{feff}ab", 3..5, "ab", "ab"),
            ("a\u{1b}b c", 1..3, "a␛b c", "␛b"),
            ("\u{e4}\u{9b}b", 2..4, "\u{e4}\\u{9b}b", "\\u{9b}"),
            ("a\tb\r c", 0..1, "a\tb␍ c", "a"),
            ("ab\ncd\n", 1..4, "ab\ncd\n", "b\nc"),
        ] {
            let found = shown(text, std::slice::from_ref(&range));
            assert_eq!(
                found,
                (expected.to_owned(), vec![pointed.to_owned()]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn long_lines_are_cut_around_each_label() {
        let line = format!(
            "{}<one>{}<two>{}",
            "a".repeat(1000),
            "b".repeat(1000),
            "c".repeat(1000)
        );
        let (text, pointed) = shown(&line, &[1000..1005, 2005..2010]);
        let expected = format!(
            "…{}<one>{}…{}<two>{}…",
            "a".repeat(BEFORE),
            "b".repeat(WIDTH - BEFORE - 5),
            "b".repeat(BEFORE),
            "c".repeat(WIDTH - BEFORE - 5)
        );
        assert_eq!(text, expected);
        assert_eq!(pointed, ["<one>", "<two>"]);
        let (text, pointed) = shown(&line, std::slice::from_ref(&(10..2900)));
        assert_eq!(text.chars().count(), WIDTH + 1);
        assert_eq!(pointed, [text[10..].to_owned()]);
    }

    #[test]
    fn something_of_many_lines_is_shown_by_its_first() {
        let (text, pointed) = shown(&"line\n".repeat(100), std::slice::from_ref(&(7..400)));
        assert_eq!(
            (text.as_str(), pointed[0].as_str()),
            ("line\nline\nline\n", "ne")
        );
    }

    #[test]
    fn the_place_is_that_in_the_file() {
        let text = format!("\n\n{}x", "\u{1b}\u{e4}".repeat(100_000));
        let excerpt = excerpt(&text, std::slice::from_ref(&(text.len() - 1..text.len())));
        let range = excerpt.range(0);
        let contents = excerpt
            .read_span(&(range.start, range.len()).into(), 0, 0)
            .unwrap();
        assert_eq!((contents.line(), contents.column()), (2, 200_000));
    }
}
