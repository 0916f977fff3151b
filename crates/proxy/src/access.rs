//! The end of a request: its line in the access log and its share of the metrics.

use crate::{
    exchange::tunnel::SocketRun,
    filter, reply,
    request::{Begun, EndedBy, Request},
    server::tls::TlsSession,
    snapshot::Route,
    telemetry::{Telemetry, access_log::json_string},
    trace::Explained,
};
use http::{Version, header};
use pingora::{Error, http::RequestHeader, proxy::Session};
use portcullis_agent_manager::{Completed, Record};
use portcullis_config::AccessLogFormat;
use std::{io::Write, time::Duration};

/// The status in log and metrics of a request whose client went away before it had an answer.
const CLIENT_GONE: u16 = 499;

/// Counts and logs a request that is over.
pub(crate) fn finished(
    session: &mut Session,
    error: Option<&Error>,
    request: &mut Request,
    telemetry: &Telemetry,
) {
    request.is_finished = true;
    let Some(begun) = &request.begun else { return };
    let status = reply::answered(session).unwrap_or(CLIENT_GONE);
    let duration = begun.started.elapsed();
    let metrics = &telemetry.metrics;
    let route = request
        .route
        .as_ref()
        .map_or(&begun.snapshot().unrouted, |route| &route.metrics);
    let listener = &begun.connection.listener.id;
    metrics.request_done(
        route,
        listener,
        &begun.method,
        status,
        duration.as_secs_f64(),
    );
    let records = request.agents.conversation.take_records();
    for record in &records {
        let known = &begun.snapshot().agent_metrics;
        if let Some((_, agent)) = known.iter().find(|(id, _)| *id == record.agent) {
            agent.asked(record);
        }
    }
    let records = request.agents.conversation.with_settled(records);
    let mut finished = Finished {
        begun,
        request,
        records: &records,
        shadow: Vec::new(),
        ended_by: request.agents.ended_by(),
        status,
        duration,
        bytes_in: session.body_bytes_read() as u64,
        bytes_out: session.body_bytes_sent() as u64,
        version: session.req_header().version,
        head: session.req_header(),
        aborted: error.is_some() && reply::answered(session).is_some(),
    };
    finished.tell_agents();
    if let Some(shadows) = &request.shadows {
        finished.shadow = shadows.finish(&records, begun, || finished.completed());
    }
    if begun.snapshot().trace.keeps_requests {
        finished.keep(telemetry);
    }
    let writer = telemetry.access_log.writer();
    let Some(writer) = &*writer else { return };
    match writer.format {
        AccessLogFormat::Json => writer.write(|line, clock| {
            line.extend_from_slice(b"{\"ts\":\"");
            clock.rfc3339(line, begun.started_at);
            finished.json(line);
        }),
        AccessLogFormat::Combined => writer.write(|line, clock| {
            let _ = write!(line, "{} - - [", begun.identity.ip);
            clock.common(line, begun.started_at);
            finished.combined(line);
        }),
    }
}

/// Tells agents of a request that ends without a word.
pub(crate) fn abandoned(request: &Request, begun: &Begun) {
    let completed = || Completed {
        correlation_id: begun.identity.correlation_id().to_owned(),
        status: CLIENT_GONE,
        duration: begun.started.elapsed(),
        request_body_size: request.body_received,
        response_body_size: 0,
        upstream_attempts: request.upstream.attempts,
        error: Some("abandoned".to_owned()),
    };
    filter::completed(request, begun, completed);
    if let Some(shadows) = &request.shadows {
        let records = request.agents.conversation.take_records();
        shadows.finish(&records, begun, completed);
    }
}

/// A request with its outcome, for the log. Writing into a `Vec` cannot fail, so the results of `write!` are dropped.
struct Finished<'a> {
    begun: &'a Begun,
    request: &'a Request,
    records: &'a [Record],
    /// What shadow agents have said by now.
    shadow: Vec<Record>,
    ended_by: Option<EndedBy>,
    status: u16,
    duration: Duration,
    bytes_in: u64,
    bytes_out: u64,
    version: Version,
    head: &'a RequestHeader,
    aborted: bool,
}

