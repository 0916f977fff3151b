//! The headers of a traced response: `X-Agent-Trace`, a list of structured fields (RFC 9651, which RFC 8941 can read), and
//! `Server-Timing`.

use crate::{
    request::{Begun, Request},
    upstream::UpstreamRun,
};
use http::HeaderValue;
use portcullis_agent_manager::Record;
use sfv::{Decimal, RefBareItem, RefItemSerializer};
use std::{borrow::Cow, fmt::Write, time::Duration};

/// More would not fit beside the other headers of a response for many a client.
const MOST_BYTES: usize = 4096;
/// So much of a single text, such as a reason.
const MOST_TEXT: usize = 200;

/// What agents said, one member each: first the proxy itself, then they in the order of their answers.
pub(super) fn verdicts(request: &Request, begun: &Begun) -> HeaderValue {
    let mut members = Vec::new();
    members.extend(of_request(request, begun));
    let records = request.agents.conversation.records();
    members.extend(records.iter().filter_map(|record| of_record(record, false)));
    if let Some(shadows) = &request.shadows {
        let said = shadows.said();
        members.extend(said.iter().filter_map(|record| of_record(record, true)));
    }
    value(&within_bounds(&members))
}

/// How long agents and the upstream took, in milliseconds, and all of it so far.
pub(super) fn timing(request: &Request, begun: &Begun, upstream: &UpstreamRun) -> HeaderValue {
    let mut text = String::new();
    let agents = request.agents.conversation.waited();
    let has_agents = request
        .route
        .as_ref()
        .is_some_and(|route| route.asks_agents);
    let answered = upstream.asked_after.zip(upstream.header_after);
    let upstream = answered.map(|(asked, answered)| answered.saturating_sub(asked));
    for (name, time) in [
        ("agents", has_agents.then_some(agents)),
        ("upstream", upstream),
        ("total", Some(begun.started.elapsed())),
    ] {
        let Some(time) = time else { continue };
        let comma = if text.is_empty() { "" } else { ", " };
        // A String takes everything.
        let _ = write!(text, "{comma}{name};dur={:.3}", time.as_secs_f64() * 1000.0);
    }
    value(&text)
}

/// As many members as there is room for; the last one says how many are left out.
fn within_bounds(members: &[String]) -> String {
    /// For the member that says it.
    const ROOM: usize = 24;
    let mut line = String::new();
    for (position, member) in members.iter().enumerate() {
        if line.len() + member.len() + ROOM > MOST_BYTES {
            let _ = write!(line, ", left-out;count={}", members.len() - position);
            return line;
        }
        if position > 0 {
            line.push_str(", ");
        }
        line.push_str(member);
    }
    line
}

fn of_request(request: &Request, begun: &Begun) -> Option<String> {
    let ended_by = request.agents.ended_by();
    let by = ended_by.as_ref().map(|by| &*by.name);
    let of_agent = ended_by.as_ref().and_then(|by| by.reason.as_deref());
    let rewritten = request.rewritten.as_deref();
    let rewritten = rewritten.and_then(|to| to.target.as_deref());
    let texts = [
        ("request-id", Some(begun.identity.request_id())),
        ("route", request.route.as_ref().map(|route| &*route.id)),
        ("rewritten", rewritten),
        ("blocked-by", by),
        ("reason", of_agent.or(request.reason)),
    ];
    let texts = texts.map(|(name, text)| (name, text.map(printable)));
    let parameters = texts
        .iter()
        .filter_map(|(name, text)| Some((*name, RefBareItem::String(text.as_deref()?))));
    member(&RefBareItem::Token("proxy"), parameters)
}

fn of_record(record: &Record, is_shadow: bool) -> Option<String> {
    let told = record.verdict.told();
    let reason = record.reason.as_deref().map(printable);
    let calls = record.unusual_calls();
    let parameters = [
        ("phase", Some(RefBareItem::Token(record.phase.name()))),
        ("verdict", Some(RefBareItem::Token(told.verdict))),
        ("failure", told.failure.map(RefBareItem::Token)),
        ("mode", told.failure_mode.map(RefBareItem::Token)),
        ("reason", reason.as_deref().map(RefBareItem::String)),
        (
            "calls",
            calls.map(|calls| RefBareItem::Integer(calls.into())),
        ),
        (
            "cached",
            record.cached.then_some(RefBareItem::Boolean(true)),
        ),
        ("shadow", is_shadow.then_some(RefBareItem::Boolean(true))),
        (
            "ms",
            Some(RefBareItem::Decimal(milliseconds(record.duration))),
        ),
    ];
    let parameters = parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    member(&RefBareItem::String(&printable(&record.agent)), parameters)
}

