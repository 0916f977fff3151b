//! Quantities that have a unit in the language. Durations are `std::time::Duration`.

use std::fmt;

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// `count` KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that divides the size without rest: `64KiB`, `1500B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            let count = self.0 >> shift;
            if count > 0 && count << shift == self.0 {
                return write!(f, "{count}{unit}");
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A share of something, in steps of a hundredth of a percent, from none to all of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// Steps that are all of it.
    pub const WHOLE: u16 = 10_000;

    /// So many hundredths of a percent; more than all is all.
    pub const fn of_hundredths(hundredths: u16) -> Self {
        if hundredths > Self::WHOLE {
            return Self(Self::WHOLE);
        }
        Self(hundredths)
    }

    /// Hundredths of a percent, 0 to 10 000.
    pub const fn hundredths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Share {
    /// As it is written: `5%`, `0.25%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole}%"),
            _ if rest % 10 == 0 => write!(f, "{whole}.{}%", rest / 10),
            _ => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_print_as_they_are_written() {
        for (hundredths, text) in [
            (0, "0%"),
            (1, "0.01%"),
            (50, "0.5%"),
            (525, "5.25%"),
            (10_000, "100%"),
            (20_000, "100%"),
        ] {
            assert_eq!(Share::of_hundredths(hundredths).to_string(), text);
        }
    }

    #[test]
    fn sizes_print_in_the_largest_exact_unit() {
        for (size, text) in [
            (0, "0B"),
            (1, "1B"),
            (1024, "1KiB"),
            (1025, "1025B"),
            (3 << 20, "3MiB"),
            (1 << 31, "2GiB"),
        ] {
            assert_eq!(ByteSize(size).to_string(), text);
        }
    }
}
