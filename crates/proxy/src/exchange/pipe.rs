//! The way of one body through the agents that see it: what goes in are pieces as they come, what comes out may go on.
//!
//! A pipe knows no sockets. It holds what agents have to see first, shows pieces to one step of agents after the other,
//! puts in what they want instead, and stops with an answer for the client.

use super::{
    coding::{Coding, Decoder, Undecodable},
    memory::{BufferMemory, Full, Held},
    plan::{self, Step},
    stage::{Stage, only},
};
use crate::reply::Reply;
use bytes::Bytes;
use http::HeaderMap;
use smallvec::SmallVec;
use std::{future::Future, sync::Arc};

/// The memory of what was held.
pub(super) type Released = SmallVec<[Held; 2]>;

/// Pieces in their order.
pub(crate) type Pieces = SmallVec<[Bytes; 2]>;

/// How a pipe asks agents. Members are counted within their step.
pub(crate) trait Agents: Sync {
    /// The most bytes that this member is shown at a time.
    fn chunk(&self, step: &Step, member: usize) -> usize;

    /// Shows each of these members its piece, all at the same time. What comes back takes the place of the piece of that
    /// member.
    fn show(
        &self,
        step: &Step,
        pieces: &[Piece],
    ) -> impl Future<Output = Result<Vec<(usize, Bytes)>, Reply>> + Send;

    /// Writes down that a body could not be shown, and says what the client gets.
    fn refuse(&self, step: &Step, member: usize, why: Unshown) -> Reply;

    /// Writes down that a body is too large for a member and goes on without it.
    fn skip(&self, step: &Step, member: usize);

    /// Whether anybody gets copies of the body on its way.
    fn copies(&self) -> bool {
        false
    }

    /// Copies begin, of a body that looks like this.
    fn copy_begins(&self, _body: Body) {}

    /// These pieces, and the end when that is known, are before the step of this number; the last number is behind all steps.
    fn copy(&self, _before: usize, _pieces: &Pieces, _end: Option<&End>) {}

    /// What follows is in another form than what was copied.
    fn copies_break_off(&self) {}
}

/// What one member sees next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) member: usize,
    /// Counts from 0.
    pub(crate) index: u32,
    pub(crate) data: Bytes,
    pub(crate) is_last: bool,
    /// There is more that the member does not see.
    pub(crate) truncated: bool,
    /// Bytes that the member was shown, this piece included.
    pub(crate) transferred: u64,
    /// Of the whole body, when it is known.
    pub(crate) total: Option<u64>,
    pub(crate) trailers: Option<Arc<HeaderMap>>,
}

/// Why a member cannot be shown a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unshown {
    Oversize {
        limit: u64,
    },
    Undecodable(Undecodable),
    UnknownCoding,
    BufferFull,
    /// Why it cannot be read as JSON.
    NotJson(String),
    /// It has none of the texts that are looked for.
    NoText,
    TooManyTexts {
        most: usize,
    },
    /// What takes the place of texts in it is larger than the body may be.
    Grown {
        limit: u64,
    },
}

/// The end of a body.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    pub(crate) trailers: Option<Arc<HeaderMap>>,
}

/// What is known of a body from the head of its message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) coding: Coding,
    /// From content-length.
    pub(crate) length: Option<u64>,
}

pub(crate) struct Pipe<'a, A> {
    agents: &'a A,
    /// Somebody gets copies.
    copies: bool,
    stages: SmallVec<[Stage<'a>; 2]>,
    front: Front,
    total: Option<u64>,
    /// Bytes that have gone in.
    received: u64,
    ended: bool,
    changed: bool,
    /// The memory of what has come out and may still wait for its receiver.
    released: Released,
}

/// What is done with a body before the first step sees it.
enum Front {
    /// It is shown as it is.
    Plain,
    Decoding {
        decoder: Box<Decoder>,
        /// As they came, for the case that nobody changes anything; `None` when pieces go on before that is known.
        originals: Option<Originals>,
    },
    /// Nobody looks any longer, and what went on before was as it came.
    Passing,
}

struct Originals {
    pieces: Pieces,
    held: Held,
}

impl<'a, A: Agents> Pipe<'a, A> {
    /// # Errors
    /// What the client gets when the body cannot be shown.
    pub(crate) fn new(
        agents: &'a A,
        steps: &'a [Step],
        body: &Body,
        memory: &'a Arc<BufferMemory>,
    ) -> Result<Self, Reply> {
        let refuse = |why| match steps.first() {
            Some(step) => agents.refuse(step, 0, why),
            None => Reply::status(500),
        };
        let front = match (plan::decoded(steps), &body.coding) {
            (None, _) | (_, Coding::Identity) => Front::Plain,
            (Some(_), Coding::Unknown) => return Err(refuse(Unshown::UnknownCoding)),
            (Some(ratio), Coding::Coded(kind)) => Front::Decoding {
                decoder: Decoder::new(*kind, ratio)
                    .map(Box::new)
                    .map_err(|error| refuse(Unshown::Undecodable(error)))?,
                originals: steps.iter().all(|step| step.holds).then(|| Originals {
                    pieces: Pieces::new(),
                    held: Held::new(memory),
                }),
            },
        };
        let is_plain = matches!(front, Front::Plain);
        let copies = agents.copies();
        if copies {
            agents.copy_begins(match is_plain {
                true => *body,
                false => Body {
                    coding: Coding::Identity,
                    length: None,
                },
            });
        }
        Ok(Self {
            agents,
            copies,
            stages: steps.iter().map(|step| Stage::new(step, memory)).collect(),
            front,
            total: body.length.filter(|_| is_plain),
            received: 0,
            ended: false,
            changed: false,
            released: Released::new(),
        })
    }

