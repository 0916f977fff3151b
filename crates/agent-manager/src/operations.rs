//! What an agent may do to a message. One bad operation makes the whole answer invalid, so that half of an answer is never
//! applied.

use crate::headers::HeaderNames;
use portcullis_agent_protocol::{Decision, Event, EventKind, HeaderOp, Verdict};
use portcullis_config::why_protected;

/// An answer may change at most this many headers.
const MOST_OPERATIONS: usize = 256;
/// Names and values of all headers of an answer together.
const MOST_HEADER_BYTES: usize = 64 * 1024;

/// Why an answer to an event would be a `protocol_error`, whatever headers other agents own; `None` when it would not. For
/// tools that look at agents beside requests.
pub fn problem_of(decision: &Decision, event: &Event<'_>) -> Option<String> {
    validate_answer(decision, event, &HeaderNames::default()).err()
}

/// Checks everything in the answer to an event that could break a message or a WebSocket.
///
/// # Errors
/// What is wrong, for the log.
pub(crate) fn validate_answer(
    decision: &Decision,
    event: &Event<'_>,
    foreign: &HeaderNames,
) -> Result<(), String> {
    validate(decision, event.kind(), foreign)?;
    match event {
        Event::WebSocketFrame(frame) => {
            let change = decision.websocket.as_ref();
            change.map_or(Ok(()), |change| change.validate(frame.opcode))
        }
        Event::GuardrailInspect(text) => {
            let found = decision.guardrail.as_ref();
            found.map_or(Ok(()), |found| found.validate(text.content))
        }
        _ => Ok(()),
    }
}

/// What was taken out of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// How many operations.
    pub(crate) count: u64,
    /// What is wrong with the first of them, for the log.
    pub(crate) first: String,
}

/// Takes out of an answer each operation on headers for which [`validate_answer`] would find all of it invalid, as the
/// servers of some dialects expect. What else can be wrong with an answer stays.
pub(crate) fn drop_bad_operations(
    decision: &mut Decision,
    foreign: &HeaderNames,
    own: Option<&HeaderNames>,
) -> Option<Dropped> {
    let mut dropped = None;
    let mut is_good = |checked: Result<(), String>| {
        let Err(problem) = checked else { return true };
        let dropped = dropped.get_or_insert(Dropped {
            count: 0,
            first: problem,
        });
        dropped.count += 1;
        false
    };
    decision.request_headers.retain(|operation| {
        let checked = validate_operation(operation)
            .and_then(|()| validate_owner(operation, foreign))
            .and_then(|()| validate_own(operation, own));
        is_good(checked)
    });
    decision
        .response_headers
        .retain(|operation| is_good(validate_operation(operation)));
    if let Verdict::Block { headers, .. } = &mut decision.verdict {
        headers.retain(|(name, value)| is_good(validate_header(name, value)));
    }
    dropped
}

/// Checks everything in a decision that could break a message, whatever the event of this kind holds.
fn validate(decision: &Decision, kind: EventKind, foreign: &HeaderNames) -> Result<(), String> {
    validate_size(decision)?;
    validate_phase(decision, kind)?;
    for operation in &decision.request_headers {
        validate_operation(operation)?;
        validate_owner(operation, foreign)?;
    }
    for operation in &decision.response_headers {
        validate_operation(operation)?;
    }
    match &decision.verdict {
        Verdict::Allow => Ok(()),
        Verdict::Block {
            status, headers, ..
        } => {
            if !(200..=599).contains(status) {
                return Err(format!(
                    "block with status {status}, which is not in 200-599"
                ));
            }
            headers
                .iter()
                .try_for_each(|(name, value)| validate_header(name, value))
        }
        Verdict::Redirect { url, status } => validate_redirect(url, *status),
        Verdict::Challenge { params, .. } => params
            .iter()
            .filter(|(name, _)| {
                name.eq_ignore_ascii_case("www-authenticate")
                    || name.eq_ignore_ascii_case("content-type")
            })
            .try_for_each(|(name, value)| validate_header(name, value)),
    }
}

