//! Guardrails: shows an agent the texts of a body that is held, one after the other, and does with the message what the route
//! says when something is found.

mod charset;
mod texts;

use super::{agents, bodies::Direction};
use crate::{
    exchange::{
        memory::{Full, Held},
        pipe::{Piece, Unshown},
        plan::Step,
    },
    reply::Reply,
    request::{Begun, Request},
};
use bytes::Bytes;
use http::HeaderMap;
use portcullis_agent_manager::{AgentUse, Ask, Phase};
use portcullis_agent_protocol::{Event, GuardrailInspect, GuardrailResult, InspectionType};
use portcullis_config::{GuardedBody, Inspection, JsonPointer, OnDetect, Otherwise};
use std::ops::Range;
use texts::Json;

/// A larger body is looked into on another thread: a worker has other requests too.
const MOST_ON_THE_SPOT: usize = 64 << 10;

/// A guardrail in a route's chain.
#[derive(Debug)]
pub(crate) struct Guardrail {
    pub(crate) used: AgentUse,
    settings: portcullis_config::Guardrail,
    /// The route, for the agent.
    route: String,
}

/// What becomes of a body.
pub(super) enum Outcome {
    Passes,
    /// Something else takes its place.
    Replaced(Bytes),
    /// It goes on, and nobody has looked for anything in it.
    Skipped(String),
    /// The agent cannot be shown what it has to see.
    Unshown(Unshown),
    /// The client gets this instead.
    Stopped(Reply),
}

impl Guardrail {
    pub(super) fn new(
        used: AgentUse,
        settings: &portcullis_config::Guardrail,
        route: &str,
    ) -> Self {
        Self {
            used,
            settings: settings.clone(),
            route: route.to_owned(),
        }
    }

    /// How it sees the bodies of this direction, if it does.
    pub(super) fn body(&self, direction: Direction) -> Option<&GuardedBody> {
        match direction {
            Direction::Request => self.settings.request.as_ref(),
            Direction::Response => self.settings.response.as_ref(),
        }
    }

    /// Looks at a whole body. `is_foreign`: see [`is_foreign`].
    pub(super) async fn look(
        &self,
        direction: Direction,
        step: &Step,
        (piece, is_foreign): (&Piece, bool),
        request: &Request,
        begun: &Begun,
    ) -> Outcome {
        let Some(guarded) = self.body(direction) else {
            return Outcome::Passes;
        };
        if piece.data.is_empty() {
            return Outcome::Passes;
        }
        let Found { texts, model } = match self.find(guarded, &piece.data, is_foreign).await {
            Ok(found) => found,
            Err(outcome) => return outcome,
        };
        match guarded.unmatched {
            _ if !texts.is_empty() => {}
            Otherwise::Pass => return Outcome::Skipped("the body has no such text".to_owned()),
            Otherwise::Fail => return Outcome::Unshown(Unshown::NoText),
        }
        if texts.len() > guarded.max_texts {
            let most = guarded.max_texts;
            return Outcome::Unshown(Unshown::TooManyTexts { most });
        }
        let asking = Asking {
            guardrail: self,
            direction,
            position: step.filter,
            model: model.as_deref(),
            request,
            begun,
        };
        let memory = Held::new(begun.buffer_memory());
        let limit = guarded.body.limit.map_or(u64::MAX, |limit| limit.bytes());
        let mut others = Replacements::new(limit, memory);
        for place in texts {
            let text = match texts::text(&piece.data, &place) {
                Ok(text) => text,
                Err(why) => return Outcome::Unshown(Unshown::NotJson(why)),
            };
            let added = match asking.about(&text).await {
                Ok(None) => Ok(()),
                Ok(Some(other)) => others.add(place, other),
                Err(reply) => return Outcome::Stopped(reply),
            };
            if let Err(why) = added {
                return Outcome::Unshown(why);
            }
        }
        match others.all.is_empty() {
            true => Outcome::Passes,
            false => Outcome::Replaced(texts::replace(&piece.data, &others.all).into()),
        }
    }

    /// Finds the texts of a body.
    async fn find(
        &self,
        guarded: &GuardedBody,
        body: &Bytes,
        is_foreign: bool,
    ) -> Result<Found, Outcome> {
        let (most, model) = (guarded.max_texts, self.settings.model.as_ref());
        let found = match body.len() {
            _ if is_foreign => Err("its content-type declares another charset".to_owned()),
            ..=MOST_ON_THE_SPOT => Found::within(body, &guarded.texts, most, model),
            _ => {
                let (body, texts, model) = (body.clone(), guarded.texts.clone(), model.cloned());
                let looking = tokio::task::spawn_blocking(move || {
                    Found::within(&body, &texts, most, model.as_ref())
                });
                // Without an outcome nothing is known of it, so that it does not pass whatever the route says.
                looking.await.map_err(|_| {
                    Outcome::Unshown(Unshown::NotJson("nobody could look into it".to_owned()))
                })?
            }
        };
        found.map_err(|why| match guarded.not_json {
            Otherwise::Pass => Outcome::Skipped(format!("the body is not JSON: {why}")),
            Otherwise::Fail => Outcome::Unshown(Unshown::NotJson(why)),
        })
    }
}

