//! Reading the primitives of the binary encoding.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::ABSENT;

/// What is wrong with the bytes.
pub(super) type Malformed = &'static str;

/// A place in a payload, from which everything is taken off in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self
            .rest
            .split_at_checked(length)
            .ok_or("it ends too early")?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.rest.split_first_chunk().ok_or("it ends too early")?;
        self.rest = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn address(&mut self) -> Result<IpAddr, Malformed> {
        match self.u8()? {
            4 => Ok(IpAddr::from(self.array::<4>()?)),
            6 => Ok(IpAddr::from(self.array::<16>()?)),
            _ => Err("the client's address is of an unknown family"),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    pub(super) fn string(&mut self) -> Result<&'a str, Malformed> {
        text(self.bytes()?)
    }

    pub(super) fn optional(&mut self) -> Result<Option<&'a str>, Malformed> {
        match self.u32()? {
            ABSENT => Ok(None),
            length => text(self.take(length as usize)?).map(Some),
        }
    }

    /// Reads a byte that says whether something follows.
    pub(super) fn present(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a presence byte is neither 0 nor 1"),
        }
    }

    /// Reads a list. Room is made for no more entries than the bytes that are
    /// left can hold, whatever the count claims.
    pub(super) fn list<T>(
        &mut self,
        smallest_entry_bytes: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.count(smallest_entry_bytes)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(read(self)?);
        }
        Ok(entries)
    }

    /// Reads a count of entries, which must fit into what is left.
    pub(super) fn count(&mut self, smallest_entry_bytes: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / smallest_entry_bytes {
            return Err("a list claims more entries than fit");
        }
        Ok(count)
    }

    pub(super) fn strings(&mut self) -> Result<Vec<String>, Malformed> {
        self.list(4, |reader| reader.string().map(str::to_owned))
    }

    pub(super) fn pairs(&mut self) -> Result<Vec<(String, String)>, Malformed> {
        self.list(8, |reader| {
            Ok((reader.string()?.to_owned(), reader.string()?.to_owned()))
        })
    }

    /// Reads header fields, whose values share the memory of the payload that
    /// this reads from.
    pub(super) fn headers(&mut self, payload: &Bytes) -> Result<HeaderMap, Malformed> {
        let count = self.count(8)?;
        let mut headers = HeaderMap::new();
        for _ in 0..count {
            let name =
                HeaderName::from_bytes(self.bytes()?).map_err(|_| "a header name is invalid")?;
            let value = HeaderValue::from_maybe_shared(payload.slice_ref(self.bytes()?))
                .map_err(|_| "a header value is invalid")?;
            headers
                .try_append(name, value)
                .map_err(|_| "there are too many headers")?;
        }
        Ok(headers)
    }

    /// Reads a number that may be missing.
    pub(super) fn present_u64(&mut self) -> Result<Option<u64>, Malformed> {
        match self.present()? {
            true => self.u64().map(Some),
            false => Ok(None),
        }
    }

    /// Reads all sections to the end and keeps those with tags 1 to `N`.
    pub(super) fn sections<const N: usize>(&mut self) -> Result<[Option<Self>; N], Malformed> {
        let mut known = [None; N];
        while !self.rest.is_empty() {
            let tag = usize::from(self.u8()?);
            let body = Self::new(self.bytes()?);
            let Some(place) = tag.checked_sub(1).and_then(|index| known.get_mut(index)) else {
                continue;
            };
            if place.replace(body).is_some() {
                return Err("a section appears twice");
            }
        }
        Ok(known)
    }
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_lengths_are_checked_against_what_is_there() {
        let mut reader = Reader::new(b"\xff\xff\xff\xfeabc");
        assert!(reader.bytes().is_err());
        let mut reader = Reader::new(b"\xff\xff\xff\xff\0\0\0\0");
        assert!(reader.strings().is_err());
        let mut reader = Reader::new(b"\x00\x00\x00\x02\0\0\0\0");
        assert!(reader.strings().is_err());
    }

    #[test]
    fn unknown_sections_are_passed_over_and_known_ones_come_once() {
        let mut reader = Reader::new(b"\x09\0\0\0\x02zz\x01\0\0\0\x01a\0\0\0\0\0");
        let [first, second] = reader.sections().unwrap();
        assert_eq!(first.unwrap().rest, b"a");
        assert!(second.is_none());
        let mut reader = Reader::new(b"\x01\0\0\0\0\x01\0\0\0\0");
        assert!(reader.sections::<2>().is_err());
    }
}
