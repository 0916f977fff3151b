//! A text for a guardrail, and what it found, in the binary encoding.

use std::borrow::Cow;

use bytes::Bytes;

use super::event::{self, Sections};
use super::read::{Malformed, Reader};
use super::write;
use crate::codec::DecodedGuardrailInspect;
use crate::{Detection, GuardrailInspect, GuardrailResult, InspectionType, Severity, TextSpan};

const TEXT: u8 = 2;

const RESPONSE: u8 = 1;

const PROMPT_INJECTION: u8 = 1;
const PII_DETECTION: u8 = 2;

pub(super) fn encode(out: &mut Vec<u8>, event_id: u64, event: &GuardrailInspect<'_>) {
    event::begin(out, event_id, event.correlation_id);
    event::encode_budget(out, event.budget_left);
    write::section(out, TEXT, |out| {
        out.push(match event.inspection_type {
            InspectionType::PromptInjection => PROMPT_INJECTION,
            InspectionType::PiiDetection => PII_DETECTION,
        });
        out.push(if event.is_response { RESPONSE } else { 0 });
        write::optional(out, event.model);
        write::optional(out, event.route_id);
        write::strings(out, event.categories);
        write::pairs(out, event.metadata);
        write::string(out, event.content);
    });
}

pub(super) fn decode<'a>(
    _payload: &'a Bytes,
    [request, text, _, budget]: Sections<'a>,
) -> Result<DecodedGuardrailInspect<'a>, Malformed> {
    let correlation_id = event::decode_request(request)?.into();
    let mut text = text.ok_or("the text is missing")?;
    let inspection_type = match text.u8()? {
        PROMPT_INJECTION => InspectionType::PromptInjection,
        PII_DETECTION => InspectionType::PiiDetection,
        _ => return Err("the inspection type is not known"),
    };
    let flags = text.u8()?;
    // The fields are read in the order of the layout.
    Ok(DecodedGuardrailInspect {
        correlation_id,
        inspection_type,
        is_response: flags & RESPONSE != 0,
        model: text.optional()?.map(Cow::Borrowed),
        route_id: text.optional()?.map(Cow::Borrowed),
        categories: text.strings()?,
        metadata: text.pairs()?,
        content: text.string()?.into(),
        budget_left: event::decode_budget(budget)?,
    })
}

/// Writes what a guardrail found.
pub(super) fn encode_result(out: &mut Vec<u8>, result: &GuardrailResult) {
    out.push(result.detected.into());
    confidence(out, Some(result.confidence));
    write::optional(out, result.redacted_content.as_deref());
    write::count(out, result.detections.len());
    for found in &result.detections {
        write::string(out, &found.category);
        write::string(out, &found.description);
        write::string(out, found.severity.name());
        confidence(out, found.confidence);
        out.push(found.span.is_some().into());
        if let Some(TextSpan { start, end }) = found.span {
            out.extend_from_slice(&start.to_be_bytes());
            out.extend_from_slice(&end.to_be_bytes());
        }
    }
}

fn confidence(out: &mut Vec<u8>, confidence: Option<f32>) {
    out.push(confidence.is_some().into());
    if let Some(confidence) = confidence {
        out.extend_from_slice(&confidence.to_bits().to_be_bytes());
    }
}

/// The way back.
pub(super) fn decode_result(mut reader: Reader<'_>) -> Result<GuardrailResult, Malformed> {
    Ok(GuardrailResult {
        detected: reader.present()?,
        confidence: decode_confidence(&mut reader)?.unwrap_or_default(),
        redacted_content: reader.optional()?.map(str::to_owned),
        // Three texts and two bytes.
        detections: reader.list(14, |reader| {
            Ok(Detection {
                category: reader.string()?.to_owned(),
                description: reader.string()?.to_owned(),
                severity: Severity::from_name(reader.string()?),
                confidence: decode_confidence(reader)?,
                span: match reader.present()? {
                    true => Some(TextSpan {
                        start: reader.u64()?,
                        end: reader.u64()?,
                    }),
                    false => None,
                },
            })
        })?,
    })
}

fn decode_confidence(reader: &mut Reader<'_>) -> Result<Option<f32>, Malformed> {
    match reader.present()? {
        true => super::answer::decode_confidence(reader.u32()?).map(Some),
        false => Ok(None),
    }
}