/// Whether a body with this head could be another text to others than it is to a guardrail.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    charset::is_foreign(headers)
}

/// What there is in a body.
struct Found {
    /// Where the texts are.
    texts: Vec<Range<usize>>,
    /// The model that it is for or from.
    model: Option<String>,
}

impl Found {
    /// # Errors
    /// In words, why it is not JSON that can be read in one way.
    fn within(
        body: &[u8],
        texts: &[JsonPointer],
        most: usize,
        model: Option<&JsonPointer>,
    ) -> Result<Self, String> {
        let json = Json::read(body)?;
        let model = model.and_then(|place| {
            let named = json.find(std::slice::from_ref(place), 1).ok()?;
            Some(texts::text(body, named.first()?).ok()?.into_owned())
        });
        Ok(Self {
            texts: json.find(texts, most)?,
            model,
        })
    }
}

/// What takes the place of texts. An agent says what that is, so it has a bound: that of the body, and the memory of all bodies.
struct Replacements {
    limit: u64,
    bytes: u64,
    held: Held,
    all: Vec<(Range<usize>, String)>,
}

impl Replacements {
    fn new(limit: u64, held: Held) -> Self {
        Self {
            limit,
            bytes: 0,
            held,
            all: Vec::new(),
        }
    }

    /// # Errors
    /// There is too much of it.
    fn add(&mut self, place: Range<usize>, other: String) -> Result<(), Unshown> {
        let limit = self.limit;
        self.bytes += other.len() as u64;
        if self.bytes > limit {
            return Err(Unshown::Grown { limit });
        }
        let added = self.held.add(other.len());
        added.map_err(|Full| Unshown::BufferFull)?;
        self.all.push((place, other));
        Ok(())
    }
}

impl Direction {
    /// Of questions about texts.
    pub(super) const fn guardrail_phase(self) -> Phase {
        match self {
            Self::Request => Phase::RequestGuardrail,
            Self::Response => Phase::ResponseGuardrail,
        }
    }
}

/// What all texts of a body have in common.
struct Asking<'a> {
    guardrail: &'a Guardrail,
    direction: Direction,
    position: usize,
    model: Option<&'a str>,
    request: &'a Request,
    begun: &'a Begun,
}

impl Asking<'_> {
    /// Asks about a text. Returns what takes its place, if something does.
    async fn about(&self, text: &str) -> Result<Option<String>, Reply> {
        let Guardrail {
            used,
            settings,
            route,
        } = self.guardrail;
        let event = Event::GuardrailInspect(GuardrailInspect {
            correlation_id: self.begun.identity.correlation_id(),
            inspection_type: match settings.inspection {
                Inspection::PromptInjection => InspectionType::PromptInjection,
                Inspection::PiiDetection => InspectionType::PiiDetection,
            },
            content: text,
            model: self.model,
            categories: &settings.categories,
            route_id: Some(route),
            is_response: self.direction == Direction::Response,
            metadata: &[],
            budget_left: None,
        });
        let ask = Ask {
            used,
            event: &event,
            more: false,
            streamed: false,
        };
        let phase = self.direction.guardrail_phase();
        let asks = std::slice::from_ref(&ask);
        let changes = agents::ask(asks, phase, self.position, self.request, self.begun).await?;
        let Some(found) = changes.found else {
            return Ok(None);
        };
        match &settings.on_detect {
            OnDetect::Log => Ok(None),
            OnDetect::Block { status } => Err(self.stop(*status, &found)),
            OnDetect::Redact {
                replacement,
                status,
            } => match redacted(text, &found, replacement) {
                Some(other) => Ok(Some(other)),
                // What cannot be taken out does not go on.
                None => Err(self.stop(*status, &found)),
            },
        }
    }

    fn stop(&self, status: u16, found: &GuardrailResult) -> Reply {
        /// More of what was found is not told.
        const MOST: usize = 8;
        let categories = found.detections.iter().take(MOST);
        let mut categories: Vec<&str> = categories.map(|it| it.category.as_str()).collect();
        categories.dedup();
        let mut reason = match categories.is_empty() {
            true => "detected".to_owned(),
            false => categories.join(","),
        };
        reason.truncate(reason.floor_char_boundary(256));
        let name = self
            .begun
            .snapshot()
            .agents
            .name(self.guardrail.used.agent)
            .clone();
        self.request.agents.end(name, Some(reason.clone()));
        Reply::status(status).with_grpc(7, reason)
    }
}