/// A member of the list with its parameters; `None` when something in it is not what it is said to be.
fn member<'a>(
    item: &RefBareItem<'_>,
    parameters: impl Iterator<Item = (&'static str, RefBareItem<'a>)>,
) -> Option<String> {
    let mut text = String::new();
    let mut serializer = RefItemSerializer::new(&mut text).bare_item(item).ok()?;
    for (name, value) in parameters {
        serializer = serializer.parameter(name, &value).ok()?;
    }
    Some(text)
}

fn milliseconds(duration: Duration) -> Decimal {
    /// Twelve digits before the point are what a decimal of the field has at most.
    const MOST: i64 = 999_999_999_999_999;
    let micros = i64::try_from(duration.as_micros()).unwrap_or(MOST);
    Decimal::new(micros.min(MOST), 3)
}

/// The text as a string of the field can hold it: what is not printable ASCII becomes a question mark, and the end of a long
/// one is left out.
fn printable(text: &str) -> Cow<'_, str> {
    let is_printable = |c: char| c == ' ' || c.is_ascii_graphic();
    if text.len() <= MOST_TEXT && text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let chars = text.chars().take(MOST_TEXT);
    chars
        .map(|c| if is_printable(c) { c } else { '?' })
        .collect()
}

fn value(text: &str) -> HeaderValue {
    // It is printable ASCII.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("proxy"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_agent_manager::{FailureReason, Phase, RecordedVerdict};
    use portcullis_config::FailureMode;
    use proptest::prelude::*;
    use sfv::{ListEntry, Parser};

    fn record(verdict: RecordedVerdict, reason: Option<&str>) -> Record {
        Record {
            agent: "waf".into(),
            phase: Phase::RequestHeaders,
            verdict,
            reason: reason.map(str::to_owned),
            tags: vec!["not-shown".into()],
            duration: Duration::from_micros(1234),
            calls: 1,
            cached: false,
        }
    }

    #[test]
    fn a_record_is_a_member_with_parameters() {
        let failed = RecordedVerdict::Failed {
            reason: FailureReason::Timeout,
            mode: FailureMode::Open,
        };
        for (verdict, reason, expected) in [
            (
                RecordedVerdict::Allow,
                None,
                r#""waf";phase=request_headers;verdict=allow;ms=1.234"#,
            ),
            (
                RecordedVerdict::Block,
                Some("rule \"1\"\r\nset-cookie: ä"),
                r#""waf";phase=request_headers;verdict=block;reason="rule \"1\"??set-cookie: ?";ms=1.234"#,
            ),
            (
                failed,
                None,
                r#""waf";phase=request_headers;verdict=failed;failure=timeout;mode=open;ms=1.234"#,
            ),
            (
                RecordedVerdict::Refused(FailureReason::Oversize),
                None,
                r#""waf";phase=request_headers;verdict=failed;failure=oversize;ms=1.234"#,
            ),
        ] {
            assert_eq!(
                of_record(&record(verdict, reason), false).unwrap(),
                expected
            );
        }
        let known = Record {
            calls: 0,
            cached: true,
            ..record(RecordedVerdict::Allow, None)
        };
        assert_eq!(
            of_record(&known, false).unwrap(),
            r#""waf";phase=request_headers;verdict=allow;cached;ms=1.234"#
        );
        assert_eq!(
            of_record(&record(RecordedVerdict::Block, None), true).unwrap(),
            r#""waf";phase=request_headers;verdict=block;shadow;ms=1.234"#
        );
        let body = Record {
            calls: 3,
            ..record(RecordedVerdict::Allow, None)
        };
        assert!(of_record(&body, false).unwrap().contains(";calls=3;"));
    }

    proptest! {
        /// Whatever agents say, the line is a list, of printable ASCII and not too long.
        #[test]
        fn every_line_is_a_bounded_list(reasons in proptest::collection::vec(".{0,400}", 0..40)) {
            let members: Vec<String> = reasons
                .iter()
                .map(|reason| of_record(&record(RecordedVerdict::Block, Some(reason)), false).unwrap())
                .collect();
            let line = within_bounds(&members);
            prop_assert!(line.len() <= MOST_BYTES);
            prop_assert!(HeaderValue::from_str(&line).is_ok());
            let list = Parser::parse_list(line.as_bytes()).unwrap();
            let last = list.last().and_then(|entry| match entry {
                ListEntry::Item(item) => item.params.get("count").and_then(sfv::BareItem::as_int),
                ListEntry::InnerList(_) => None,
            });
            let told = match last {
                Some(left_out) => list.len() - 1 + usize::try_from(left_out).unwrap(),
                None => list.len(),
            };
            prop_assert_eq!(told, members.len());
        }
    }
}
