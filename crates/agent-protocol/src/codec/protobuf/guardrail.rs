//! Texts for guardrails in protobuf. Published peers have no place for what is
//! looked for and for what was found, so both go as JSON: the one in
//! `context_json`, the other in a field of ours.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::messages::GuardrailInspectEvent;
use crate::codec::DecodedGuardrailInspect;
use crate::{GuardrailInspect, InspectionType};

/// `GUARDRAIL_CONTENT_TYPE_PROMPT` and `GUARDRAIL_CONTENT_TYPE_RESPONSE`.
const PROMPT: i32 = 1;
const RESPONSE: i32 = 2;

pub(super) fn encode(event: &GuardrailInspect<'_>) -> GuardrailInspectEvent {
    let metadata: BTreeMap<_, _> = event.metadata.iter().map(|(name, it)| (name, it)).collect();
    let context = serde_json::json!({
        "inspection_type": event.inspection_type.name(),
        "categories": event.categories,
        "route_id": event.route_id,
        "metadata": metadata,
    });
    GuardrailInspectEvent {
        correlation_id: event.correlation_id.to_owned(),
        content: event.content.to_owned(),
        content_type: if event.is_response { RESPONSE } else { PROMPT },
        model: event.model.map(str::to_owned),
        context_json: context.to_string(),
    }
}

pub(super) fn decode(
    event: &GuardrailInspectEvent,
    budget_left: Option<Duration>,
) -> Result<DecodedGuardrailInspect<'_>, String> {
    let context: Context = serde_json::from_str(&event.context_json)
        .map_err(|error| format!("context_json: {error}"))?;
    let inspection_type = InspectionType::from_name(&context.inspection_type)
        .ok_or("the inspection type is not known")?;
    Ok(DecodedGuardrailInspect {
        correlation_id: Cow::Borrowed(&event.correlation_id),
        inspection_type,
        content: Cow::Borrowed(&event.content),
        model: event.model.as_deref().map(Cow::Borrowed),
        categories: context.categories,
        route_id: context.route_id.map(Cow::Owned),
        is_response: event.content_type == RESPONSE,
        metadata: context.metadata.into_iter().collect(),
        budget_left,
    })
}

#[derive(Deserialize)]
struct Context {
    inspection_type: String,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    route_id: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}