/// What was not shown cannot be changed, and what has gone on its way cannot either.
fn validate_phase(decision: &Decision, kind: EventKind) -> Result<(), String> {
    use EventKind::{
        GuardrailInspect, RequestBodyChunk, ResponseBodyChunk, ResponseHeaders, WebSocketFrame,
    };
    if decision.request_body.is_some() && kind != RequestBodyChunk {
        return Err("a change of the request's body, which was not asked about".into());
    }
    if decision.response_body.is_some() && kind != ResponseBodyChunk {
        return Err("a change of the response's body, which was not asked about".into());
    }
    if decision.websocket.is_some() && kind != WebSocketFrame {
        return Err("a change of a WebSocket frame, which was not asked about".into());
    }
    if decision.guardrail.is_some() && kind != GuardrailInspect {
        return Err("a finding about a text, which was not asked about".into());
    }
    if kind == WebSocketFrame {
        return validate_socket(decision);
    }
    let changes_heads =
        !decision.request_headers.is_empty() || !decision.response_headers.is_empty();
    if kind == GuardrailInspect && changes_heads {
        return Err("a change of headers in the answer to a text".into());
    }
    let is_response = matches!(kind, ResponseHeaders | ResponseBodyChunk);
    if is_response && !decision.request_headers.is_empty() {
        return Err("a change of the request's headers when the response is here".into());
    }
    Ok(())
}

/// Both heads have gone when there are frames, and nobody can be sent elsewhere: every verdict but allow closes the WebSocket.
fn validate_socket(decision: &Decision) -> Result<(), String> {
    if !decision.request_headers.is_empty() || !decision.response_headers.is_empty() {
        return Err("a change of headers when they have long gone".into());
    }
    Ok(())
}

/// A message has room for so much; what is more would fail it later, or burden the next hop.
fn validate_size(decision: &Decision) -> Result<(), String> {
    let length = |operation: &HeaderOp| match operation {
        HeaderOp::Set { name, value } | HeaderOp::Add { name, value } => name.len() + value.len(),
        HeaderOp::Remove { name } => name.len(),
    };
    let pair = |(name, value): &(String, String)| name.len() + value.len();
    let (own, own_bytes) = match &decision.verdict {
        Verdict::Block { headers, .. } => (headers.len(), headers.iter().map(pair).sum()),
        Verdict::Redirect { url, .. } => (1, url.len()),
        Verdict::Challenge { params, .. } => (
            params.len(),
            params
                .iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case("body"))
                .map(pair)
                .sum(),
        ),
        Verdict::Allow => (0, 0),
    };
    let operations = || {
        decision
            .request_headers
            .iter()
            .chain(&decision.response_headers)
    };
    let count = own + operations().count();
    let bytes: usize = own_bytes + operations().map(length).sum::<usize>();
    if count > MOST_OPERATIONS || bytes > MOST_HEADER_BYTES {
        return Err(format!(
            "{count} header operations of {bytes} bytes; at most {MOST_OPERATIONS} of {MOST_HEADER_BYTES} bytes are allowed"
        ));
    }
    Ok(())
}

fn validate_operation(operation: &HeaderOp) -> Result<(), String> {
    match operation {
        HeaderOp::Set { name, value } | HeaderOp::Add { name, value } => {
            validate_header(name, value)
        }
        HeaderOp::Remove { name } => validate_name(name),
    }
}

/// A header that another agent owns is that agent's word alone.
fn validate_owner(operation: &HeaderOp, foreign: &HeaderNames) -> Result<(), String> {
    let name = operation.name();
    if foreign.contains(name) {
        return Err(format!("header '{name}' belongs to another agent"));
    }
    Ok(())
}

