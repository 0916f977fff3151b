//! Asking the agent that is checked: connections, questions in the order of a request, and what is noted of every answer.

use super::super::{
    phase_of,
    sample::{Sample, SampleArgs, chunks},
    target::Target,
};
use bytes::Bytes;
use portcullis_agent_manager::problem_of;
use portcullis_agent_protocol::{
    AnyConnection, CallError, CallGuard, Capabilities, CloseReason, ConnectOptions, Connection,
    Decision, Event, EventKind, Extensions, ProtocolError, Verdict,
};
use serde_json::Value;
use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::time::timeout;

/// More of one kind is counted and not kept.
const MOST_NOTES: usize = 3;
/// What an agent says behind its answers is waited for this long.
const SETTLE: Duration = Duration::from_millis(300);

/// How a check ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    /// With a remark, which may be empty.
    Passed(String),
    /// It cannot be made with this agent, and why.
    Skipped(String),
}

impl Done {
    pub(super) const fn passed() -> Self {
        Self::Passed(String::new())
    }
}

/// How a check ended; the error says what the agent did wrong.
pub(super) type Checked = Result<Done, String>;

/// What is the same for all checks.
pub(super) struct Tester {
    pub(super) target: Target,
    pub(super) sample: SampleArgs,
    /// Other paths, of which the agent may think otherwise.
    pub(super) also: Vec<String>,
    pub(super) config: Option<Arc<Value>>,
    /// For one answer.
    pub(super) timeout: Duration,
    /// What the agent says of itself, when it has.
    pub(super) agent: OnceCell<(Capabilities, Extensions)>,
    pub(super) ledger: RefCell<Ledger>,
    ids: Cell<u64>,
}

/// What was seen in passing.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) decisions: u64,
    pub(super) late: u64,
    /// Answers that the proxy would not carry out.
    pub(super) forbidden: Notes,
    /// Answers that nobody was waiting for.
    pub(super) stray: Notes,
    /// Verdicts that are still provisional when nothing more comes.
    pub(super) provisional: Notes,
    /// Last pieces of bodies that were answered.
    pub(super) last_pieces: u64,
}

/// A few remarks of one kind.
#[derive(Debug, Default)]
pub(super) struct Notes {
    kept: Vec<String>,
    all: u64,
}

impl Notes {
    pub(super) fn push(&mut self, note: String) {
        self.all += 1;
        if self.kept.len() < MOST_NOTES && !self.kept.contains(&note) {
            self.kept.push(note);
        }
    }

    /// Everything in one line; `None` when there is nothing.
    pub(super) fn said(&self) -> Option<String> {
        let said = self.kept.join("; ");
        match self.all {
            0 => None,
            1 => Some(said),
            all => Some(format!("{said} ({all} times)")),
        }
    }
}

/// As what kind of proxy an agent is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// As this one, with all extensions.
    Extended,
    /// As one that knows none of them.
    Legacy,
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Extended => "with extensions",
            Self::Legacy => "as a legacy proxy",
        })
    }
}

impl Tester {
    pub(super) fn new(target: Target, sample: SampleArgs, timeout: Duration) -> Self {
        Self {
            target,
            sample,
            also: Vec::new(),
            config: None,
            timeout,
            agent: OnceCell::new(),
            ledger: RefCell::default(),
            ids: Cell::new(0),
        }
    }

