//! Shadow agents: asked with copies of what an enforced agent at their place would be asked with, in tasks of their own. No
//! request waits for them, and nothing that they say is done.
//!
//! Here is who they are, and which of them get copies of what passes. A request's way to one of them is in [`run`], how it is
//! asked in [`task`], for whom one of them is obeyed all the same in [`ramp`], and what is counted in [`tally`].

mod copies;
mod ramp;
pub(crate) mod report;
mod run;
mod tally;
mod task;

use super::{Direction, Filter};
use crate::{
    exchange::{
        pipe::{Body, End, Pieces},
        plan::{Plan, Step},
    },
    request::Begun,
    snapshot::{Route, Snapshot},
    telemetry::metrics::Metrics,
};
use copies::{Message, RequestHead, ResponseHead};
use portcullis_agent_manager::{
    AgentUse, Completed, Conversation, FailureReason, Phase, Record, RecordedVerdict,
};
use portcullis_agent_protocol::{RequestHeaders, ResponseHeaders, WebSocketFrame};
use portcullis_config::{AgentId, FailureMode, Inspect};
use ramp::Ramp;
use report::Entry;
use run::Run;
use std::{fmt, sync::Arc, time::Instant};
use tally::{Counted, Dropped, Tally};
use tokio::sync::Semaphore;

/// A shadow agent of a route.
pub(crate) struct Shadow {
    used: AgentUse,
    inspect: Inspect,
    agent: AgentId,
    route: String,
    compare_with: Option<AgentId>,
    ramp: Option<Ramp>,
    /// How many heads may wait for the agent or be asked about, in the whole process: as many as calls and their queue.
    slots: Arc<Semaphore>,
    /// Elsewhere, or for other clients, requests wait for it: they go first.
    yields: bool,
    tally: Arc<Tally>,
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadow")
            .field("route", &self.route)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// What a [`Shadow`] is made of.
pub(super) struct Parts<'a> {
    pub(super) used: AgentUse,
    pub(super) agent: &'a portcullis_config::Agent,
    pub(super) settings: &'a portcullis_config::Shadow,
    pub(super) slots: Arc<Semaphore>,
    pub(super) yields: bool,
    pub(super) route: &'a str,
    pub(super) metrics: &'a Metrics,
    pub(super) previous: Option<&'a Snapshot>,
}

/// A shadow agent and its place in the chain.
pub(crate) struct Place {
    step: usize,
    member: usize,
    shadow: Arc<Shadow>,
}

/// The shadow agents of a chain.
pub(crate) fn places(filters: &[Filter]) -> Vec<Place> {
    let mut places = Vec::new();
    for (step, filter) in filters.iter().enumerate() {
        let Filter::Agents(agents) = filter else {
            continue;
        };
        for (member, agent) in agents.iter().enumerate() {
            places.extend(agent.shadow.as_ref().map(|shadow| Place {
                step,
                member,
                shadow: shadow.clone(),
            }));
        }
    }
    places
}

