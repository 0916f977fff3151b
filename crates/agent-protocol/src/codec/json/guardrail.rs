//! A text for a guardrail, and what it found, in JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::event::{self, Text};
use super::write;
use crate::codec::{BadMessage, DecodedGuardrailInspect, EventId};
use crate::{Detection, GuardrailInspect, GuardrailResult, InspectionType, Severity, TextSpan};

const WHAT: &str = "guardrail-inspect event";

/// The member of the metadata that says whose text it is.
const DIRECTION: &str = "direction";
const REQUEST: &str = "request";
const RESPONSE: &str = "response";

pub(super) fn encode(out: &mut Vec<u8>, event_number: Option<u64>, event: &GuardrailInspect<'_>) {
    event::begin(out, event_number, event.correlation_id, event.budget_left);
    out.extend_from_slice(b",\"inspection_type\":");
    write::string(out, event.inspection_type.name());
    out.extend_from_slice(b",\"content\":");
    write::string(out, event.content);
    if let Some(model) = event.model {
        out.extend_from_slice(b",\"model\":");
        write::string(out, model);
    }
    out.extend_from_slice(b",\"categories\":[");
    for (number, category) in event.categories.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write::string(out, category);
    }
    out.push(b']');
    if let Some(route_id) = event.route_id {
        out.extend_from_slice(b",\"route_id\":");
        write::string(out, route_id);
    }
    out.extend_from_slice(b",\"metadata\":{\"direction\":");
    write::string(out, if event.is_response { RESPONSE } else { REQUEST });
    for (name, value) in event.metadata.iter().filter(|(name, _)| name != DIRECTION) {
        out.push(b',');
        write::string(out, name);
        out.push(b':');
        write::string(out, value);
    }
    out.extend_from_slice(b"}}");
}

pub(super) fn decode(
    payload: &[u8],
    by_number: bool,
) -> Result<(EventId, DecodedGuardrailInspect<'_>), BadMessage> {
    let mut wire: WireInspect<'_> = event::read(payload, by_number, WHAT)?;
    let correlation_id = wire.correlation_id.0;
    let id = event::id(wire.event_id, &correlation_id, by_number, WHAT)?;
    let direction = wire.metadata.remove(DIRECTION);
    let event = DecodedGuardrailInspect {
        correlation_id,
        inspection_type: wire.inspection_type,
        content: wire.content.0,
        model: wire.model.map(|text| text.0),
        categories: wire.categories,
        route_id: wire.route_id.map(|text| text.0),
        is_response: direction.as_deref() == Some(RESPONSE),
        metadata: wire.metadata.into_iter().collect(),
        budget_left: event::budget_left(wire.budget_left_us, by_number),
    };
    Ok((id, event))
}

#[derive(Deserialize)]
struct WireInspect<'a> {
    #[serde(borrow)]
    correlation_id: Text<'a>,
    #[serde(default)]
    event_id: Option<u64>,
    #[serde(default)]
    budget_left_us: Option<u64>,
    #[serde(deserialize_with = "inspection_type")]
    inspection_type: InspectionType,
    content: Text<'a>,
    #[serde(default)]
    model: Option<Text<'a>>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    route_id: Option<Text<'a>>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

fn inspection_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<InspectionType, D::Error> {
    let name = Text::deserialize(deserializer)?.0;
    InspectionType::from_name(&name)
        .ok_or_else(|| de::Error::custom("the inspection type is not known"))
}

/// What a guardrail found, as the text that stands in an answer.
///
/// # Errors
/// When it cannot be written as JSON.
pub(in crate::codec) fn write_result(
    result: &GuardrailResult,
) -> Result<String, serde_json::Error> {
    let detections = result.detections.iter().map(|found| WireDetection {
        category: Cow::Borrowed(&found.category),
        description: Cow::Borrowed(&found.description),
        severity: Cow::Borrowed(found.severity.name()),
        confidence: found.confidence,
        span: found.span.map(|span| WireSpan {
            start: span.start,
            end: span.end,
        }),
    });
    serde_json::to_string(&WireResult {
        detected: result.detected,
        confidence: result.confidence,
        detections: detections.collect(),
        redacted_content: result.redacted_content.as_deref().map(Cow::Borrowed),
    })
}

/// The way back.
///
/// # Errors
/// What is wrong with it.
pub(in crate::codec) fn read_result(text: &str) -> Result<GuardrailResult, String> {
    let wire: WireResult<'_> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let detections = wire.detections.into_iter().map(|found| Detection {
        category: found.category.into_owned(),
        description: found.description.into_owned(),
        severity: Severity::from_name(&found.severity),
        confidence: found.confidence,
        span: found.span.map(|span| TextSpan {
            start: span.start,
            end: span.end,
        }),
    });
    let result = GuardrailResult {
        detected: wire.detected,
        confidence: wire.confidence,
        detections: detections.collect(),
        redacted_content: wire.redacted_content.map(Cow::into_owned),
    };
    // Numbers beyond 32 bits of floating point are read as infinite.
    let own = std::iter::once(result.confidence);
    let mut all = own.chain(result.detections.iter().filter_map(|it| it.confidence));
    match all.all(f32::is_finite) {
        true => Ok(result),
        false => Err("a confidence is out of range".to_owned()),
    }
}

#[derive(Serialize, Deserialize)]
struct WireResult<'a> {
    detected: bool,
    #[serde(default)]
    confidence: f32,
    #[serde(default)]
    detections: Vec<WireDetection<'a>>,
    #[serde(default)]
    redacted_content: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct WireDetection<'a> {
    category: Cow<'a, str>,
    #[serde(default)]
    description: Cow<'a, str>,
    #[serde(default)]
    severity: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confidence: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    span: Option<WireSpan>,
}

#[derive(Serialize, Deserialize)]
struct WireSpan {
    start: u64,
    end: u64,
}