    /// A connection.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn open(&self, speaks: Speaks) -> Result<Line<'_>, String> {
        let options = ConnectOptions {
            config: self.config.clone(),
            handshake_timeout: self.timeout,
            extensions: match speaks {
                Speaks::Extended => Extensions::ALL,
                Speaks::Legacy => Extensions::NONE,
            },
            proxy_id: "portcullis-check".to_owned(),
            ..ConnectOptions::new("check")
        };
        let connection = self.target.connect(&options).await;
        Ok(Line {
            tester: self,
            connection: connection.map_err(|error| error.to_string())?,
        })
    }

    /// Whether the agent wants events of this kind.
    pub(super) fn supports(&self, kind: EventKind) -> bool {
        self.agent
            .get()
            .is_some_and(|(capabilities, _)| capabilities.supports(kind))
    }

    /// The first kind of event that the agent wants.
    pub(super) fn first_kind(&self) -> Option<EventKind> {
        let kinds = super::super::PHASES.iter().map(|(_, kind)| *kind);
        kinds.into_iter().find(|kind| self.supports(*kind))
    }

    /// The numbers of events that the agent works on at once, as it says; between 2 and `most`.
    pub(super) fn at_once(&self, most: u32) -> usize {
        let said = self.agent.get().map_or(0, |(capabilities, _)| {
            let of_connection = capabilities.features.concurrent_requests;
            let of_all = capabilities.limits.max_concurrency;
            [of_connection, of_all]
                .into_iter()
                .filter(|said| *said > 0)
                .min()
                .unwrap_or(most)
        });
        said.clamp(2, most) as usize
    }

    /// A correlation id that was not used before.
    pub(super) fn id(&self) -> String {
        let number = self.ids.get() + 1;
        self.ids.set(number);
        format!("check-{}-{number}", std::process::id())
    }

    /// Makes a check in both ways to speak, unless the agent knows only one.
    pub(super) async fn in_both(&self, check: impl AsyncFn(&Line<'_>) -> Checked) -> Checked {
        let mut remark = Done::passed();
        for speaks in [Speaks::Extended, Speaks::Legacy] {
            let named = |error| match self.target.is_v1() {
                true => error,
                false => format!("{speaks}: {error}"),
            };
            let line = self.open(speaks).await.map_err(named)?;
            let is_legacy = line.extensions() == Extensions::NONE;
            let checked = check(&line).await;
            line.settle().await;
            match checked.map_err(named)? {
                Done::Skipped(why) => return Ok(Done::Skipped(why)),
                passed => remark = passed,
            }
            if is_legacy {
                break;
            }
        }
        Ok(remark)
    }
}

/// A connection to the agent.
pub(super) struct Line<'a> {
    pub(super) tester: &'a Tester,
    pub(super) connection: AnyConnection,
}

impl<'a> Line<'a> {
    /// Asks, and notes what there is to note about the answer.
    ///
    /// # Errors
    /// There is no verdict, and why.
    pub(super) async fn tell(&self, event: &Event<'_>) -> Result<Decision, String> {
        let phase = phase_of(event.kind());
        let named = |error: String| format!("{phase}: {error}");
        let answer = self.connection.send(event, CallGuard::none());
        let answer = answer.map_err(|error| named(error.to_string()))?;
        let limit = self.tester.timeout;
        let Ok(answer) = timeout(limit, answer).await else {
            return Err(named(format!("no answer within {limit:?}")));
        };
        let decision = match answer {
            Ok(decision) => decision,
            Err(CallError::Closed) => return Err(named(self.why_closed())),
            Err(error) => return Err(named(error.to_string())),
        };
        if let Some(said) = failure_in(&decision) {
            return Err(named(format!("the agent failed: {said}")));
        }
        let mut ledger = self.tester.ledger.borrow_mut();
        ledger.decisions += 1;
        if let Some(problem) = problem_of(&decision, event) {
            ledger.forbidden.push(named(problem));
        }
        Ok(decision)
    }

    /// What was agreed beyond the published protocol.
    pub(super) fn extensions(&self) -> Extensions {
        let v2 = self.connection.as_v2();
        v2.map_or(Extensions::NONE, Connection::extensions)
    }

    fn close_reason(&self) -> Option<CloseReason> {
        self.connection.as_v2().and_then(Connection::close_reason)
    }

    fn why_closed(&self) -> String {
        self.close_reason().map_or_else(
            || CallError::Closed.to_string(),
            |reason| format!("the connection was {reason}"),
        )
    }

    /// Asks one thing, to see that the agent is there.
    ///
    /// # Errors
    /// It is not, and why.
    pub(super) async fn is_answered(&self) -> Result<(), String> {
        let Some(kind) = self.tester.first_kind() else {
            return Ok(());
        };
        let sample = Sample::new(&self.tester.sample, 0, None);
        let id = self.tester.id();
        let text = sample.text(32);
        self.tell(&sample.single(kind, &id, &text)).await.map(drop)
    }

    /// The events of a request that has not begun.
    pub(super) fn talk(&self, sample: Sample) -> Talk<'_, 'a> {
        Talk {
            line: self,
            id: self.tester.id(),
            sample,
            answers: Vec::new(),
            is_refused: false,
        }
    }