impl Finished<'_> {
    fn reason(&self) -> Option<&str> {
        let by_agent = self.ended_by.as_ref().and_then(|by| by.reason.as_deref());
        let by_us = self
            .request
            .reason
            .or_else(|| self.request.socket.get()?.reason());
        by_agent.or(by_us)
    }

    /// Keeps what there is to explain.
    fn keep(&self, telemetry: &Telemetry) {
        let explained = Explained {
            request: self.request,
            begun: self.begun,
            records: self.records,
            shadow: &self.shadow,
            ended_by: self.ended_by.as_ref(),
            reason: self.reason(),
            status: (self.status != CLIENT_GONE).then_some(self.status),
            duration: self.duration,
            aborted: self.aborted,
        };
        if explained.is_worth_keeping() {
            let id = self.begun.identity.request_id();
            telemetry.recent.keep(id, explained.to_json());
        }
    }

    fn tell_agents(&self) {
        filter::completed(self.request, self.begun, || self.completed());
    }

    fn completed(&self) -> Completed {
        Completed {
            correlation_id: self.begun.identity.correlation_id().to_owned(),
            status: self.status,
            duration: self.duration,
            request_body_size: self.bytes_in,
            response_body_size: self.bytes_out,
            upstream_attempts: self.request.upstream.attempts,
            error: self.reason().map(str::to_owned),
        }
    }

    /// The rest of a JSON line, behind the value of `ts`.
    fn json(&self, line: &mut Vec<u8>) {
        let identity = &self.begun.identity;
        line.extend_from_slice(b"\",\"request_id\":");
        json_string(line, identity.request_id().as_bytes());
        line.extend_from_slice(b",\"client_ip\":\"");
        self.client_ip(line);
        line.extend_from_slice(b"\",\"listener\":");
        json_string(line, self.begun.connection.listener.id.as_bytes());
        line.extend_from_slice(b",\"method\":");
        json_string(line, self.begun.method.as_str().as_bytes());
        line.extend_from_slice(b",\"host\":");
        json_string(line, identity.host.as_bytes());
        line.extend_from_slice(b",\"path\":");
        json_string(line, self.begun.target.as_bytes());
        line.extend_from_slice(b",\"protocol\":\"");
        line.extend_from_slice(protocol(self.version).as_bytes());
        line.push(b'"');
        if let Some(tls) = &self.begun.connection.tls {
            json_tls(line, tls);
        }
        line.extend_from_slice(b",\"status\":");
        number(line, self.status);
        line.extend_from_slice(b",\"bytes_in\":");
        number(line, self.bytes_in);
        line.extend_from_slice(b",\"bytes_out\":");
        number(line, self.bytes_out);
        line.extend_from_slice(b",\"duration_ms\":");
        milliseconds(line, self.duration);
        if let Some(route) = &self.request.route {
            line.extend_from_slice(b",\"route\":");
            json_string(line, route.id.as_bytes());
        }
        self.json_beside(line);
        self.json_upstream(line);
        if !self.records.is_empty() {
            line.extend_from_slice(b",\"agents_ms\":");
            milliseconds(line, self.request.agents.conversation.waited());
            line.extend_from_slice(b",\"agents\":[");
            json_records(line, self.records);
            line.push(b']');
        }
        if !self.shadow.is_empty() {
            line.extend_from_slice(b",\"shadow\":[");
            json_records(line, &self.shadow);
            line.push(b']');
        }
        if let Some(socket) = self.request.socket.get() {
            json_socket(line, socket);
        }
        if let Some(by) = &self.ended_by {
            line.extend_from_slice(b",\"blocked_by\":");
            json_string(line, by.name.as_bytes());
        }
        if let Some(reason) = self.reason() {
            line.extend_from_slice(b",\"reason\":");
            json_string(line, reason.as_bytes());
        }
        if let Some(status) = self.request.grpc_status {
            line.extend_from_slice(b",\"grpc_status\":");
            number(line, status);
        }
        if self.aborted {
            line.extend_from_slice(b",\"aborted\":true");
        }
        line.push(b'}');
    }

    fn client_ip(&self, line: &mut Vec<u8>) {
        let connection = &self.begun.connection;
        let ip = self.begun.identity.ip;
        if ip == connection.peer.ip() {
            line.extend_from_slice(connection.peer_text().as_bytes());
        } else {
            let _ = write!(line, "{ip}");
        }
    }

    /// What the upstream was asked for instead, and who else was asked.
    fn json_beside(&self, line: &mut Vec<u8>) {
        if let Some(rewritten) = &self.request.rewritten {
            for (name, value) in [
                (&b",\"rewritten_path\":"[..], rewritten.target.as_deref()),
                (b",\"rewritten_host\":", rewritten.host.as_deref()),
            ] {
                if let Some(value) = value {
                    line.extend_from_slice(name);
                    json_string(line, value.as_bytes());
                }
            }
        }
        let mirror = self
            .request
            .route
            .as_ref()
            .and_then(|route| route.mirror.as_ref());
        if let (true, Some(mirror)) = (self.request.is_mirrored, mirror) {
            line.extend_from_slice(b",\"mirrored_to\":");
            json_string(line, mirror.upstream.id.as_bytes());
        }
    }

    fn json_upstream(&self, line: &mut Vec<u8>) {
        let upstream = &self.request.upstream;
        if upstream.attempts == 0 {
            return;
        }
        let route = self.request.route.as_deref();
        if let Some(known) = route.and_then(Route::upstream) {
            line.extend_from_slice(b",\"upstream\":");
            json_string(line, known.id.as_bytes());
        }
        if let Some(target) = upstream.target() {
            line.extend_from_slice(b",\"upstream_address\":\"");
            line.extend_from_slice(target.as_bytes());
            line.push(b'"');
        }
        if let Some(status) = upstream.status {
            line.extend_from_slice(b",\"upstream_status\":");
            number(line, status);
        }
        if let Some(after) = upstream.header_after {
            line.extend_from_slice(b",\"upstream_header_ms\":");
            milliseconds(line, after);
        }
        if let (Some(asked), Some(answered)) = (upstream.asked_after, upstream.header_after) {
            let upstream_time = answered.saturating_sub(asked);
            let agents_time = self.request.agents.conversation.waited();
            line.extend_from_slice(b",\"upstream_ms\":");
            milliseconds(line, upstream_time);
            line.extend_from_slice(b",\"client_ms\":");
            let rest = self.duration.saturating_sub(upstream_time);
            milliseconds(line, rest.saturating_sub(agents_time));
        }
        if upstream.attempts > 1 {
            let _ = write!(line, ",\"upstream_attempts\":{}", upstream.attempts);
        }
        for (position, tried) in upstream.tried.iter().enumerate() {
            let before: &[u8] = match position {
                0 => b",\"upstream_tried\":[{\"address\":",
                _ => b",{\"address\":",
            };
            line.extend_from_slice(before);
            let address = tried.address.as_deref().unwrap_or_default();
            json_string(line, address.as_bytes());
            line.extend_from_slice(b",\"result\":");
            json_string(line, tried.why.name().as_bytes());
            line.push(b'}');
        }
        if !upstream.tried.is_empty() {
            line.push(b']');
        }
    }

    /// The rest of a line in the combined format of Apache, behind the opening bracket and the time.
    fn combined(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(b"] ");
        let request = format!(
            "{} {} {}",
            self.begun.method,
            self.begun.target,
            protocol(self.version)
        );
        json_string(line, request.as_bytes());
        let _ = write!(line, " {} {} ", self.status, self.bytes_out);
        for (position, name) in [header::REFERER, header::USER_AGENT].iter().enumerate() {
            if position > 0 {
                line.push(b' ');
            }
            let value = self.head.headers.get(name);
            json_string(line, value.map_or(b"-", |value| value.as_bytes()));
        }
    }
}

