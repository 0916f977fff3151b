//! Shows bodies to agents, piece by piece, and tells them when a request is over.

use super::{
    AgentOfRoute, Filter, agents, frames,
    guardrail::{self, Outcome},
};
use crate::{
    exchange::{
        coding::Undecodable,
        pipe::{Agents, Body, End, Piece, Pieces, Unshown},
        plan::{Plan, Step},
    },
    reply::Reply,
    request::{Begun, Request},
};
use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_manager::{
    AgentUse, Ask, Completed, FailureReason, Phase, Record, RecordedVerdict, Refusal,
};
use portcullis_agent_protocol::{BodyChunk, Event, EventKind, HeaderOp};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// More changes of a head are not kept for it.
const MOST_CHANGES: usize = 256;

/// Whose body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

impl Direction {
    pub(super) const fn phase(self) -> Phase {
        match self {
            Self::Request => Phase::RequestBody,
            Self::Response => Phase::ResponseBody,
        }
    }

    /// What agents are told of its pieces.
    pub(super) const fn event(self) -> EventKind {
        match self {
            Self::Request => EventKind::RequestBodyChunk,
            Self::Response => EventKind::ResponseBodyChunk,
        }
    }
}

/// What the agents of a chain want to see beyond the heads of requests. Those that are not obeyed, by step and place in it,
/// see no more than copies.
pub(crate) fn plan(filters: &[Filter], obeys: impl Fn(usize, usize) -> bool) -> Plan {
    let mut plan = Plan::default();
    for (position, filter) in filters.iter().enumerate() {
        let of_route = match filter {
            Filter::Agents(of_route) => of_route,
            Filter::Guardrail(guardrail) => {
                let step = |direction| {
                    let guarded = guardrail.body(direction)?;
                    Step::new(position, std::iter::once(Some(&guarded.body)))
                };
                plan.request.extend(step(Direction::Request));
                let response = step(Direction::Response);
                plan.whole_responses |= response.is_some();
                plan.response.extend(response);
                continue;
            }
            Filter::Own(_) => continue,
        };
        let obeyed = || {
            of_route
                .iter()
                .enumerate()
                .map(|(member, agent)| obeys(position, member).then_some(agent))
        };
        let request = obeyed().map(|agent| agent?.inspect.request_body.as_ref());
        plan.request.extend(Step::new(position, request));
        let response = obeyed().map(|agent| agent?.inspect.response_body.as_ref());
        plan.response.extend(Step::new(position, response));
        for AgentOfRoute { used, inspect, .. } in obeyed().flatten() {
            plan.response_heads |= inspect.response_headers;
            // Whatever its failure mode: that is for an agent that gives no verdict, and not for the client to choose.
            plan.whole_responses |= inspect.response_body.is_some();
            if inspect.request_complete.is_some() && !plan.completes.contains(&used.agent) {
                plan.completes.push(used.agent);
            }
        }
    }
    plan.frames = frames::steps(filters);
    // Responses pass the chain the other way.
    plan.response.reverse();
    plan
}

/// Tells the agents of a route that a request is over.
pub(crate) fn completed(request: &Request, begun: &Begun, completed: impl FnOnce() -> Completed) {
    let Some(route) = request.route.as_deref() else {
        return;
    };
    let plan = request.plan(route);
    if !plan.completes.is_empty() {
        let agents = &begun.snapshot().agents;
        let completed = Arc::new(completed());
        let links = &begun.serving.links;
        agents.completed(
            links,
            &plan.completes,
            &completed,
            &request.agents.conversation,
        );
    }
}

/// The agents that see the bodies of one direction of a request.
pub(crate) struct Inspectors<'a> {
    request: &'a Request,
    begun: &'a Begun,
    filters: &'a [Filter],
    direction: Direction,
    /// See [`guardrail::is_foreign`].
    is_foreign: bool,
    /// Changes of the head of this message, until somebody takes them.
    changes: Mutex<Vec<HeaderOp>>,
}

impl<'a> Inspectors<'a> {
    pub(crate) fn new(
        request: &'a Request,
        begun: &'a Begun,
        filters: &'a [Filter],
        direction: Direction,
    ) -> Self {
        Self {
            request,
            begun,
            filters,
            direction,
            is_foreign: false,
            changes: Mutex::default(),
        }
    }