    /// Waits until everything has come that the agent had to say, and notes what nobody was waiting for.
    pub(super) async fn settle(&self) {
        // An agent that works on one thing after the other answers this behind all else. If it does not, time is up.
        let _ = timeout(SETTLE.min(self.tester.timeout), self.connection.ping()).await;
        let Some(connection) = self.connection.as_v2() else {
            return;
        };
        let mut ledger = self.tester.ledger.borrow_mut();
        ledger.late += connection.late_answers_seen();
        if connection.unexpected_pongs_seen() > 0 {
            let note = "a pong that no ping was waiting for";
            ledger.stray.push(note.to_owned());
        }
        if let Some(CloseReason::Protocol(error @ ProtocolError::UnknownEvent { .. })) =
            connection.close_reason()
        {
            ledger.stray.push(error.to_string());
        }
    }
}

/// What an agent says that has no other word for a failure than a block.
pub(super) fn failure_in(decision: &Decision) -> Option<String> {
    let Verdict::Block { status: 500, .. } = decision.verdict else {
        return None;
    };
    let audit = decision.audit.as_deref()?;
    let is_failure = audit.reason_codes.iter().any(|code| code == "agent_error");
    is_failure.then(|| match audit.custom.get("error") {
        Some(Value::String(said)) => said.clone(),
        _ => "it does not say why".to_owned(),
    })
}

/// The events of one request, in their order. Those that the agent does not want are left out.
pub(super) struct Talk<'l, 'a> {
    line: &'l Line<'a>,
    id: String,
    pub(super) sample: Sample,
    /// What the agent answered, as far as it decides about the request.
    pub(super) answers: Vec<String>,
    /// The agent does not let the request pass, so that nothing more comes of it.
    pub(super) is_refused: bool,
}

impl Talk<'_, '_> {
    async fn tell(&mut self, event: &Event<'_>, is_last: bool) -> Result<(), String> {
        if self.is_refused || !self.line.tester.supports(event.kind()) {
            return Ok(());
        }
        let decision = self.line.tell(event).await?;
        self.answers.push(fingerprint(&decision));
        self.is_refused = !decision.is_allow() && (is_last || !decision.needs_more);
        let kind = event.kind();
        let is_body = [EventKind::RequestBodyChunk, EventKind::ResponseBodyChunk].contains(&kind);
        if is_body && is_last {
            let mut ledger = self.line.tester.ledger.borrow_mut();
            ledger.last_pieces += 1;
            if decision.needs_more {
                let phase = phase_of(kind);
                let note = format!("{phase}: needs_more in the answer to the last piece");
                ledger.provisional.push(note);
            }
        }
        Ok(())
    }

    pub(super) async fn head(&mut self) -> Result<(), String> {
        let (sample, id) = (self.sample.clone(), self.id.clone());
        // More may come, so that a provisional verdict says nothing yet.
        let more = self.line.tester.supports(EventKind::RequestBodyChunk);
        self.tell(&sample.head(&id), !more).await
    }

    pub(super) async fn body(&mut self, kind: EventKind, pieces: &[Bytes]) -> Result<(), String> {
        let id = self.id.clone();
        for (index, event) in chunks(kind, &id, pieces).iter().enumerate() {
            self.tell(event, index + 1 == pieces.len()).await?;
        }
        Ok(())
    }

    pub(super) async fn response_head(&mut self) -> Result<(), String> {
        let (sample, id) = (self.sample.clone(), self.id.clone());
        let more = self.line.tester.supports(EventKind::ResponseBodyChunk);
        self.tell(&sample.response_head(&id), !more).await
    }

    pub(super) async fn frame(&mut self, data: Bytes, place: (bool, u64)) -> Result<(), String> {
        let (sample, id) = (self.sample.clone(), self.id.clone());
        self.tell(&sample.frame(&id, data, place), true).await
    }

    /// Comes also when the request did not pass.
    pub(super) async fn complete(mut self) -> Result<Vec<String>, String> {
        let id = self.id.clone();
        self.is_refused = false;
        let answers = self.answers.len();
        self.tell(&Sample::complete(&id), true).await?;
        // Nobody looks at what it decides.
        self.answers.truncate(answers);
        Ok(self.answers)
    }
}

/// What of a decision is the same when the same thing is asked again.
fn fingerprint(decision: &Decision) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        decision.verdict,
        decision.request_headers,
        decision.response_headers,
        decision.request_body,
        decision.response_body,
        decision.websocket
    )
}
