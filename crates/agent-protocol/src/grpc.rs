//! What both ends of gRPC have in common.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The service, behind its package and a dot.
pub(crate) const SERVICE: &str = "AgentServiceV2";
/// Its method in which events and answers are multiplexed.
pub(crate) const PROCESS_STREAM: &str = "ProcessStream";

/// Writes messages of one type, and gives out what comes in as bytes: whoever
/// reads them knows then whether the peer sent nonsense or the stream ended.
pub(crate) struct MessageCodec<T>(PhantomData<T>);

impl<T> Default for MessageCodec<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Default + 'static> Codec for MessageCodec<T> {
    type Encode = T;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<T: Message> Encoder for MessageCodec<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let encoded = message.encode(out);
        encoded.map_err(|error| Status::internal(error.to_string()))
    }
}

impl<T> Decoder for MessageCodec<T> {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

/// A status for people.
pub(crate) fn describe(status: &Status) -> String {
    match status.message() {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    }
}