    /// The same of a message with this head.
    pub(crate) fn behind(mut self, head: &HeaderMap) -> Self {
        let is_guardrail =
            |step: &Step| matches!(self.filters.get(step.filter), Some(Filter::Guardrail(_)));
        self.is_foreign = self.steps().iter().any(is_guardrail) && guardrail::is_foreign(head);
        self
    }

    /// What agents that have seen the body want changed in the head of its message. Once that has gone it is too late.
    pub(crate) fn take_changes(&self) -> Vec<HeaderOp> {
        std::mem::take(&mut self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn phase(&self, step: &Step) -> Phase {
        match self.filters.get(step.filter) {
            Some(Filter::Guardrail(_)) => self.direction.guardrail_phase(),
            _ => self.direction.phase(),
        }
    }

    /// What the body passes.
    fn steps(&self) -> &'a [Step] {
        let Some(route) = self.request.route.as_deref() else {
            return &[];
        };
        let plan = self.request.plan(route);
        match self.direction {
            Direction::Request => &plan.request,
            Direction::Response => &plan.response,
        }
    }

    fn agent(&self, step: &Step, member: usize) -> Option<&'a AgentUse> {
        match self.filters.get(step.filter)? {
            Filter::Agents(of_route) => {
                let agent = of_route.get(step.members.get(member)?.agent)?;
                Some(&agent.used)
            }
            Filter::Guardrail(guardrail) => Some(&guardrail.used),
            Filter::Own(_) => None,
        }
    }

    fn note(&self, step: &Step, used: &AgentUse, verdict: RecordedVerdict, reason: Option<String>) {
        self.request.agents.conversation.note(Record {
            agent: self.begun.snapshot().agents.name(used.agent).clone(),
            phase: self.phase(step),
            verdict,
            reason,
            tags: Vec::new(),
            duration: Duration::ZERO,
            calls: 0,
            cached: false,
        });
    }

    fn remember(&self, step: &Step, request: Vec<HeaderOp>, response: Vec<HeaderOp>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        // An answer has at most as many; a stream has any number of answers, and its head has long gone.
        if changes.len() >= MOST_CHANGES {
            return;
        }
        match self.direction {
            Direction::Request => {
                changes.extend(request);
                drop(changes);
                self.request.agents.change_response(step.filter, response);
            }
            Direction::Response => changes.extend(response),
        }
    }
}

