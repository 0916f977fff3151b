//! Patterns of `include`: `*` and `?` in each part of a path.

/// Whether a part of a path has to be looked up in its folder.
pub(crate) fn is_pattern(part: &str) -> bool {
    part.contains(['*', '?'])
}

/// Whether a file name fits. A name that begins with a dot fits only a pattern that does, so that what editors leave
/// behind is not read.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where to go on when the last star has to take one character more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, n));
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((after_star, taken)) => {
                    retry = Some((after_star, taken + 1));
                    p = after_star;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_characters() {
        for (pattern, name) in [
            ("*.kdl", "a.kdl"),
            ("*", "x"),
            ("a?c", "abc"),
            ("*a*b", "xaybzb"),
            (".*", ".x"),
            ("a", "a"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.kdl", "a.kdl~"),
            ("*.kdl", ".a.kdl"),
            ("a?c", "ac"),
            ("a", "b"),
            ("*a*b", "xbya"),
            ("", "a"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_stars_ends_soon() {
        assert!(!fits(&"*a".repeat(50), &"a".repeat(49)));
    }
}
