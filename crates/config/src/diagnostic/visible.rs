//! Text of others, made fit for a terminal: nothing in it acts on the terminal, hides, or changes the direction of
//! writing, and there is never more of it than somebody reads.

use crate::source::floor_boundary;

/// Stands for what is left out.
pub(super) const ELLIPSIS: char = '…';

/// Adds a character so that it can be seen: control characters as the symbols that Unicode has for them, the others
/// that cannot be seen with their number.
pub(super) fn push(text: &mut String, c: char) {
    match c {
        '\u{0}'..='\u{1f}' => text.extend(char::from_u32(0x2400 + u32::from(c))),
        '\u{7f}' => text.push('\u{2421}'),
        _ if is_hidden(c) => text.extend(c.escape_unicode()),
        _ => text.push(c),
    }
}

/// All of a text with [`push`].
pub(super) fn visible(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut result, c));
    result
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Takes out the middle of a text that is longer than `most` bytes; both ends of a sentence say what it is about.
pub(super) fn clip(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let head = floor_boundary(&text, most * 2 / 3);
    let tail = floor_boundary(&text, text.len() - most / 3);
    format!("{}{ELLIPSIS}{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown() {
        for (text, expected) in [
            ("a b\u{e4}\u{65e5}", "a b\u{e4}\u{65e5}"),
            ("\u{1b}]0;x\u{7}\t\n\u{7f}", "␛]0;x␇␉␊␡"),
            ("\u{9b}31m", "\\u{9b}31m"),
            (
                "a\u{202e}b\u{2028}\u{feff}",
                "a\\u{202e}b\\u{2028}\\u{feff}",
            ),
        ] {
            assert_eq!(visible(text), expected);
        }
        let every: String = ('\u{0}'..='\u{2fff}').collect();
        assert!(!visible(&every).contains(|c: char| is_hidden(c)));
    }

    #[test]
    fn long_texts_lose_their_middle() {
        assert_eq!(clip("abcdef".to_owned(), 6), "abcdef");
        assert_eq!(clip("abcdefghi".to_owned(), 6), "abcd…hi");
        assert_eq!(clip("\u{e4}".repeat(9), 6), "\u{e4}\u{e4}…\u{e4}");
    }
}
