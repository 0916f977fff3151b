//! UTF-8 that comes in pieces, which may end within a character.

/// What has been seen of a text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose rest has not come.
    begun: [u8; 4],
    begun_len: usize,
}

/// It is not UTF-8, whatever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8 {
    /// Takes the next piece.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.begun_len > 0 {
            let Some((first, rest)) = piece.split_first() else {
                return Ok(());
            };
            self.begun[self.begun_len] = *first;
            self.begun_len += 1;
            piece = rest;
            match std::str::from_utf8(&self.begun[..self.begun_len]) {
                Ok(_) => self.begun_len = 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => {}
            }
        }
        let Err(error) = std::str::from_utf8(piece) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        // No character is longer than four bytes, so what is incomplete has three at most.
        let begun = &piece[error.valid_up_to()..];
        self.begun[..begun.len()].copy_from_slice(begun);
        self.begun_len = begun.len();
        Ok(())
    }

    /// Whether the text may end here.
    pub(super) const fn is_complete(&self) -> bool {
        self.begun_len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_judged_as_the_whole(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..12),
                ".{0,6}".prop_map(String::into_bytes),
                proptest::collection::vec(prop_oneof![Just(0xf0u8), Just(0xed), Just(0xe0), Just(0xc3), 0x80u8..0xc0, Just(b'a')], 0..8),
            ],
            cuts in proptest::collection::vec(0usize..12, 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut text = Utf8::default();
            let mut from = 0;
            let mut good = true;
            for to in cuts.into_iter().chain([bytes.len()]) {
                good = good && text.push(&bytes[from..to]).is_ok();
                from = to;
            }
            let good = good && text.is_complete();
            prop_assert_eq!(good, std::str::from_utf8(&bytes).is_ok());
        }
    }
}