/// The text without what was found; `None` when nobody says where all of it is.
fn redacted(text: &str, found: &GuardrailResult, replacement: &str) -> Option<String> {
    if let Some(content) = &found.redacted_content {
        return Some(content.clone());
    }
    let place = |at: u64| usize::try_from(at).ok();
    let parts: Option<Vec<Range<usize>>> = found
        .detections
        .iter()
        .map(|it| {
            it.span
                .and_then(|it| Some(place(it.start)?..place(it.end)?))
        })
        .collect();
    let parts = parts.filter(|parts| !parts.is_empty())?;
    Some(texts::without(text, parts, replacement))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::memory::BufferMemory;
    use futures::FutureExt;
    use portcullis_agent_manager::AgentUse;
    use portcullis_config::{
        BodyEncoding, BodyInspection, BodyMode, FailureMode, OnOversize, PointerToken,
    };
    use std::{sync::Arc, time::Duration};

    fn guardrail() -> Guardrail {
        let body = BodyInspection {
            mode: BodyMode::Buffer,
            limit: None,
            on_oversize: OnOversize::Fail,
            encoding: BodyEncoding::Decode,
            max_ratio: 100,
            read_only: false,
        };
        let pointer = |name: &str| JsonPointer(vec![PointerToken::Named(name.to_owned())]);
        let settings = portcullis_config::Guardrail {
            used: portcullis_config::AgentUse {
                agent: "pii".into(),
                timeout: Duration::from_secs(1),
                failure_mode: FailureMode::Closed,
                shadow: None,
            },
            inspection: Inspection::PiiDetection,
            on_detect: OnDetect::Log,
            request: Some(GuardedBody {
                texts: vec![pointer("a")],
                body,
                max_texts: 9,
                not_json: Otherwise::Fail,
                unmatched: Otherwise::Pass,
            }),
            response: None,
            model: Some(pointer("model")),
            categories: Vec::new(),
        };
        let used = AgentUse {
            agent: 0,
            timeout: Duration::from_secs(1),
            failure_mode: FailureMode::Closed,
        };
        Guardrail::new(used, &settings, "llm")
    }

    #[test]
    fn a_large_body_does_not_keep_its_thread_from_others() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        runtime.block_on(find_small_and_large());
    }

    async fn find_small_and_large() {
        let guardrail = guardrail();
        let guarded = guardrail.body(Direction::Request).unwrap();
        for (rest, leaves) in [(0, false), (MOST_ON_THE_SPOT, true)] {
            let rest = "x".repeat(rest);
            let body = format!(r#"{{"model":"m","b":"{rest}","a":"text"}}"#);
            let body = Bytes::from(body);
            // The only other thread is busy, so that what needs it cannot be over at once.
            let (busy, until) = std::sync::mpsc::channel::<()>();
            let occupied = tokio::task::spawn_blocking(move || until.recv());
            let mut finding = Box::pin(guardrail.find(guarded, &body, false));
            let at_once = finding.as_mut().now_or_never();
            assert_eq!(at_once.is_none(), leaves);
            drop(busy);
            assert!(occupied.await.unwrap().is_err());
            let found = match at_once {
                Some(found) => found,
                None => finding.await,
            };
            let Ok(Found { texts, model }) = found else {
                panic!("it is JSON");
            };
            assert_eq!(model.as_deref(), Some("m"));
            assert_eq!(texts::text(&body, &texts[0]).unwrap(), "text");
        }
    }

    #[tokio::test]
    async fn a_body_that_others_could_read_in_another_way_is_no_json() {
        let guardrail = guardrail();
        let guarded = guardrail.body(Direction::Request).unwrap();
        let body = Bytes::from_static(br#"{"a":"text"}"#);
        let found = guardrail.find(guarded, &body, true).await;
        assert!(matches!(found, Err(Outcome::Unshown(Unshown::NotJson(_)))));
    }

    #[test]
    fn what_takes_the_place_of_texts_has_a_bound() {
        const WHOLE: portcullis_config::Share =
            portcullis_config::Share::of_hundredths(portcullis_config::Share::WHOLE);
        let memory = Arc::new(BufferMemory::new(100, WHOLE));
        let mut others = Replacements::new(10, Held::new(&memory));
        assert_eq!(others.add(0..1, "12345".to_owned()), Ok(()));
        assert_eq!(others.add(1..2, "12345".to_owned()), Ok(()));
        assert_eq!(memory.used(), 10);
        let grown = Err(Unshown::Grown { limit: 10 });
        assert_eq!(others.add(2..3, "1".to_owned()), grown);
        assert_eq!(others.all.len(), 2);
        let mut full = Replacements::new(1000, Held::new(&memory));
        let text = "1".repeat(91);
        assert_eq!(full.add(0..1, text), Err(Unshown::BufferFull));
        drop((others, full));
        assert_eq!(memory.used(), 0);
    }
}
