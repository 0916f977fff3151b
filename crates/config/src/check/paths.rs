//! Paths of `match` blocks that no request has, because requests come in a normal form, and paths of `rewrite` that are not
//! in it.

use crate::{
    diagnostic::{Diagnostic, Report, code},
    kdl::{Parsed, ParsedMatch},
    model::{
        DoubleSlash, EncodedSlash, PathPattern, PathPolicy, PathRewrite, ReplacementPart,
        TemplatePart,
    },
    source::{Span, Spanned},
};

pub(super) fn normal_form(parsed: &Parsed, report: &Report) {
    let policy = parsed
        .system
        .as_ref()
        .map(|system| system.value.path)
        .unwrap_or_default();
    for written in parsed.routes.iter().flat_map(|route| &route.matches) {
        check(written, policy, report);
    }
    let rewrites = parsed
        .routes
        .iter()
        .filter_map(|route| route.rewrite.as_ref());
    for Spanned { value, span } in rewrites {
        for text in value.path.iter().flat_map(pieces) {
            if let Some(why) = why_never(&text, policy) {
                report.add(unusual(*span, &text, &why));
            }
        }
    }
}

/// Stands for what is filled in per request.
const FILLED_IN: &str = "*";

/// What is written of the paths of a rewrite, as paths.
fn pieces(rewrite: &PathRewrite) -> Vec<String> {
    let joined = |pieces: Vec<&str>| {
        let text = pieces.concat();
        if text.starts_with('/') {
            text
        } else {
            format!("/{text}")
        }
    };
    match rewrite {
        PathRewrite::Prefix { from, to } => vec![joined(vec![from]), joined(vec![to])],
        PathRewrite::Whole(template) => {
            let literals = template.parts.iter().map(|part| match part {
                TemplatePart::Literal(text) => text.as_str(),
                TemplatePart::Variable(_) | TemplatePart::RequestHeader(_) => FILLED_IN,
            });
            vec![joined(literals.collect())]
        }
        PathRewrite::Regex { to, .. } => {
            let literals = to.iter().map(|part| match part {
                ReplacementPart::Literal(text) => text.as_str(),
                ReplacementPart::Group(_) => FILLED_IN,
            });
            vec![joined(literals.collect())]
        }
    }
}

fn unusual(span: Span, text: &str, why: &Why) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        code::INVALID_VALUE,
        span,
        format!("`{text}` is not in the form that paths have here"),
    );
    match why {
        Why::Refused(what) => diagnostic
            .label(format!("{what} is refused everywhere"))
            .help("remove it"),
        Why::Rewritten(normal) => diagnostic.help(format!("write \"{normal}\"")),
    }
}

fn check(written: &ParsedMatch, policy: PathPolicy, report: &Report) {
    if let Some(path) = &written.path
        && let PathPattern::Exact(text) | PathPattern::Prefix(text) = &path.value
        && let Some(why) = why_never(text, policy)
    {
        report.add(never(path.span, text, &why));
    }
    for not in &written.not {
        check(not, policy, report);
    }
}

fn never(span: Span, text: &str, why: &Why) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        code::NEVER_MATCHES,
        span,
        format!("no request has the path `{text}`"),
    );
    match why {
        Why::Refused(what) => diagnostic
            .label(format!("a request with {what} is refused"))
            .help("remove it"),
        Why::Rewritten(normal) => diagnostic
            .label("paths are brought into a normal form first")
            .help(format!("write \"{normal}\"")),
    }
}

#[derive(Debug, PartialEq)]
enum Why {
    /// Such requests get 400.
    Refused(&'static str),
    /// They have another path when routes are looked at.
    Rewritten(String),
}

fn why_never(path: &str, policy: PathPolicy) -> Option<Why> {
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => return Some(Why::Refused("a backslash")),
            '%' => {
                let byte = rest
                    .get(..2)
                    .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
                let Some(byte) = byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
                    return Some(Why::Refused(
                        "a percent sign that is not followed by two hexadecimal digits",
                    ));
                };
                rest = &rest[2..];
                match byte {
                    0..=0x1f | 0x7f => return Some(Why::Refused("an encoded control character")),
                    b'\\' => return Some(Why::Refused("an encoded backslash")),
                    b'/' if policy.encoded_slash == EncodedSlash::Refuse => {
                        return Some(Why::Refused("an encoded slash"));
                    }
                    _ if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                        normal.push(char::from(byte))
                    }
                    _ => push_encoded(&mut normal, byte),
                }
            }
            _ if c.is_ascii_control() => return Some(Why::Refused("a control character")),
            _ if c.is_ascii_graphic() => normal.push(c),
            _ => c
                .encode_utf8(&mut [0; 4])
                .bytes()
                .for_each(|byte| push_encoded(&mut normal, byte)),
        }
    }
    if normal.contains("//") {
        match policy.double_slash {
            DoubleSlash::Keep => {}
            DoubleSlash::Refuse => return Some(Why::Refused("a double slash")),
            DoubleSlash::Merge => {
                while normal.contains("//") {
                    normal = normal.replace("//", "/");
                }
            }
        }
    }
    let normal = without_dots(&normal);
    (normal != path).then_some(Why::Rewritten(normal))
}

fn push_encoded(text: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    for digit in [byte >> 4, byte & 15] {
        text.push(char::from(HEX[usize::from(digit)]));
    }
}

/// `.` and `..` resolved.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let last = segments.len().saturating_sub(1);
    for (index, segment) in segments.iter().enumerate() {
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                // `/a/.` names the folder, so a slash stays at the end.
                if index == last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_with_their_normal_form() {
        let policy = PathPolicy::default();
        for path in [
            "/", "/a", "/a/", "/a/b.c", "/%20", "/a%3Fb", "/~x", "/...", "/a:b@c",
        ] {
            assert_eq!(why_never(path, policy), None, "{path}");
        }
        for (path, normal) in [
            ("/%41", "/A"),
            ("/%7e", "/~"),
            ("/a%3fb", "/a%3Fb"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/..", "/"),
            ("/a/.", "/a/"),
            ("/%2e%2e/x", "/x"),
            ("/a b", "/a%20b"),
            ("/\u{e4}", "/%C3%A4"),
        ] {
            assert_eq!(
                why_never(path, policy),
                Some(Why::Rewritten(normal.to_owned())),
                "{path}"
            );
        }
        for path in [
            "/a\\b", "/%5c", "/%00", "/%", "/%4", "/%zz", "/a%2Fb", "/a\tb",
        ] {
            assert!(
                matches!(why_never(path, policy), Some(Why::Refused(_))),
                "{path}"
            );
        }
    }

    #[test]
    fn the_policy_decides_about_slashes() {
        let keep = PathPolicy {
            encoded_slash: EncodedSlash::Keep,
            double_slash: DoubleSlash::Keep,
        };
        assert_eq!(why_never("/a%2Fb//c", keep), None);
        let refuse = PathPolicy {
            double_slash: DoubleSlash::Refuse,
            ..keep
        };
        assert_eq!(
            why_never("/a//b", refuse),
            Some(Why::Refused("a double slash"))
        );
    }
}