fn json_tls(line: &mut Vec<u8>, tls: &TlsSession) {
    line.extend_from_slice(b",\"tls_version\":\"");
    line.extend_from_slice(tls.version.as_bytes());
    line.extend_from_slice(b"\",\"tls_cipher\":\"");
    line.extend_from_slice(tls.cipher.as_bytes());
    line.push(b'"');
    if let Some(name) = &tls.server_name {
        line.extend_from_slice(b",\"tls_server_name\":");
        json_string(line, name.as_bytes());
    }
    if tls.resumed {
        line.extend_from_slice(b",\"tls_resumed\":true");
    }
    if let Some(client) = &tls.client {
        line.extend_from_slice(b",\"client_certificate\":{\"subject\":");
        json_string(line, client.subject.as_bytes());
        line.extend_from_slice(b",\"fingerprint\":");
        json_string(line, client.fingerprint.as_bytes());
        line.push(b'}');
    }
}

fn json_socket(line: &mut Vec<u8>, socket: &SocketRun) {
    line.extend_from_slice(b",\"websocket\":{\"frames_in\":");
    number(line, socket.frames_in());
    line.extend_from_slice(b",\"frames_out\":");
    number(line, socket.frames_out());
    line.extend_from_slice(b",\"close_code\":");
    number(line, socket.close_code());
    line.push(b'}');
}

