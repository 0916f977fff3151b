//! How deep a JSON text is nested, counted while it comes. Nothing is parsed:
//! of a text that is not JSON the brackets outside of quotes are counted.

/// How deep it is, after the pieces so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    open: u32,
    in_string: bool,
    escaped: bool,
}

impl Depth {
    /// Whether it becomes deeper than this with the next piece.
    pub(crate) fn exceeds(&mut self, most: u32, piece: &[u8]) -> bool {
        for byte in piece {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.open += 1;
                    if self.open > most {
                        return true;
                    }
                }
                b'}' | b']' => self.open = self.open.saturating_sub(1),
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_do_not_count() {
        for (text, depth) in [
            ("", 0),
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}]}"#, 3),
            (r#"["[[[[", "\"[[", "\\"]"#, 1),
            ("[[]][[]]", 2),
            ("]]]][", 1),
        ] {
            for size in 1..=text.len().max(1) {
                let exceeds = |most| {
                    let mut counted = Depth::default();
                    let mut pieces = text.as_bytes().chunks(size);
                    pieces.any(|piece| counted.exceeds(most, piece))
                };
                assert!(!exceeds(depth), "{text} in {size}");
                assert!(depth == 0 || exceeds(depth - 1), "{text} in {size}");
            }
        }
    }
}