impl Agents for Inspectors<'_> {
    fn chunk(&self, step: &Step, member: usize) -> usize {
        if let Some(Filter::Guardrail(_)) = self.filters.get(step.filter) {
            // It sees texts, not pieces.
            return usize::MAX;
        }
        let agents = &self.begun.snapshot().agents;
        self.agent(step, member).map_or(usize::MAX, |used| {
            agents.preferred_chunk(used.agent, self.direction.event())
        })
    }

    async fn show(&self, step: &Step, pieces: &[Piece]) -> Result<Vec<(usize, Bytes)>, Reply> {
        if let (Some(Filter::Guardrail(guardrail)), [piece]) =
            (self.filters.get(step.filter), pieces)
        {
            let (request, begun) = (self.request, self.begun);
            // Few bodies come by here, and the others shall not be larger for it.
            let piece_read = (piece, self.is_foreign);
            let looked = Box::pin(guardrail.look(self.direction, step, piece_read, request, begun));
            return match looked.await {
                Outcome::Passes => Ok(Vec::new()),
                Outcome::Replaced(data) => Ok(vec![(piece.member, data)]),
                Outcome::Skipped(why) => {
                    let skipped = RecordedVerdict::Skipped;
                    self.note(step, &guardrail.used, skipped, Some(why));
                    Ok(Vec::new())
                }
                Outcome::Unshown(why) => Err(self.refuse(step, piece.member, why)),
                Outcome::Stopped(reply) => Err(reply),
            };
        }
        let id = self.begun.identity.correlation_id();
        let events = pieces.iter().map(|piece| event(self.direction, id, piece));
        let events: Vec<Event<'_>> = events.collect();
        let asks: Vec<Ask<'_>> = pieces
            .iter()
            .zip(&events)
            .filter_map(|(piece, event)| {
                Some(Ask {
                    used: self.agent(step, piece.member)?,
                    event,
                    more: !piece.is_last,
                    streamed: !step.holds,
                })
            })
            .collect();
        let position = step.filter;
        let changes =
            agents::ask(&asks, self.phase(step), position, self.request, self.begun).await?;
        self.remember(step, changes.request, changes.response);
        let replaced = changes.pieces.into_iter();
        Ok(replaced
            .filter_map(|(asked, data)| Some((pieces.get(asked)?.member, data)))
            .collect())
    }

    fn refuse(&self, step: &Step, member: usize, why: Unshown) -> Reply {
        let Some(used) = self.agent(step, member) else {
            return Reply::status(500);
        };
        let (reason, detail) = unshown(why);
        self.note(
            step,
            used,
            RecordedVerdict::Refused(reason),
            Some(detail.clone()),
        );
        let refusal = Refusal {
            agent: self.begun.snapshot().agents.name(used.agent).clone(),
            reason,
            detail,
            retry_after: reason.retry_after(),
        };
        let phase = self.phase(step);
        agents::refused(refusal, phase, &self.request.agents, self.begun)
    }

    fn skip(&self, step: &Step, member: usize) {
        if let Some(used) = self.agent(step, member) {
            self.note(step, used, RecordedVerdict::Skipped, None);
        }
    }

    fn copies(&self) -> bool {
        let shadows = self.request.shadows.as_ref();
        shadows.is_some_and(|shadows| shadows.see_body(self.direction))
    }

    fn copy_begins(&self, body: Body) {
        if let Some(shadows) = &self.request.shadows {
            shadows.body_begins(self.direction, body, self.steps(), self.begun);
        }
    }

    fn copy(&self, before: usize, pieces: &Pieces, end: Option<&End>) {
        if let Some(shadows) = &self.request.shadows {
            let place = (before, self.steps());
            shadows.body_passes(self.direction, place, (pieces, end), self.begun);
        }
    }

    fn copies_break_off(&self) {
        if let Some(shadows) = &self.request.shadows {
            shadows.body_breaks_off(self.direction);
        }
    }
}

/// What an agent is told of a piece.
pub(super) fn event<'a>(
    direction: Direction,
    correlation_id: &'a str,
    piece: &'a Piece,
) -> Event<'a> {
    let chunk = BodyChunk {
        correlation_id,
        index: piece.index,
        data: piece.data.clone(),
        is_last: piece.is_last,
        total_size: piece.total,
        transferred: piece.transferred,
        truncated: piece.truncated,
        trailers: piece.trailers.as_deref(),
        budget_left: None,
    };
    match direction {
        Direction::Request => Event::RequestBodyChunk(chunk),
        Direction::Response => Event::ResponseBodyChunk(chunk),
    }
}

/// The name of what keeps a body from an agent, and more about it for the log.
pub(super) fn unshown(why: Unshown) -> (FailureReason, String) {
    match why {
        Unshown::Oversize { limit } => {
            let detail = format!("the body is larger than {limit} bytes");
            (FailureReason::Oversize, detail)
        }
        Unshown::Grown { limit } => {
            let detail = format!("what takes the place of its texts is larger than {limit} bytes");
            (FailureReason::Oversize, detail)
        }
        Unshown::Undecodable(Undecodable::Broken(detail)) => (FailureReason::Undecodable, detail),
        Unshown::Undecodable(Undecodable::Exploding) => (
            FailureReason::Undecodable,
            "the body would become too large".to_owned(),
        ),
        Unshown::UnknownCoding => (
            FailureReason::UnknownCoding,
            "the content coding is unknown, or there are several".to_owned(),
        ),
        Unshown::NotJson(why) => (
            FailureReason::UnknownCoding,
            format!("the body is not JSON: {why}"),
        ),
        Unshown::NoText => (
            FailureReason::UnknownCoding,
            "the body has none of the texts that are looked for".to_owned(),
        ),
        Unshown::TooManyTexts { most } => (
            FailureReason::Oversize,
            format!("the body has more than {most} texts"),
        ),
        Unshown::BufferFull => (
            FailureReason::BufferFull,
            "buffer-memory is used up".to_owned(),
        ),
    }
}
