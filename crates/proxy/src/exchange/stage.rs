//! One step of agents on the way of a body: what has to wait for it, what each of its members has seen, and what it makes of
//! the pieces.

use super::{
    gathered::Gathered,
    memory::{BufferMemory, Full, Held},
    pipe::{Agents, End, Piece, Pieces, Unshown},
    plan::{Member, Step},
};
use crate::reply::Reply;
use bytes::Bytes;
use portcullis_config::OnOversize;
use smallvec::SmallVec;
use std::sync::Arc;

/// One step of agents and what it holds.
pub(super) struct Stage<'a> {
    pub(super) step: &'a Step,
    members: SmallVec<[Seen; 2]>,
    /// What has to wait; `None` when nothing does, or does any longer.
    waiting: Option<Waiting>,
    memory: Arc<BufferMemory>,
}

/// What a step has let pass.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) pieces: Pieces,
    /// Some of it is not what came.
    pub(super) changed: bool,
    /// The memory of what waited until now.
    pub(super) released: Option<Held>,
}

struct Waiting {
    data: Gathered,
    bytes: u64,
    held: Held,
}

/// What a member has seen.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    pieces: u32,
    bytes: u64,
    /// It sees nothing more.
    done: bool,
}

impl<'a> Stage<'a> {
    pub(super) fn new(step: &'a Step, memory: &Arc<BufferMemory>) -> Self {
        Self {
            step,
            members: step.members.iter().map(|_| Seen::default()).collect(),
            waiting: step.holds.then(|| Waiting {
                data: Gathered::new(Bytes::new()),
                bytes: 0,
                held: Held::new(memory),
            }),
            memory: memory.clone(),
        }
    }

    /// Whether something has to wait for it.
    pub(super) fn is_holding(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether its members see nothing more.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_none() && self.members.iter().all(|seen| seen.done)
    }

    /// Whether its members may still change something.
    pub(super) fn may_change(&self) -> bool {
        let changes = |member: &Member| !member.read_only;
        !self.is_done() && self.step.members.iter().any(changes)
    }

    /// Takes pieces that come from the step before, and the end when that is known.
    ///
    /// # Errors
    /// What the client gets instead.
    pub(super) async fn advance(
        &mut self,
        agents: &impl Agents,
        mut flow: Pieces,
        end: Option<&End>,
        total: Option<u64>,
    ) -> Result<Passed, Reply> {
        let mut passed = Passed::default();
        let was_holding = self.is_holding();
        let mut held = if was_holding {
            let Some(waiting) = self.wait(agents, flow, end.is_some(), total)? else {
                return Ok(passed);
            };
            flow = only(waiting.data.into_bytes());
            waiting.held
        } else {
            if flow.is_empty() && end.is_some() {
                // The step before has let nothing pass, and this one has to learn that there is no more.
                flow = only(Bytes::new());
            }
            // For what agents make of it, until it goes on.
            Held::new(&self.memory)
        };
        let last = flow.len().saturating_sub(1);
        for (number, piece) in flow.into_iter().enumerate() {
            let end = end.filter(|_| number == last);
            let (shown, changed) = self.show(agents, piece, end, (total, &mut held)).await?;
            passed.changed |= changed;
            let shown = shown.into_iter().filter(|piece| !piece.is_empty());
            passed.pieces.extend(shown);
        }
        passed.released = was_holding.then_some(held);
        Ok(passed)
    }

    /// Holds pieces until there are enough of them.
    fn wait(
        &mut self,
        agents: &impl Agents,
        flow: Pieces,
        ends: bool,
        total: Option<u64>,
    ) -> Result<Option<Waiting>, Reply> {
        /// Nobody's word makes more room than this in advance.
        const MOST_AHEAD: usize = 1 << 20;
        let Some(waiting) = &mut self.waiting else {
            return Ok(None);
        };
        let announced = total.and_then(|total| usize::try_from(total).ok());
        for piece in flow.into_iter().filter(|piece| !piece.is_empty()) {
            if waiting.held.add(piece.len()) == Err(Full) {
                return Err(agents.refuse(self.step, 0, Unshown::BufferFull));
            }
            waiting.bytes += piece.len() as u64;
            let together = waiting.data.len() + piece.len();
            let room = announced.unwrap_or(2 * together).min(MOST_AHEAD);
            waiting.data.push(piece, room);
        }
        let bytes = waiting.bytes;
        self.leave_out(agents, bytes)?;
        if !ends && !self.has_enough(bytes) {
            return Ok(None);
        }
        Ok(self.waiting.take())
    }

    /// Whether every member has as much as it will ever see.
    fn has_enough(&self, bytes: u64) -> bool {
        let mut members = self.step.members.iter().zip(&self.members);
        members.all(|(member, seen)| seen.done || bytes > member.limit)
    }

