//! Stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CodingKind {
    Gzip,
}
pub(crate) enum Coding {
    Identity,
    Coded(CodingKind),
    Unknown,
}
impl Coding {
    pub(crate) fn of(headers: &http::HeaderMap) -> Self {
        match headers.get("content-encoding").map(|v| v.as_bytes()) {
            None => Self::Identity,
            Some(b"gzip") => Self::Coded(CodingKind::Gzip),
            _ => Self::Unknown,
        }
    }
}
#[derive(Debug)]
pub(crate) struct Decoder;
impl Decoder {
    pub(crate) fn new(_kind: CodingKind, _ratio: u32) -> Result<Self, Undecodable> {
        Ok(Self)
    }
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        _room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Undecodable> {
        out.extend_from_slice(input);
        Ok(())
    }
    pub(crate) fn finish(&mut self, _room: usize, _out: &mut Vec<u8>) -> Result<(), Undecodable> {
        Ok(())
    }
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undecodable {
    Broken(String),
    Exploding,
}