fn json_records(line: &mut Vec<u8>, records: &[Record]) {
    for (position, record) in records.iter().enumerate() {
        if position > 0 {
            line.push(b',');
        }
        json_record(line, record);
    }
}

fn json_record(line: &mut Vec<u8>, record: &Record) {
    line.extend_from_slice(b"{\"name\":");
    json_string(line, record.agent.as_bytes());
    line.extend_from_slice(b",\"phase\":\"");
    line.extend_from_slice(record.phase.name().as_bytes());
    let told = record.verdict.told();
    for (before, name) in [
        (&b"\",\"verdict\":\""[..], Some(told.verdict)),
        (b"\",\"failure\":\"", told.failure),
        (b"\",\"failure_mode\":\"", told.failure_mode),
    ] {
        if let Some(name) = name {
            line.extend_from_slice(before);
            line.extend_from_slice(name.as_bytes());
        }
    }
    line.push(b'"');
    if let Some(reason) = &record.reason {
        line.extend_from_slice(b",\"reason\":");
        json_string(line, reason.as_bytes());
    }
    if !record.tags.is_empty() {
        line.extend_from_slice(b",\"tags\":[");
        for (position, tag) in record.tags.iter().enumerate() {
            if position > 0 {
                line.push(b',');
            }
            json_string(line, tag.as_bytes());
        }
        line.push(b']');
    }
    if record.cached {
        line.extend_from_slice(b",\"cached\":true");
    } else if let Some(calls) = record.unusual_calls() {
        line.extend_from_slice(b",\"calls\":");
        number(line, calls);
    }
    line.extend_from_slice(b",\"duration_ms\":");
    milliseconds(line, record.duration);
    line.push(b'}');
}

/// Milliseconds with three digits behind the point.
fn milliseconds(line: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    number(line, micros / 1000);
    // The leading one keeps the zeros behind the point.
    let mut fraction = itoa::Buffer::new();
    let fraction = fraction.format(micros % 1000 + 1000);
    line.push(b'.');
    line.extend_from_slice(&fraction.as_bytes()[1..]);
}

fn number(line: &mut Vec<u8>, number: impl itoa::Integer) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_agent_manager::{FailureReason, Phase, RecordedVerdict};
    use portcullis_config::FailureMode;

    fn record(verdict: RecordedVerdict) -> Record {
        Record {
            agent: "waf".into(),
            phase: Phase::RequestHeaders,
            verdict,
            reason: Some("rule:\"1\"".into()),
            tags: vec!["bot".into()],
            duration: Duration::from_micros(1234),
            calls: 1,
            cached: false,
        }
    }

    #[test]
    fn records_are_json() {
        let failed = RecordedVerdict::Failed {
            reason: FailureReason::Timeout,
            mode: FailureMode::Open,
        };
        let refused = RecordedVerdict::Refused(FailureReason::Oversize);
        for (verdict, name, failure, mode) in [
            (RecordedVerdict::Block, "block", None, None),
            (failed, "failed", Some("timeout"), Some("open")),
            (refused, "failed", Some("oversize"), None),
        ] {
            let mut line = Vec::new();
            json_record(&mut line, &record(verdict));
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(value["verdict"], name);
            let text = |name: &str| value.get(name).and_then(|text| text.as_str());
            assert_eq!((text("failure"), text("failure_mode")), (failure, mode));
            assert_eq!(value["duration_ms"], 1.234);
            assert_eq!(value["reason"], "rule:\"1\"");
            assert_eq!(value["tags"][0], "bot");
            assert_eq!(value.get("cached"), None);
        }
        let mut line = Vec::new();
        let known = Record {
            calls: 0,
            cached: true,
            ..record(RecordedVerdict::Allow)
        };
        json_record(&mut line, &known);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["cached"], true);
        assert_eq!(value.get("calls"), None);
    }
}
