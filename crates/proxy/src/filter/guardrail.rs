//! Guardrails: shows an agent the texts of a body that is held, one after the other, and does with the message what the route
//! says when something is found.

mod texts;

use super::{agents, bodies::Direction};
use crate::{
    exchange::{
        pipe::{Piece, Unshown},
        plan::Step,
    },
    reply::Reply,
    request::{Begun, Request},
};
use bytes::Bytes;
use portcullis_agent_manager::{AgentUse, Ask, Phase};
use portcullis_agent_protocol::{Event, GuardrailInspect, GuardrailResult, InspectionType};
use portcullis_config::{GuardedBody, Inspection, OnDetect, Otherwise};
use std::ops::Range;
use texts::Text;

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

    /// Looks at a whole body.
    pub(super) async fn look(
        &self,
        direction: Direction,
        step: &Step,
        piece: &Piece,
        request: &Request,
        begun: &Begun,
    ) -> Outcome {
        let Some(guarded) = self.body(direction) else {
            return Outcome::Passes;
        };
        if piece.data.is_empty() {
            return Outcome::Passes;
        }
        let found = texts::find(&piece.data, &guarded.texts, guarded.max_texts);
        let found = match found {
            Ok(found) => found,
            Err(why) if guarded.not_json == Otherwise::Pass => {
                return Outcome::Skipped(format!("the body is not JSON: {why}"));
            }
            Err(why) => return Outcome::Unshown(Unshown::NotJson(why)),
        };
        match guarded.unmatched {
            _ if !found.is_empty() => {}
            Otherwise::Pass => return Outcome::Skipped("the body has no such text".to_owned()),
            Otherwise::Fail => return Outcome::Unshown(Unshown::NoText),
        }
        if found.len() > guarded.max_texts {
            let most = guarded.max_texts;
            return Outcome::Unshown(Unshown::TooManyTexts { most });
        }
        let model = self.settings.model.as_ref().and_then(|place| {
            let named = texts::find(&piece.data, std::slice::from_ref(place), 1);
            named.ok()?.into_iter().next().map(|named| named.text)
        });
        let asking = Asking {
            guardrail: self,
            direction,
            position: step.filter,
            model: model.as_deref(),
            request,
            begun,
        };
        let mut others = Vec::new();
        for Text { place, text } in found {
            match asking.about(&text).await {
                Ok(None) => {}
                Ok(Some(other)) => others.push((place, other)),
                Err(reply) => return Outcome::Stopped(reply),
            }
        }
        match others.is_empty() {
            true => Outcome::Passes,
            false => Outcome::Replaced(texts::replace(&piece.data, &others).into()),
        }
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