    /// Whether nothing may go on yet.
    pub(super) fn is_holding(&self) -> bool {
        self.stages.iter().any(Stage::is_holding)
    }

    /// Whether the body goes on in another form than it came, or may.
    pub(super) fn changes(&self) -> Form {
        let decoded = match &self.front {
            Front::Plain | Front::Passing => false,
            Front::Decoding { originals, .. } => originals.is_none(),
        };
        Form {
            decoded,
            changed: self.changed,
            open: !self.ended && self.stages.iter().any(Stage::may_change),
            ended: self.ended,
        }
    }

    /// Takes the next piece of the body, and its end when that is known. Returns what may go on.
    ///
    /// # Errors
    /// What the client gets instead.
    pub(crate) async fn push(&mut self, input: Bytes, end: Option<End>) -> Result<Pieces, Reply> {
        if self.ended {
            return Ok(Pieces::new());
        }
        self.received += input.len() as u64;
        let end = match end {
            None if self.total == Some(self.received) => Some(End::default()),
            end => end,
        };
        self.ended = end.is_some();
        let was_holding = self.is_holding();
        let mut out = Pieces::new();
        let mut input = Some(input);
        while let Some(piece) = self.decode(&mut input, end.is_some())? {
            let end = end.as_ref().filter(|_| input.is_none());
            let mut flow = only(piece);
            for (number, stage) in self.stages.iter_mut().enumerate() {
                if self.copies {
                    self.agents.copy(number, &flow, end);
                }
                let passed = stage.advance(self.agents, flow, end, self.total).await?;
                self.changed |= passed.changed;
                self.released.extend(passed.released);
                flow = passed.pieces;
            }
            if self.copies {
                self.agents.copy(self.stages.len(), &flow, end);
            }
            out.extend(flow);
        }
        if was_holding && !self.is_holding() {
            out = self.release(out);
        }
        Ok(out)
    }

    /// Takes some of the input, all of it if it does not become too much, and returns what agents see of it.
    fn decode(&mut self, input: &mut Option<Bytes>, ends: bool) -> Result<Option<Bytes>, Reply> {
        /// A small piece can become a large one. So much of it is decoded at a time, and may become so much.
        const SLICE: usize = 4 << 10;
        const SLICE_DECODED: usize = 16 << 20;
        /// What agents see next is about as large as this.
        const ENOUGH: usize = 256 << 10;
        let Some(mut coded) = input.take() else {
            return Ok(None);
        };
        let Front::Decoding { decoder, originals } = &mut self.front else {
            return Ok(Some(coded));
        };
        let mut out = Vec::new();
        let mut done = Ok(());
        while done.is_ok() && !coded.is_empty() && out.len() < ENOUGH {
            let slice = coded.split_to(SLICE.min(coded.len()));
            done = decoder
                .feed(&slice, SLICE_DECODED, &mut out)
                .map_err(Unshown::Undecodable);
            if let (Ok(()), Some(originals)) = (&done, originals.as_mut()) {
                let added = originals.held.add(slice.len());
                done = added.map_err(|Full| Unshown::BufferFull);
                originals.pieces.push(slice);
            }
        }
        if !coded.is_empty() {
            *input = Some(coded);
        } else if ends && done.is_ok() {
            done = decoder
                .finish(SLICE_DECODED, &mut out)
                .map_err(Unshown::Undecodable);
        }
        match (done, self.stages.first()) {
            (Err(why), Some(stage)) => Err(self.agents.refuse(stage.step, 0, why)),
            _ => Ok(Some(out.into())),
        }
    }

    /// The memory of what was held and came out, for whoever knows when it has reached its end.
    pub(crate) fn released(&mut self) -> Released {
        std::mem::take(&mut self.released)
    }

    /// What came out is on its way; nobody has to hold it any longer.
    pub(crate) fn let_go(&mut self) {
        self.released.clear();
    }

    /// What goes on when nothing is held any longer: the body as it came, if nobody has changed it.
    fn release(&mut self, flow: Pieces) -> Pieces {
        let Front::Decoding { originals, .. } = &mut self.front else {
            return flow;
        };
        match originals.take() {
            Some(originals) if !self.changed => {
                self.front = Front::Passing;
                if self.copies && !self.ended {
                    self.agents.copies_break_off();
                }
                self.released.push(originals.held);
                originals.pieces
            }
            _ => flow,
        }
    }
}

/// In which form a body goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Its content coding has been taken off.
    pub(super) decoded: bool,
    /// An agent has replaced a part of it.
    pub(super) changed: bool,
    /// More comes that agents may replace.
    pub(super) open: bool,
    /// All of it is here.
    pub(super) ended: bool,
}

impl Form {
    /// It is not what came.
    pub(super) const fn differs(self) -> bool {
        self.decoded || self.changed
    }

    /// It is not what came, or will not be.
    pub(super) const fn may_differ(self) -> bool {
        self.differs() || self.open
    }
}

#[cfg(test)]
mod tests;