impl Shadow {
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let Parts {
            used,
            agent,
            settings,
            slots,
            yields,
            route,
            metrics,
            previous,
        } = parts;
        let known = previous.and_then(|previous| known(previous, route, &agent.id));
        Self {
            used,
            inspect: agent.inspect,
            agent: agent.id.clone(),
            route: route.to_owned(),
            compare_with: settings.compare_with.clone(),
            ramp: settings.ramp.map(Ramp::new),
            slots,
            yields,
            tally: known.unwrap_or_else(|| Arc::new(Tally::new(metrics.shadow(route, &agent.id)))),
        }
    }

    /// Whether some clients may have to wait for it.
    pub(crate) const fn may_decide(&self) -> bool {
        self.ramp.is_some()
    }

    /// What the report says of it.
    fn entry(&self) -> Entry {
        let Counted {
            compared,
            agreed,
            failed,
            not_compared,
            dropped,
            verdicts,
            disagreements,
        } = self.tally.counted();
        let ramp = self.ramp.as_ref();
        Entry {
            route: self.route.clone(),
            agent: self.agent.to_string(),
            compare_with: self.compare_with.as_ref().map(ToString::to_string),
            enforce: ramp.map(|ramp| ramp.share().to_string()),
            fallen_back: ramp.is_some_and(|ramp| ramp.has_fallen(Instant::now())),
            compared,
            agreed,
            disagreed: compared - agreed,
            failed,
            not_compared,
            dropped,
            verdicts,
            disagreements,
        }
    }

    /// Counts a question for the fallback of the ramp, if there is one. Failures that say nothing of the agent do not count:
    /// those of the body and of others' time, and that there was no room for a call in the shadow.
    fn count_failure(&self, record: &Record, now: Instant) {
        let Some(ramp) = &self.ramp else { return };
        let failed = match record.verdict {
            verdict if verdict.is_verdict() => false,
            RecordedVerdict::Failed { reason, .. } => match reason {
                FailureReason::Saturated | FailureReason::Budget => return,
                _ => true,
            },
            _ => return,
        };
        if let Some(fell) = ramp.count(failed, now) {
            self.tally.fell_back();
            tracing::warn!(agent = %self.agent, route = self.route, failures = fell.failures, calls = fell.calls,
                seconds = ramp.fallback().lasts.as_secs(),
                "agent failed too often and is enforced for nobody, until a reload or until this time is over");
        }
    }

    /// What its verdict of a phase is compared with. A frame that was dropped is what became of a socket that nobody closed.
    fn enforced(&self, records: &[Record], phase: Phase) -> Option<RecordedVerdict> {
        let of_phase = || records.iter().filter(|record| record.phase == phase);
        let found = match &self.compare_with {
            Some(agent) => {
                return of_phase()
                    .find(|record| record.agent == *agent)
                    .map(verdict);
            }
            None => of_phase()
                .find(|record| ends_the_request(record))
                .or_else(|| of_phase().find(|record| record.verdict == RecordedVerdict::Drop)),
        };
        Some(found.map_or(RecordedVerdict::Allow, verdict))
    }
}

const fn verdict(record: &Record) -> RecordedVerdict {
    record.verdict
}

const fn ends_the_request(record: &Record) -> bool {
    match record.verdict {
        RecordedVerdict::Block
        | RecordedVerdict::Redirect
        | RecordedVerdict::Challenge
        | RecordedVerdict::Close
        | RecordedVerdict::ClientGone
        | RecordedVerdict::Refused(_) => true,
        RecordedVerdict::Failed { mode, .. } => matches!(mode, FailureMode::Closed),
        // The route decides what becomes of it, and no shadow agent is asked about texts.
        RecordedVerdict::Detected
        | RecordedVerdict::Allow
        | RecordedVerdict::Drop
        | RecordedVerdict::Cancelled
        | RecordedVerdict::Skipped => false,
    }
}

/// What was counted of this agent on a route of this name before.
fn known(previous: &Snapshot, route: &str, agent: &AgentId) -> Option<Arc<Tally>> {
    let routes = previous.router.routes().iter();
    routes
        .filter(|known| known.id.as_str() == route)
        .flat_map(|known| known.shadows.iter())
        .find(|place| place.shadow.agent == *agent)
        .map(|place| place.shadow.tally.clone())
}

/// What all shadow agents of a configuration would have done.
pub(crate) fn report(snapshot: &Snapshot) -> report::Report {
    let places = snapshot
        .router
        .routes()
        .iter()
        .flat_map(|route| route.shadows.iter());
    report::Report {
        shadows: places.map(|place| place.shadow.entry()).collect(),
    }
}

/// The shadow agents of one request.
pub(crate) struct Shadows {
    parts: Vec<Part>,
    /// What the bodies have to pass, where some of the agents are enforced for this client.
    plan: Option<Plan>,
}

struct Part {
    step: usize,
    member: usize,
    shadow: Arc<Shadow>,
    /// `None`: for this client the agent is enforced.
    run: Option<Run>,
}

