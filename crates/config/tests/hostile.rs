//! Texts that were written to harm whoever checks them: what is said about them is short, comes soon, and does nothing
//! to the terminal that shows it.

use portcullis_config::{Diagnostics, Style, load_str};
use std::{
    path::Path,
    time::{Duration, Instant},
};

fn errors(text: &str) -> Diagnostics {
    match load_str("a.kdl", text, Path::new(""), &|_| None) {
        Ok(_) => panic!("accepted"),
        Err(diagnostics) => diagnostics,
    }
}

/// Nothing but lines of what can be seen, and no more than somebody reads.
fn assert_readable(rendered: &str, what: &str) {
    let act = |c: &char| c.is_control() && *c != '\n';
    assert_eq!(rendered.chars().find(act), None, "{what}");
    let longest = rendered.lines().map(|line| line.chars().count()).max();
    assert!(longest.unwrap_or(0) < 800, "{what}: {longest:?}");
}

#[test]
fn lines_of_any_length_are_shown_around_the_mistake() {
    for length in [1, 159, 160, 161, 1000, 65_535, 65_536, 70_000, 1_000_000] {
        let long = "9".repeat(length);
        for (name, text, place) in [
            (
                "number",
                format!("schema-version \"1\"; system {{ worker-threads -{long} }}"),
                Some("a.kdl:1:45"),
            ),
            (
                "comment",
                format!("schema-version \"1\"; /* {long} */ sistem; /* {long} */"),
                Some("a.kdl:1:"),
            ),
            (
                "string",
                format!("schema-version \"1\"; foo \"{long}\"; listeners {{ listener {long} }}"),
                None,
            ),
            (
                "lines before and after",
                format!("schema-version \"1\"; // {long}\nsistem\n// {long}"),
                Some("a.kdl:2:1"),
            ),
            ("unclosed", format!("{long} \"{long}"), None),
            ("name", format!("a{long}"), Some("a.kdl:1:1")),
            ("spaces", format!("{}(", " ".repeat(length)), None),
            ("tabs", format!("{}(", "\t".repeat(length)), None),
            ("wide", format!("/*{}*/ (", "\u{65e5}".repeat(length)), None),
            (
                "combining",
                format!("/*{}*/ (", "\u{301}".repeat(length)),
                None,
            ),
        ] {
            let what = format!("{name}, {length}");
            let diagnostics = errors(&text);
            for style in [Style::Plain, Style::Coloured] {
                let rendered = diagnostics.render(style);
                assert!(rendered.len() < 50_000, "{what}: {}", rendered.len());
                assert!(
                    place.is_none_or(|place| rendered.contains(place)),
                    "{what}: {rendered}"
                );
                if style == Style::Plain {
                    assert_readable(&rendered, &what);
                }
            }
        }
    }
    let text = format!("/*{}*/ sistem", "x".repeat(1_000_000));
    assert!(errors(&text).to_string().contains("[a.kdl:1:1000006]"));
}

#[test]
fn something_of_very_many_lines_is_not_shown_in_full() {
    let text = format!(
        "foo \"\"\"\n{}\"\"\" b=1\nlisteners {{ listener \"\"\"\n{}\"\"\" }}",
        "x\n".repeat(100_000),
        "x\n".repeat(100_000)
    );
    let rendered = errors(&text).to_string();
    assert!(rendered.lines().count() < 200, "{rendered}");
}

#[test]
fn nothing_of_a_file_acts_on_the_terminal() {
    for c in ('\u{0}'..='\u{9f}').filter(|c| c.is_control()) {
        let evil = format!("{c}]0;pwn{c}[31m");
        for text in [
            format!("foo \"{evil}\""),
            format!("foo{evil}"),
            format!("/* {evil} */ foo {{"),
            format!("schema-version \"{evil}\""),
            format!("schema-version \"1\"\n// {evil}\nfoo bar=\"{evil}\""),
        ] {
            if let Err(diagnostics) = load_str(&evil, &text, Path::new(""), &|_| None) {
                assert_readable(&diagnostics.to_string(), &format!("{text:?}"));
            }
        }
    }
    // Written with escapes, they are allowed in a text; what the text is said to be is another matter.
    let text = "schema-version \"\\u{1b}]0;pwn\\u{7}\\n\\u{9b}31m\\u{202e}\"; \"\\u{1b}[2J\" \"\\u{1b}\"=1";
    let rendered = errors(text).to_string();
    assert_readable(&rendered, text);
    for shown in ["`␛]0;pwn␇␊\\u{9b}31m\\u{202e}`", "`␛[2J`"] {
        assert!(rendered.contains(shown), "{rendered}");
    }
}

/// Texts with very many mistakes or of very long parts, and what is said last about them.
fn floods() -> Vec<(&'static str, String, &'static str)> {
    const UNREAD: &str = "… the rest was not read";
    const HOPELESS: &str = "… and 900 more; the rest was not read";
    const COUNTED: &str = "… and 1902 more";
    let many = 1_000_000;
    let block =
        |name: &str, inside: &str, times: usize| format!("{name} {{\n{}\n}}", inside.repeat(times));
    vec![
        ("commented out", "/-".repeat(many), UNREAD),
        ("words", "a 30s\n".repeat(many), UNREAD),
        ("lines", "foo\n".repeat(many), HOPELESS),
        ("one line", "foo;".repeat(many), HOPELESS),
        ("blocks", "system\n".repeat(many), HOPELESS),
        ("raw texts", "#\"a\"#;".repeat(many), HOPELESS),
        ("a list", block("routes", "foo\n", many), HOPELESS),
        (
            "routes",
            block("routes", "route \"a\" { respond 200; foo }\n", 2000),
            HOPELESS,
        ),
        ("a block", block("system", "foo\n", many), ""),
        ("a small block", block("system", "foo;", 2000), COUNTED),
        (
            "arguments",
            format!("system {}", "1 ".repeat(2000)),
            COUNTED,
        ),
        (
            "values",
            block(
                "system",
                &format!("trusted-proxies {}", "x ".repeat(2000)),
                1,
            ),
            COUNTED,
        ),
        ("an identifier", "a".repeat(5 * many), ""),
        ("a text", format!("\"{}\"", "a".repeat(5 * many)), ""),
        (
            "lines of a text",
            format!("a \"\"\"\n{}\"\"\"", "a\n".repeat(many)),
            "",
        ),
    ]
}

#[test]
fn a_flood_of_mistakes_is_cut_short() {
    for (name, text, last) in floods() {
        let start = Instant::now();
        let diagnostics = errors(&text);
        let drawn = diagnostics.to_string();
        // Far more than it takes, and far less than work that grows with the square of the text would.
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{name}: {:?}",
            start.elapsed()
        );
        assert!(drawn.len() < 100_000, "{name}: {}", drawn.len());
        assert!(drawn.ends_with(&format!("{last}\n")), "{name}: {drawn}");
        let kept = diagnostics.iter().count();
        assert!(kept <= 1000, "{name}: {kept}");
        assert_eq!(diagnostics.len(), kept + diagnostics.left_out(), "{name}");
        assert_eq!(diagnostics.error_count(), diagnostics.len(), "{name}");
        assert_readable(&drawn, name);
    }
}
