//! "Did you mean": the known name that is nearest to a wrong one.

/// Beyond this many names the search would cost more than the hint is worth in a file full of mistakes.
const MOST_CANDIDATES: usize = 2000;

/// Bytes of the longest name that somebody may have misspelled.
const LONGEST_NAME: usize = 64;

/// `did you mean …?` if one of the known names is near enough.
pub(crate) fn did_you_mean<'a>(
    wrong: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(wrong, known).map(|name| format!("did you mean `{name}`?"))
}

fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > LONGEST_NAME {
        return None;
    }
    let lower = wrong.to_ascii_lowercase().replace('_', "-");
    let allowed = (wrong.chars().count() / 3).clamp(1, 4);
    let mut best: Option<(usize, &str)> = None;
    for name in known.into_iter().take(MOST_CANDIDATES) {
        // A name much longer or shorter cannot be near; this spares the table of distances.
        if name.len().abs_diff(lower.len()) > allowed {
            continue;
        }
        let distance = strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase());
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

/// `a`, `b` and `c`.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["address", "timeouts", "limits", "h2c", "request-header"];
        for (wrong, expected) in [
            ("adress", Some("address")),
            ("Address", Some("address")),
            ("request_header", Some("request-header")),
            ("timeout", Some("timeouts")),
            ("h2", Some("h2c")),
            ("certificate", None),
            ("x", None),
        ] {
            assert_eq!(nearest(wrong, known), expected, "{wrong}");
        }
        let long = "x".repeat(LONGEST_NAME);
        assert_eq!(nearest(&long, [long.as_str()]), Some(long.as_str()));
        let longer = "x".repeat(LONGEST_NAME + 1);
        assert_eq!(nearest(&longer, [longer.as_str()]), None);
    }

    #[test]
    fn lists_read_like_sentences() {
        assert_eq!(list([], "or"), "");
        assert_eq!(list(["a"], "or"), "`a`");
        assert_eq!(list(["a", "b", "c"], "or"), "`a`, `b` or `c`");
    }
}