impl Shadows {
    /// Decides for whom they are enforced. `None` when the route has none.
    pub(crate) fn of(route: &Route, begun: &Begun) -> Option<Box<Self>> {
        if route.shadows.is_empty() {
            return None;
        }
        let client = begun.identity.ip;
        let parts: Vec<Part> = route
            .shadows
            .iter()
            .map(|place| {
                let ramp = place.shadow.ramp.as_ref();
                let is_enforced = ramp.is_some_and(|ramp| ramp.takes(client, begun.started));
                Part {
                    step: place.step,
                    member: place.member,
                    shadow: place.shadow.clone(),
                    run: (!is_enforced).then(Run::default),
                }
            })
            .collect();
        let mut shadows = Self { parts, plan: None };
        if shadows.parts.iter().any(|part| part.run.is_none()) {
            let plan = super::plan(&route.filters, |step, member| shadows.obeys(step, member));
            shadows.plan = Some(plan);
        }
        Some(Box::new(shadows))
    }

    /// Whether the agent at this place decides about this request.
    pub(crate) fn obeys(&self, step: usize, member: usize) -> bool {
        let mut parts = self.parts.iter();
        parts
            .find(|part| part.step == step && part.member == member)
            .is_none_or(|part| part.run.is_none())
    }

    /// What the bodies have to pass where that is not what the route says.
    pub(crate) const fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Whether any of them is shown more than the head of the request.
    pub(crate) fn see_more(&self, has_body: bool) -> bool {
        self.running().any(|(_, shadow, _)| {
            let inspect = shadow.inspect;
            inspect.response_headers
                || inspect.response_body.is_some()
                || has_body && inspect.request_body.is_some()
        })
    }

    /// Copies the head of the request for those at this step.
    pub(super) fn request_head(
        &self,
        step: usize,
        head: &RequestHeaders<'_>,
        has_body: bool,
        begun: &Begun,
    ) {
        let here = self.running().filter(|(part, ..)| part.step == step);
        copy_request_head(here, head, has_body, begun);
    }

    /// Copies it for those behind this step who are compared with an agent that has just ended the request there. They see
    /// what that one saw.
    pub(super) fn request_head_behind(
        &self,
        step: usize,
        is_asked_here: impl Fn(&AgentId) -> bool,
        head: &RequestHeaders<'_>,
        begun: &Begun,
    ) {
        let behind = self.running().filter(|(part, shadow, _)| {
            part.step > step && shadow.compare_with.as_ref().is_some_and(&is_asked_here)
        });
        copy_request_head(behind, head, false, begun);
    }

    /// Copies the head of the response for those at this step.
    pub(super) fn response_head(
        &self,
        step: usize,
        head: &ResponseHeaders<'_>,
        has_body: bool,
        begun: &Begun,
    ) {
        let mut copied: Option<Arc<ResponseHead>> = None;
        for (_, shadow, run) in self.running().filter(|(part, ..)| part.step == step) {
            if !shadow.inspect.response_headers || !run.told.goes_on() {
                continue;
            }
            let copy = copied.get_or_insert_with(|| Arc::new(ResponseHead::of(head, has_body)));
            if let Some(hold) = run.hold(shadow, copy.size(), begun) {
                run.send(shadow, Message::ResponseHead(copy.clone(), hold), begun);
            }
        }
    }

    /// Whether any of them is shown the body of this direction.
    pub(super) fn see_body(&self, direction: Direction) -> bool {
        self.seeing(direction).next().is_some()
    }

    /// The body of this direction begins. `steps` are those that it passes.
    pub(super) fn body_begins(
        &self,
        direction: Direction,
        body: Body,
        steps: &[Step],
        begun: &Begun,
    ) {
        for (part, shadow, run) in self.seeing(direction) {
            let length = match steps_before(part, direction, steps) {
                0 => body.length,
                // Whoever comes before may change it.
                _ => None,
            };
            let body = Body { length, ..body };
            run.send(shadow, Message::BodyBegins(direction, body), begun);
        }
    }

