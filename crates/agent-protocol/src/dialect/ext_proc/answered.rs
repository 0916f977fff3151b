//! From what the agent answers to decisions. Pure.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Number, Value as Json};

use super::messages::{
    self, ADD_IF_ABSENT, Answered, BodyMutation, CONTINUE_AND_REPLACE, CommonResponse,
    HeaderMutation, HeaderValueOption, ImmediateResponse, Kind, Mutation, OVERWRITE_IF_EXISTS,
    ProcessingResponse, Struct, Value,
};
use super::options::ExtProcOptions;
use super::progress::Progress;
use super::told::Part;
use crate::header_name::folded;
use crate::{Decision, HeaderOp, ProtocolError, Verdict};

/// Envoy's own, for an immediate response that names none.
const DEFAULT_STATUS: u16 = 200;
/// More members of dynamic metadata than this become no tags.
const MOST_TAGS: usize = 8;

/// What an answer comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) decision: Decision,
    /// Things that the agent asked for and that are not done.
    pub(super) refused: u64,
    /// It has decided, and is asked nothing more about this request.
    pub(super) is_final: bool,
}

impl Outcome {
    /// Of the second of two messages about one event.
    pub(super) fn and(mut self, later: Self) -> Self {
        if later.is_final {
            return Self {
                refused: self.refused + later.refused,
                ..later
            };
        }
        self.refused += later.refused;
        self
    }
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        Self {
            decision,
            refused: 0,
            is_final: false,
        }
    }
}

/// An answer that is none.
pub(super) fn malformed(detail: impl ToString) -> ProtocolError {
    ProtocolError::malformed("answer", detail)
}

/// For how much longer the agent is waited for that asks for this; `None` when it may not have that.
pub(super) fn granted(wanted: &messages::Duration, options: &ExtProcOptions) -> Option<Duration> {
    let seconds = Duration::from_secs(u64::try_from(wanted.seconds).ok()?);
    let nanos = Duration::from_nanos(u64::try_from(wanted.nanos).ok()?);
    let wanted = seconds.saturating_add(nanos);
    let range = Duration::from_millis(1)..=options.max_message_timeout?;
    range.contains(&wanted).then_some(wanted)
}

/// # Errors
/// The answer is about something else, or cannot be carried out.
pub(super) fn outcome(
    part: Part,
    response: ProcessingResponse,
    options: &ExtProcOptions,
    progress: &mut Progress,
) -> Result<Outcome, ProtocolError> {
    let mut reading = Reading {
        part,
        options,
        refused: 0,
    };
    let mut is_final = false;
    let mut decision = match (response.response, part) {
        (Some(Answered::RequestHeaders(it)), Part::RequestHeaders)
        | (Some(Answered::ResponseHeaders(it)), Part::ResponseHeaders) => {
            let decision = reading.head(it.response.unwrap_or_default(), progress)?;
            if let Some(wanted) = &response.mode_override
                && !progress.override_mode(wanted, options)
            {
                reading.refused += 1;
            }
            decision
        }
        (Some(Answered::RequestBody(it)), Part::RequestBody)
        | (Some(Answered::ResponseBody(it)), Part::ResponseBody) => {
            reading.body(it.response.unwrap_or_default(), progress)?
        }
        // Nobody can change trailers here.
        (Some(Answered::RequestTrailers(it)), Part::RequestTrailers)
        | (Some(Answered::ResponseTrailers(it)), Part::ResponseTrailers) => {
            let wanted = it.header_mutation.unwrap_or_default();
            let count = wanted.set_headers.len() + wanted.remove_headers.len();
            for _ in 0..count {
                reading.refuse("a change of trailers")?;
            }
            Decision::allow()
        }
        (Some(Answered::Immediate(it)), _) => {
            is_final = true;
            reading.immediate(it, progress)?
        }
        (None, _) => return Err(malformed("it answers nothing")),
        (Some(other), _) => {
            let (found, wanted) = (other.name(), part.name());
            return Err(malformed(format!("`{found}` where `{wanted}` is due")));
        }
    };
    if let Some(metadata) = response.dynamic_metadata {
        decision = with_metadata(decision, metadata);
    }
    Ok(Outcome {
        decision,
        refused: reading.refused,
        is_final,
    })
}

struct Reading<'a> {
    part: Part,
    options: &'a ExtProcOptions,
    refused: u64,
}