    /// Members for which the body is too large, and which do not want the beginning of it.
    fn leave_out(&mut self, agents: &impl Agents, bytes: u64) -> Result<(), Reply> {
        for (position, member) in self.step.members.iter().enumerate() {
            let seen = &mut self.members[position];
            if seen.done || bytes <= member.limit {
                continue;
            }
            match member.on_oversize {
                OnOversize::Fail => {
                    let limit = member.limit;
                    return Err(agents.refuse(self.step, position, Unshown::Oversize { limit }));
                }
                OnOversize::Skip => {
                    seen.done = true;
                    agents.skip(self.step, position);
                }
                OnOversize::Truncate => {}
            }
        }
        Ok(())
    }

    /// Shows a piece to all members that still see something, in as many parts as each likes. Returns what goes on, and
    /// whether that is something else. By how much that is larger than what came, it is held as well.
    async fn show(
        &mut self,
        agents: &impl Agents,
        piece: Bytes,
        end: Option<&End>,
        (total, held): (Option<u64>, &mut Held),
    ) -> Result<(Pieces, bool), Reply> {
        if piece.is_empty() && end.is_none() || self.is_done() {
            return Ok((only(piece), false));
        }
        let most = self.members.iter().map(|seen| seen.bytes).max();
        self.leave_out(agents, most.unwrap_or_default() + piece.len() as u64)?;
        let mut parts: SmallVec<[Part; 2]> = self
            .step
            .members
            .iter()
            .zip(&self.members)
            .map(|(member, seen)| Part::new(member, *seen, &piece))
            .collect();
        let held_before = held.bytes();
        loop {
            let mut round = Vec::with_capacity(parts.len());
            for (position, part) in parts.iter_mut().enumerate() {
                let seen = &mut self.members[position];
                if seen.done || part.is_over {
                    continue;
                }
                let chunk = agents.chunk(self.step, position);
                round.push(part.next(position, seen, chunk, end, total));
            }
            if round.is_empty() {
                break;
            }
            let replaced = agents.show(self.step, &round).await?;
            for shown in round {
                let other = replaced
                    .iter()
                    .find(|(member, _)| *member == shown.member)
                    .map(|(_, data)| data.clone());
                parts[shown.member].went(shown, other);
            }
            let made: usize = parts.iter().map(|part| part.made).sum();
            if held.set(held_before + made.saturating_sub(piece.len())) == Err(Full) {
                return Err(agents.refuse(self.step, 0, Unshown::BufferFull));
            }
        }
        // Of several that changed it, the later line wins.
        let winner = parts.into_iter().rev().find(|part| part.changed);
        Ok(match winner {
            Some(part) => (part.into_pieces(), true),
            None => (only(piece), false),
        })
    }
}

/// A piece on its way through one member.
struct Part {
    /// What the member sees of it.
    visible: Bytes,
    /// What it does not see.
    rest: Bytes,
    shown: usize,
    out: Pieces,
    /// Bytes that the member has put in place of what it was shown.
    made: usize,
    changed: bool,
    is_over: bool,
}

impl Part {
    fn new(member: &Member, seen: Seen, piece: &Bytes) -> Self {
        let room = usize::try_from(member.limit.saturating_sub(seen.bytes)).unwrap_or(usize::MAX);
        let visible = piece.slice(..room.min(piece.len()));
        let rest = piece.slice(visible.len()..);
        Self {
            visible,
            rest,
            shown: 0,
            out: Pieces::new(),
            made: 0,
            changed: false,
            is_over: false,
        }
    }

    fn next(
        &mut self,
        member: usize,
        seen: &mut Seen,
        chunk: usize,
        end: Option<&End>,
        total: Option<u64>,
    ) -> Piece {
        let stop = (self.shown + chunk.max(1)).min(self.visible.len());
        let data = self.visible.slice(self.shown..stop);
        self.shown = stop;
        self.is_over = stop == self.visible.len();
        let truncated = self.is_over && !self.rest.is_empty();
        let is_last = truncated || self.is_over && end.is_some();
        let index = seen.pieces;
        seen.pieces = seen.pieces.saturating_add(1);
        seen.bytes += data.len() as u64;
        seen.done = is_last;
        let trailers = end.filter(|_| is_last && !truncated);
        Piece {
            member,
            index,
            data,
            is_last,
            truncated,
            transferred: seen.bytes,
            total,
            trailers: trailers.and_then(|end| end.trailers.clone()),
        }
    }

    fn went(&mut self, shown: Piece, other: Option<Bytes>) {
        self.changed |= other.is_some();
        self.made += other.as_ref().map_or(0, Bytes::len);
        self.out.push(other.unwrap_or(shown.data));
    }

    fn into_pieces(mut self) -> Pieces {
        self.out.push(self.rest);
        self.out
    }
}

pub(super) fn only(piece: Bytes) -> Pieces {
    std::iter::once(piece).collect()
}