/// An agent of which others expect that a client cannot say what it says: all that it sets has to be its own. With `None`
/// it may set what nobody owns.
pub(crate) fn validate_own(operation: &HeaderOp, own: Option<&HeaderNames>) -> Result<(), String> {
    match (operation, own) {
        (HeaderOp::Set { name, .. } | HeaderOp::Add { name, .. }, Some(own))
            if !own.contains(name) =>
        {
            Err(format!(
                "header '{name}' is set by an agent that does not own it; write it into its `owns-headers`"
            ))
        }
        _ => Ok(()),
    }
}

fn validate_header(name: &str, value: &str) -> Result<(), String> {
    validate_name(name)?;
    // No value holds CR, LF or NUL.
    if http::HeaderValue::from_bytes(value.as_bytes()).is_err() {
        return Err(format!(
            "header '{name}' with a forbidden byte in its value"
        ));
    }
    Ok(())
}

fn validate_name(name: &str) -> Result<(), String> {
    let Ok(parsed) = http::HeaderName::from_bytes(name.as_bytes()) else {
        return Err(format!("'{}' is not a header name", name.escape_debug()));
    };
    if why_protected(parsed.as_str()).is_some() {
        return Err(format!("header '{parsed}' may not be changed by an agent"));
    }
    Ok(())
}