impl Reading<'_> {
    /// Something that is not done. Where that is how it is, it is counted; else the answer is void.
    fn refuse(&mut self, what: &str) -> Result<(), ProtocolError> {
        if self.options.strict {
            return Err(malformed(format!("{what} cannot be done")));
        }
        self.refused += 1;
        Ok(())
    }

    fn head(
        &mut self,
        response: CommonResponse,
        progress: &mut Progress,
    ) -> Result<Decision, ProtocolError> {
        let replaces = response.status == CONTINUE_AND_REPLACE;
        let operations = self.common(&response, replaces, progress)?;
        let body = replacement(response.body_mutation)?;
        match (replaces, body) {
            (false, None) => {}
            // As in Envoy, only an answer with that status replaces a body that was not shown yet.
            (false, Some(_)) => self.refuse("a body without CONTINUE_AND_REPLACE")?,
            (true, None) => progress.leave_out_rest(self.part),
            (true, Some(data)) => {
                if !progress.replace(self.part, data, self.options) {
                    return Err(malformed(
                        "CONTINUE_AND_REPLACE where there is no body, or none that the agent inspects",
                    ));
                }
            }
        }
        Ok(self.with(operations))
    }

    fn body(
        &mut self,
        response: CommonResponse,
        progress: &mut Progress,
    ) -> Result<Decision, ProtocolError> {
        let replaces = response.status == CONTINUE_AND_REPLACE;
        let changes = response.body_mutation.is_some();
        let operations = self.common(&response, changes, progress)?;
        let body = replacement(response.body_mutation)?;
        match (replaces, &body) {
            (false, _) => {}
            (true, None) => progress.leave_out_rest(self.part),
            (true, Some(_)) => progress.drop_rest(self.part),
        }
        let mut decision = self.with(operations);
        match self.part.is_of_request() {
            true => decision.request_body = body,
            false => decision.response_body = body,
        }
        Ok(decision)
    }

    /// What the answers to heads and bodies have in common: changes of the head. The length of a body that is changed is
    /// for us to say, whatever the agent says of it.
    fn common(
        &mut self,
        response: &CommonResponse,
        changes_body: bool,
        progress: &Progress,
    ) -> Result<Vec<HeaderOp>, ProtocolError> {
        if response.clear_route_cache {
            self.refused += 1;
        }
        let Some(mutation) = &response.header_mutation else {
            return Ok(Vec::new());
        };
        let mut operations = self.operations(mutation, progress)?;
        if changes_body {
            operations.retain(|operation| !operation.name().eq_ignore_ascii_case("content-length"));
        }
        Ok(operations)
    }

    fn with(&self, operations: Vec<HeaderOp>) -> Decision {
        let mut decision = Decision::allow();
        match self.part.is_of_request() {
            true => decision.request_headers = operations,
            false => decision.response_headers = operations,
        }
        decision
    }

    /// In the order in which Envoy does it: what is removed first.
    fn operations(
        &mut self,
        mutation: &HeaderMutation,
        progress: &Progress,
    ) -> Result<Vec<HeaderOp>, ProtocolError> {
        let mut operations = Vec::new();
        for name in &mutation.remove_headers {
            if self.is_ours(name)? {
                operations.push(HeaderOp::Remove { name: name.clone() });
            }
        }
        for option in &mutation.set_headers {
            operations.extend(self.set(option, progress)?);
        }
        Ok(operations)
    }

    fn set(
        &mut self,
        option: &HeaderValueOption,
        progress: &Progress,
    ) -> Result<Option<HeaderOp>, ProtocolError> {
        let Some(header) = &option.header else {
            return Ok(None);
        };
        let name = header.key.to_ascii_lowercase();
        if !self.is_ours(&name)? {
            return Ok(None);
        }
        let value = match header.raw_value.is_empty() {
            true => header.value.clone(),
            false => match String::from_utf8(header.raw_value.to_vec()) {
                Ok(value) => value,
                Err(_) => {
                    self.refuse("a header whose value is not UTF-8")?;
                    return Ok(None);
                }
            },
        };
        if option.append == Some(true) {
            return Ok(Some(HeaderOp::Add { name, value }));
        }
        // Envoy does not look at it here, and neither do we unless the operator wants it.
        if self.options.strict && option.append.is_none() {
            let exists = progress.has_header(self.part, &name);
            match option.append_action {
                ADD_IF_ABSENT if exists => return Ok(None),
                OVERWRITE_IF_EXISTS if !exists => return Ok(None),
                _ => {}
            }
        }
        Ok(Some(HeaderOp::Set { name, value }))
    }

    /// Headers that speak of Envoy are for Envoy alone.
    fn is_ours(&mut self, name: &str) -> Result<bool, ProtocolError> {
        let is_envoys = folded(name).starts_with("x-envoy-");
        if is_envoys {
            self.refuse(&format!("a change of the header '{name}'"))?;
        }
        Ok(!is_envoys)
    }

    fn immediate(
        &mut self,
        response: ImmediateResponse,
        progress: &Progress,
    ) -> Result<Decision, ProtocolError> {
        let status = match response.status.map_or(0, |status| status.code) {
            0 => DEFAULT_STATUS,
            code => u16::try_from(code).map_err(|_| malformed(format!("status {code}")))?,
        };
        let mutation = response.headers.unwrap_or_default();
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut removed = Vec::new();
        for operation in self.operations(&mutation, progress)? {
            match operation {
                HeaderOp::Set { name, value } => {
                    headers.retain(|(other, _)| *other != name);
                    headers.push((name, value));
                }
                HeaderOp::Add { name, value } => headers.push((name, value)),
                removal @ HeaderOp::Remove { .. } => removed.push(removal),
            }
        }
        // It is framed by whoever sends it.
        headers.retain(|(name, _)| name != "content-length");
        let mut decision = match redirection(status, &response.body, &mut headers) {
            Some(redirect) => {
                let mut decision = Decision::from(redirect);
                let more = headers.into_iter();
                let more = more.map(|(name, value)| HeaderOp::Set { name, value });
                decision.response_headers.extend(more);
                decision
            }
            None => {
                if let Some(grpc) = response.grpc_status {
                    headers.push(("grpc-status".to_owned(), grpc.status.to_string()));
                }
                Verdict::Block {
                    status,
                    body: Some(response.body),
                    headers,
                }
                .into()
            }
        };
        decision.response_headers.extend(removed);
        match response.details.is_empty() {
            true => Ok(decision),
            false => Ok(decision.reason(response.details)),
        }
    }
}

