//! Words without quotation marks: which are fine, and what was meant by those that are not.

/// What is wrong with a word, and what to write.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) help: String,
}

/// Characters of a number; the parser gives up on larger ones, and without saying where.
const LONGEST_NUMBER: usize = 38;

/// Bytes of a word; it is read much more slowly than text in quotation marks.
const LONGEST: usize = 4096;

const KEYWORDS: [&str; 6] = ["true", "false", "null", "inf", "-inf", "nan"];

/// What ends a line in KDL.
pub(super) fn is_line_break(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// How many bytes of the text are one word.
pub(super) fn length(text: &str) -> usize {
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        let begins_comment =
            c == '/' && matches!(text.as_bytes().get(at + 1), Some(b'/' | b'*' | b'-')) && at > 0;
        if c.is_whitespace()
            || matches!(c, ';' | '{' | '}' | '(' | ')' | '=' | '"' | '\\')
            || begins_comment
        {
            end = at;
            break;
        }
    }
    // At least one character, so that the scanner goes on whatever it is.
    end.max(text.chars().next().map_or(0, char::len_utf8))
}

pub(super) fn check(word: &str) -> Option<Wrong> {
    let wrong = |message: String, help: String| Some(Wrong { message, help });
    if word.len() > LONGEST {
        return wrong(
            "this word is far too long".to_owned(),
            format!("{LONGEST} bytes are the most without quotation marks"),
        );
    }
    if let Some(keyword) = word.strip_prefix('#') {
        if KEYWORDS.contains(&keyword) {
            return None;
        }
        return wrong(
            format!("there is no keyword `{word}`"),
            "the keywords are `#true`, `#false` and `#null`; other words go without `#` or in quotation marks".to_owned(),
        );
    }
    if KEYWORDS.contains(&word) {
        return wrong(
            format!("`{word}` is not a word here"),
            format!("write #{word}, or \"{word}\" for the text"),
        );
    }
    let needs_quotes = looks_like_number(word) && !is_number(word)
        || word.contains(['/', '[', ']', '#'])
        || word.starts_with('.') && word[1..].starts_with(|c: char| c.is_ascii_digit());
    if needs_quotes {
        return wrong(
            format!("`{word}` needs quotation marks"),
            format!("write \"{word}\""),
        );
    }
    if word.len() > LONGEST_NUMBER && looks_like_number(word) {
        return wrong(
            "this number is far too long".to_owned(),
            format!(
                "{LONGEST_NUMBER} characters are the most; for the text write it in quotation marks"
            ),
        );
    }
    None
}

fn unsigned(word: &str) -> &str {
    word.strip_prefix(['+', '-']).unwrap_or(word)
}

fn looks_like_number(word: &str) -> bool {
    unsigned(word).starts_with(|c: char| c.is_ascii_digit())
}

fn is_number(word: &str) -> bool {
    let word = unsigned(word);
    let digits = |text: &str, radix: u32| {
        text.starts_with(|c: char| c.is_digit(radix))
            && text.chars().all(|c| c == '_' || c.is_digit(radix))
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(rest) = word.strip_prefix(prefix) {
            return digits(rest, radix);
        }
    }
    let (number, exponent) = match word.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(unsigned(exponent))),
        None => (word, None),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    digits(whole, 10)
        && fraction.is_none_or(|fraction| digits(fraction, 10))
        && exponent.is_none_or(|exponent| digits(exponent, 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_words_pass() {
        for word in [
            "a", "-", "-x", "h2c", "1", "-1_0", "1.5e+3", "0xFf", "0b1", "#true", "#-inf", "a.b",
            "x:y", "1_",
        ] {
            assert_eq!(check(word), None, "{word}");
        }
    }

    #[test]
    fn wrong_words_come_with_what_to_write() {
        for (word, help) in [
            ("30s", "write \"30s\""),
            ("127.0.0.1:80", "write \"127.0.0.1:80\""),
            ("/x", "write \"/x\""),
            ("[::1]:80", "write \"[::1]:80\""),
            ("1.", "write \"1.\""),
            ("0xzz", "write \"0xzz\""),
            ("a/b", "write \"a/b\""),
            (".5", "write \".5\""),
            ("true", "write #true, or \"true\" for the text"),
        ] {
            assert_eq!(
                check(word).map(|wrong| wrong.help).as_deref(),
                Some(help),
                "{word}"
            );
        }
        assert!(check("#yes").is_some());
        assert_eq!(check(&"9".repeat(LONGEST_NUMBER)), None);
        assert!(check(&"9".repeat(LONGEST_NUMBER + 1)).is_some());
    }

    #[test]
    fn words_end_where_the_language_says() {
        for (text, expected) in [
            ("a b", 1),
            ("a=1", 1),
            ("a{", 1),
            ("a//c", 1),
            ("/x/y z", 4),
            ("a;", 1),
            ("\u{e4}\u{a0}", 2),
            ("=", 1),
        ] {
            assert_eq!(length(text), expected, "{text}");
        }
    }
}