    /// Copies pieces of a body for those before the step of this number.
    pub(super) fn body_passes(
        &self,
        direction: Direction,
        (before, steps): (usize, &[Step]),
        (pieces, end): (&Pieces, Option<&End>),
        begun: &Begun,
    ) {
        let here = self
            .seeing(direction)
            .filter(|(part, ..)| steps_before(part, direction, steps) == before);
        for (_, shadow, run) in here {
            let last = pieces.len().saturating_sub(1);
            for (number, piece) in pieces.iter().enumerate() {
                let end = end.filter(|_| number == last).cloned();
                run.send_piece(shadow, direction, piece.clone(), end, begun);
            }
            if let (true, Some(end)) = (pieces.is_empty(), end) {
                let nothing = bytes::Bytes::new();
                run.send_piece(shadow, direction, nothing, Some(end.clone()), begun);
            }
        }
    }

    /// Copies a frame of the socket for those at this step.
    pub(super) fn frame(&self, step: usize, frame: &WebSocketFrame<'_>, begun: &Begun) {
        for (_, shadow, run) in self.running().filter(|(part, ..)| part.step == step) {
            if shadow.inspect.websocket_frames && run.told.goes_on() {
                run.send_frame(shadow, frame, begun);
            }
        }
    }

    /// What follows of the body of this direction is in another form than what was copied.
    pub(super) fn body_breaks_off(&self, direction: Direction) {
        for (_, shadow, run) in self.seeing(direction) {
            run.lose(shadow, Dropped::Coding);
        }
    }

    /// The request is over, and these are the records of the enforced agents. Returns what is known of the shadow agents'
    /// verdicts by now.
    pub(crate) fn finish(
        &self,
        records: &[Record],
        begun: &Begun,
        completed: impl Fn() -> Completed,
    ) -> Vec<Record> {
        let now = Instant::now();
        let mut known = Vec::new();
        for part in &self.parts {
            let Some(run) = &part.run else {
                let own = records
                    .iter()
                    .filter(|record| record.agent == part.shadow.agent);
                own.for_each(|record| part.shadow.count_failure(record, now));
                continue;
            };
            known.extend(run.told.records());
            let tells = part.shadow.inspect.request_complete.is_some();
            let completed = tells.then(|| Arc::new(completed()));
            if let Some(completed) = run.over(&part.shadow, records, completed) {
                let agents = &begun.snapshot().agents;
                let links = &begun.serving.links;
                let unasked = Conversation::default();
                agents.completed(links, &[part.shadow.used.agent], &completed, &unasked);
            }
        }
        known
    }

    /// What is known of the shadow agents' verdicts by now.
    pub(crate) fn said(&self) -> Vec<Record> {
        let running = self.running();
        running.flat_map(|(.., run)| run.told.records()).collect()
    }

    fn running(&self) -> impl Iterator<Item = (&Part, &Arc<Shadow>, &Run)> {
        let parts = self.parts.iter();
        parts.filter_map(|part| Some((part, &part.shadow, part.run.as_ref()?)))
    }

    fn seeing(&self, direction: Direction) -> impl Iterator<Item = (&Part, &Arc<Shadow>, &Run)> {
        self.running().filter(move |(_, shadow, run)| {
            let body = match direction {
                Direction::Request => shadow.inspect.request_body,
                Direction::Response => shadow.inspect.response_body,
            };
            body.is_some() && run.told.goes_on()
        })
    }
}

fn copy_request_head<'a>(
    runs: impl Iterator<Item = (&'a Part, &'a Arc<Shadow>, &'a Run)>,
    head: &RequestHeaders<'_>,
    has_body: bool,
    begun: &Begun,
) {
    let mut copied: Option<Arc<RequestHead>> = None;
    for (_, shadow, run) in runs {
        if !shadow.inspect.request_headers || !run.told.goes_on() {
            continue;
        }
        let copy = copied.get_or_insert_with(|| Arc::new(RequestHead::of(head, has_body)));
        if let Some(hold) = run.hold(shadow, copy.size(), begun) {
            run.send(shadow, Message::RequestHead(copy.clone(), hold), begun);
        }
    }
}

/// How many of the steps of a body come before a shadow agent. Responses pass the chain the other way.
fn steps_before(part: &Part, direction: Direction, steps: &[Step]) -> usize {
    let before = |step: &&Step| match direction {
        Direction::Request => step.filter < part.step,
        Direction::Response => step.filter > part.step,
    };
    steps.iter().filter(before).count()
}