/// An immediate response that does nothing but send the client elsewhere is called so.
fn redirection(status: u16, body: &Bytes, headers: &mut Vec<(String, String)>) -> Option<Verdict> {
    if !matches!(status, 300..=303 | 307 | 308) || !body.is_empty() {
        return None;
    }
    let at = headers.iter().position(|(name, _)| name == "location")?;
    let (_, url) = headers.remove(at);
    Some(Verdict::Redirect { url, status })
}

/// What takes the place of a body.
fn replacement(mutation: Option<BodyMutation>) -> Result<Option<Bytes>, ProtocolError> {
    match mutation.and_then(|mutation| mutation.mutation) {
        None | Some(Mutation::ClearBody(false)) => Ok(None),
        Some(Mutation::Body(data)) => Ok(Some(data)),
        Some(Mutation::ClearBody(true)) => Ok(Some(Bytes::new())),
        Some(Mutation::StreamedResponse(_)) => Err(malformed(
            "`streamed_response`, which belongs to FULL_DUPLEX_STREAMED",
        )),
    }
}

impl Answered {
    const fn name(&self) -> &'static str {
        match self {
            Self::RequestHeaders(_) => Part::RequestHeaders.name(),
            Self::ResponseHeaders(_) => Part::ResponseHeaders.name(),
            Self::RequestBody(_) => Part::RequestBody.name(),
            Self::ResponseBody(_) => Part::ResponseBody.name(),
            Self::RequestTrailers(_) => Part::RequestTrailers.name(),
            Self::ResponseTrailers(_) => Part::ResponseTrailers.name(),
            Self::Immediate(_) => "immediate_response",
            Self::StreamedImmediate(_) => "streamed_immediate_response",
        }
    }
}

/// Dynamic metadata goes into the audit data as it is, and what is simple in it becomes tags.
fn with_metadata(mut decision: Decision, metadata: Struct) -> Decision {
    let mut left = MOST_TAGS;
    for (name, value) in object(metadata) {
        let members = match &value {
            Json::Object(members) => members
                .iter()
                .map(|(inner, value)| (format!("{name}.{inner}"), value))
                .collect(),
            value => vec![(name.clone(), value)],
        };
        for (name, value) in members {
            let text = match value {
                Json::String(text) => text.clone(),
                Json::Number(_) | Json::Bool(_) => value.to_string(),
                Json::Null | Json::Array(_) | Json::Object(_) => continue,
            };
            if left > 0 {
                left -= 1;
                decision = decision.tag(format!("{name}={text}"));
            }
        }
        decision = decision.custom(name, value);
    }
    decision
}

/// As deep as the message was, whose depth was bounded when it was read.
fn object(from: Struct) -> Map<String, Json> {
    let members = from.fields.into_iter();
    members.map(|(name, value)| (name, json(value))).collect()
}

fn json(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::Null(_)) => Json::Null,
        Some(Kind::Number(number)) => whole(number).unwrap_or(Json::Null),
        Some(Kind::Text(text)) => Json::String(text),
        Some(Kind::Bool(it)) => Json::Bool(it),
        Some(Kind::Struct(inner)) => Json::Object(object(inner)),
        Some(Kind::List(list)) => Json::Array(list.values.into_iter().map(json).collect()),
    }
}

/// Whole numbers are written as such.
fn whole(number: f64) -> Option<Json> {
    let integer = number as i64;
    match integer as f64 == number && integer.unsigned_abs() < 1 << 53 {
        true => Some(Json::from(integer)),
        false => Number::from_f64(number).map(Json::Number),
    }
}
