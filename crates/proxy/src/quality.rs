//! Weights in lists of what a client would like, such as `gzip;q=0.8` (RFC 9110 section 12.4.2).

/// How much it is liked, in thousandths: 0 is not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Weight(u16);

impl Weight {
    /// It is not acceptable.
    pub(crate) const NONE: Self = Self(0);
    /// What is said without a weight.
    pub(crate) const FULL: Self = Self(1000);

    /// `0`, `1`, `0.5`, `0.333`, `1.000`.
    fn parse(text: &[u8]) -> Option<Self> {
        let (whole, digits) = match text {
            [whole] => (whole, &[][..]),
            [whole, b'.', digits @ ..] => (whole, digits),
            _ => return None,
        };
        if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut thousandths = 0;
        for place in 0..3 {
            let digit = digits.get(place).map_or(0, |digit| u16::from(digit - b'0'));
            thousandths = thousandths * 10 + digit;
        }
        match (whole, thousandths) {
            (b'0', _) => Some(Self(thousandths)),
            (b'1', 0) => Some(Self::FULL),
            _ => None,
        }
    }
}

/// The elements of a list with their weights. One whose weight cannot be understood is left out.
pub(crate) fn elements(line: &[u8]) -> impl Iterator<Item = (&[u8], Weight)> {
    line.split(|byte| *byte == b',').filter_map(|element| {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let what = parts.next().filter(|what| !what.is_empty())?;
        let mut weight = Weight::FULL;
        for parameter in parts {
            if let [b'q' | b'Q', b'=', value @ ..] = parameter {
                weight = Weight::parse(value)?;
            }
        }
        Some((what, weight))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read() {
        for (text, weight) in [
            ("0", Some(0)),
            ("0.", Some(0)),
            ("0.5", Some(500)),
            ("0.05", Some(50)),
            ("0.333", Some(333)),
            ("1", Some(1000)),
            ("1.000", Some(1000)),
            ("1.001", None),
            ("2", None),
            ("0.3333", None),
            ("-1", None),
            ("", None),
            (".5", None),
            ("0.x", None),
        ] {
            let read = Weight::parse(text.as_bytes());
            assert_eq!(read, weight.map(Weight), "{text}");
        }
    }

    #[test]
    fn elements_come_with_their_weights() {
        let list: Vec<_> = elements(b"a, b;q=0.5,, c;x=y;q=0 ,d;q=9").collect();
        let expected: [(&[u8], Weight); 3] =
            [(b"a", Weight(1000)), (b"b", Weight(500)), (b"c", Weight(0))];
        assert_eq!(list, expected);
    }
}
