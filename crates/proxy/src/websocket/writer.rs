//! The frames of one direction as they go out. When frames were left out or replaced the stream stays valid: the first frame
//! of a message that goes out is its first, and a message that has begun has an end.

use super::{
    close,
    frame::{Frame, Opcode},
    utf8::Utf8,
};
use bytes::Bytes;
use tungstenite::protocol::frame::{Frame as WireFrame, FrameHeader};

/// Writes the frames to one side.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Whether we are the client.
    masks: bool,
    /// What kind of message the frames that come belong to.
    kind: Opcode,
    /// Something of that message has gone out, and not its end.
    begun: bool,
    text: Utf8,
    /// A close frame has gone out; nothing may follow.
    closed: Option<u16>,
}

/// What agents have made of a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotText;

impl Writer {
    /// `masks` to the upstream.
    pub(crate) fn new(masks: bool) -> Self {
        Self {
            masks,
            kind: Opcode::Binary,
            begun: false,
            text: Utf8::default(),
            closed: None,
        }
    }

    /// The code of the close frame that has gone out.
    pub(crate) const fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Writes a frame that comes next in its message.
    ///
    /// # Errors
    /// The text that has gone out so far, and this, is not UTF-8.
    pub(crate) fn pass(&mut self, frame: Frame) -> Result<Bytes, NotText> {
        if self.closed.is_some() {
            return Ok(Bytes::new());
        }
        if frame.opcode.is_control() {
            if frame.opcode == Opcode::Close {
                let code = close::code(&frame.data).ok().flatten();
                self.closed = Some(code.unwrap_or(close::NO_CODE));
            }
            return Ok(self.write(frame.opcode, true, frame.data));
        }
        self.follow(frame.opcode);
        if self.kind == Opcode::Text {
            let good = self.text.push(&frame.data).is_ok();
            if !good || frame.fin && !self.text.is_complete() {
                return Err(NotText);
            }
        }
        let opcode = match self.begun {
            true => Opcode::Continuation,
            false => self.kind,
        };
        self.begun = !frame.fin;
        Ok(self.write(opcode, frame.fin, frame.data))
    }

    /// Leaves a frame out that would come next in its message. What is returned ends a message that has begun.
    ///
    /// # Errors
    /// The text that has gone out ends within a character.
    pub(crate) fn leave_out(&mut self, frame: &Frame) -> Result<Bytes, NotText> {
        if self.closed.is_some() || frame.opcode.is_control() {
            return Ok(Bytes::new());
        }
        self.follow(frame.opcode);
        if !frame.fin || !self.begun {
            return Ok(Bytes::new());
        }
        if self.kind == Opcode::Text && !self.text.is_complete() {
            return Err(NotText);
        }
        self.begun = false;
        Ok(self.write(Opcode::Continuation, true, Bytes::new()))
    }

    /// Writes a close frame of our own, unless one has gone out.
    pub(crate) fn close(&mut self, code: u16, reason: &str) -> Option<Bytes> {
        if self.closed.is_some() {
            return None;
        }
        self.closed = Some(code);
        Some(self.write(Opcode::Close, true, close::payload(code, reason)))
    }

    fn follow(&mut self, opcode: Opcode) {
        if opcode != Opcode::Continuation {
            self.kind = opcode;
            self.begun = false;
            self.text = Utf8::default();
        }
    }

    fn write(&self, opcode: Opcode, fin: bool, data: Bytes) -> Bytes {
        /// The longest head of a frame.
        const HEAD: usize = 14;
        let head = FrameHeader {
            is_final: fin,
            opcode: opcode.to_wire(),
            mask: self.masks.then(rand::random),
            ..FrameHeader::default()
        };
        let mut bytes = Vec::with_capacity(HEAD + data.len());
        // Writing into memory does not fail.
        let _ = WireFrame::from_payload(head, data).format(&mut bytes);
        bytes.into()
    }
}