fn validate_redirect(url: &str, status: u16) -> Result<(), String> {
    if !matches!(status, 300..=303 | 307 | 308) {
        return Err(format!(
            "redirect with status {status}, which does not redirect"
        ));
    }
    if url.is_empty()
        || url
            .bytes()
            .any(|byte| byte <= b' ' || matches!(byte, 0x7f | b'\\'))
    {
        return Err(
            "redirect to an empty URL or one with white space, controls or a backslash".into(),
        );
    }
    // A scheme is what stands before the first ':' when no '/', '?' or '#' comes earlier (RFC 3986 section 4.2).
    let scheme = url
        .find([':', '/', '?', '#'])
        .filter(|&at| url.as_bytes()[at] == b':');
    let Some(at) = scheme else { return Ok(()) };
    let (scheme, rest) = url.split_at(at);
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if !known || !rest.starts_with("://") || rest.len() == 3 {
        return Err(format!(
            "redirect to '{}', which is neither relative nor an http or https URL",
            url.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use portcullis_agent_protocol::{FrameOpcode, GuardrailResult, WebSocketFrame};

    fn validate_head(decision: &Decision, foreign: &HeaderNames) -> Result<(), String> {
        validate(decision, EventKind::RequestHeaders, foreign)
    }

    #[test]
    fn only_what_was_shown_can_be_changed() {
        use EventKind::{
            GuardrailInspect, RequestBodyChunk, RequestComplete, RequestHeaders, ResponseBodyChunk,
            ResponseHeaders, WebSocketFrame,
        };
        let table = [
            (
                Decision::allow().replace_request_body("x"),
                [false, true, false, false, false, false, false],
            ),
            (
                Decision::allow().replace_response_body("x"),
                [false, false, false, true, false, false, false],
            ),
            (
                Decision::allow().set_request_header("x", "1"),
                [true, true, false, false, true, false, false],
            ),
            (
                Decision::allow().set_response_header("x", "1"),
                [true, true, true, true, true, false, false],
            ),
            (
                Decision::allow().drop_frame(),
                [false, false, false, false, false, true, false],
            ),
            (
                Decision::allow().with_guardrail(GuardrailResult::clean()),
                [false, false, false, false, false, false, true],
            ),
            (Decision::block(403), [true; 7]),
            (Decision::redirect("/"), [true; 7]),
            (Decision::challenge("captcha"), [true; 7]),
        ];
        let kinds = [
            RequestHeaders,
            RequestBodyChunk,
            ResponseHeaders,
            ResponseBodyChunk,
            RequestComplete,
            WebSocketFrame,
            GuardrailInspect,
        ];
        for (decision, expected) in table {
            let valid =
                kinds.map(|kind| validate(&decision, kind, &HeaderNames::default()).is_ok());
            assert_eq!(valid, expected, "{decision:?}");
        }
    }

    #[test]
    fn a_decision_about_a_frame_has_to_fit_it() {
        let validated = |decision: &Decision, opcode| {
            let event = Event::WebSocketFrame(WebSocketFrame {
                correlation_id: "c",
                opcode,
                data: Bytes::new(),
                client_to_server: true,
                index: 0,
                fin: true,
                route_id: None,
                client_ip: [127, 0, 0, 1].into(),
                budget_left: None,
            });
            validate_answer(decision, &event, &HeaderNames::default())
        };
        let table = [
            (Decision::allow().close_websocket(1008, "policy"), true),
            (
                Decision::allow().close_websocket(4999, "é".repeat(61)),
                true,
            ),
            (
                Decision::allow().close_websocket(1008, "é".repeat(62)),
                false,
            ),
            (Decision::allow().close_websocket(1005, ""), false),
            (Decision::allow().close_websocket(1006, ""), false),
            (Decision::allow().close_websocket(1015, ""), false),
            (Decision::allow().close_websocket(0, ""), false),
            (Decision::allow().close_websocket(5000, ""), false),
            (Decision::allow().drop_frame(), true),
            (Decision::allow().replace_frame(vec![0; 125]), true),
            (Decision::allow().replace_frame("x").tag("t"), true),
        ];
        for (decision, good) in table {
            for opcode in [FrameOpcode::Text, FrameOpcode::Ping] {
                let problem = validated(&decision, opcode).err();
                assert_eq!(problem.is_none(), good, "{decision:?} {problem:?}");
            }
        }
        let large = Decision::allow().replace_frame(vec![0; 126]);
        assert_eq!(validated(&large, FrameOpcode::Binary), Ok(()));
        assert!(validated(&large, FrameOpcode::Pong).is_err());
    }

    #[test]
    fn what_is_bad_is_dropped_alone() {
        let foreign = HeaderNames::new(["x-user"]);
        let allow = Decision::allow()
            .set_request_header("x-a", "1")
            .set_request_header("host", "evil")
            .remove_request_header("X_User")
            .add_request_header("x-b", "2\r\nx-c: 3")
            .set_response_header("x-d", "4")
            .set_response_header("x-user", "for the client")
            .add_response_header("content-length", "0");
        let good = Decision::allow()
            .set_request_header("x-a", "1")
            .set_response_header("x-d", "4")
            .set_response_header("x-user", "for the client");
        let block = Decision::block(403)
            .with_header("x-why", "no")
            .with_header("transfer-encoding", "chunked");
        let table = [
            (allow, 4, good),
            (block, 1, Decision::block(403).with_header("x-why", "no")),
        ];
        for (mut decision, count, left) in table {
            assert!(validate_head(&decision, &foreign).is_err());
            let dropped = drop_bad_operations(&mut decision, &foreign, None).unwrap();
            assert_eq!((dropped.count, &decision), (count, &left));
            assert_eq!(validate_head(&decision, &foreign), Ok(()));
            assert_eq!(drop_bad_operations(&mut decision, &foreign, None), None);
            assert_eq!(decision, left);
        }
    }

    #[test]
    fn who_has_to_own_what_it_sets_may_still_remove() {
        let own = HeaderNames::new(["x-auth-*"]);
        let mut decision = Decision::allow()
            .set_request_header("X_Auth_User", "1")
            .set_request_header("x-other", "2")
            .add_request_header("x-more", "3")
            .remove_request_header("authorization")
            .set_response_header("x-other", "4");
        let foreign = HeaderNames::default();
        let dropped = drop_bad_operations(&mut decision, &foreign, Some(&own)).unwrap();
        assert_eq!(dropped.count, 2);
        assert!(dropped.first.contains("'x-other'"), "{}", dropped.first);
        let left = Decision::allow()
            .set_request_header("X_Auth_User", "1")
            .remove_request_header("authorization")
            .set_response_header("x-other", "4");
        assert_eq!(decision, left);
    }

    #[test]
    fn framing_headers_are_refused_in_every_spelling() {
        for name in [
            "host",
            "transfer-encoding",
            "http2_settings",
            "x_real-ip",
            "traceparent",
            "x-forwarded-for",
            "X_Forwarded_For",
            "content_length",
            "X-Forwarded-Anything",
            "HOST",
            ":path",
            "",
            "a b",
            "x\n",
        ] {
            for operation in [
                HeaderOp::Set {
                    name: name.into(),
                    value: "v".into(),
                },
                HeaderOp::Add {
                    name: name.into(),
                    value: "v".into(),
                },
                HeaderOp::Remove { name: name.into() },
            ] {
                let mut decision = Decision::allow();
                decision.request_headers.push(operation.clone());
                assert!(
                    validate_head(&decision, &HeaderNames::default()).is_err(),
                    "{operation:?}"
                );
            }
        }
    }

    #[test]
    fn headers_of_other_agents_are_refused() {
        let foreign = HeaderNames::new(["x-user"]);
        let decision = Decision::allow().set_request_header("X_User", "root");
        assert!(validate_head(&decision, &foreign).is_err());
        assert!(validate_head(&decision, &HeaderNames::default()).is_ok());
        let response = Decision::allow().set_response_header("x-user", "root");
        assert!(validate_head(&response, &foreign).is_ok());
    }

    #[test]
    fn an_answer_has_a_size() {
        let many = (0..=MOST_OPERATIONS).fold(Decision::allow(), |decision, number| {
            decision.set_response_header(format!("x-{number}"), "v")
        });
        assert!(validate_head(&many, &HeaderNames::default()).is_err());
        let large = Decision::allow().set_request_header("x", "v".repeat(MOST_HEADER_BYTES));
        assert!(validate_head(&large, &HeaderNames::default()).is_err());
        let fair = Decision::allow().set_request_header("x", "v".repeat(8192));
        assert!(validate_head(&fair, &HeaderNames::default()).is_ok());
    }

    #[test]
    fn challenge_parameters_are_checked_in_every_case() {
        let decision = Decision::challenge("basic").with_param("WWW-Authenticate", "a\r\nb: c");
        assert!(validate_head(&decision, &HeaderNames::default()).is_err());
    }

    #[test]
    fn values_with_line_ends_are_refused() {
        for value in ["a\r\nx: y", "a\n", "\0", "a\rb"] {
            let mut decision = Decision::allow();
            decision.response_headers.push(HeaderOp::Set {
                name: "x".into(),
                value: value.into(),
            });
            assert!(
                validate_head(&decision, &HeaderNames::default()).is_err(),
                "{value:?}"
            );
        }
    }

    #[test]
    fn status_and_url_are_checked() {
        for (url, status, good) in [
            ("https://example.com/", 302, true),
            ("http://example.com", 307, true),
            ("/relative?a=b:c", 303, true),
            ("relative", 301, true),
            ("//host/path", 302, true),
            ("javascript:alert(1)", 302, false),
            ("data:text/html,x", 302, false),
            ("https://example.com/\r\nx: y", 302, false),
            ("", 302, false),
            ("https://example.com/", 200, false),
            ("https://example.com/", 304, false),
            ("https://example.com/", 305, false),
            ("https://example.com/", 399, false),
            ("https:evil", 302, false),
            ("http:/evil", 302, false),
            ("https://", 302, false),
            ("/\\evil", 302, false),
        ] {
            let decision = Decision {
                verdict: Verdict::Redirect {
                    url: url.into(),
                    status,
                },
                ..Decision::allow()
            };
            assert_eq!(
                validate_head(&decision, &HeaderNames::default()).is_ok(),
                good,
                "{url} {status}"
            );
        }
        for (status, good) in [
            (99, false),
            (101, false),
            (199, false),
            (200, true),
            (403, true),
            (599, true),
            (600, false),
        ] {
            let decision = Decision {
                verdict: Verdict::Block {
                    status,
                    body: None,
                    headers: Vec::new(),
                },
                ..Decision::allow()
            };
            assert_eq!(
                validate_head(&decision, &HeaderNames::default()).is_ok(),
                good,
                "{status}"
            );
        }
    }
}
