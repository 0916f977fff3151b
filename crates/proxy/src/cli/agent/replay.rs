//! `portcullis agent replay`: tells an agent what was recorded of another, and says where its verdicts differ.

use super::{block_on, complain, config_file, phase_of, say, target::Target};
use crate::cli::admin::printable;
use clap::Args;
use portcullis_agent_protocol::{
    AnyConnection, CallGuard, ConnectOptions, Decision, Event, EventKind, Extensions, HeaderOp,
    Verdict, codec::json,
};
use portcullis_config::parse_duration;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

/// A line of a recording is shorter.
const LONGEST_LINE: u64 = 16 << 20;
/// More differences are counted and not kept.
const MOST_KEPT: usize = 1000;

/// What is told, and to whom.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ReplayArgs {
    /// What `portcullis agent record` has written
    file: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Tell what this agent was told; needed where several were recorded
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// A JSON file with the configuration of the other agent; without it the agent is given none
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For one answer, and for the connection
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    timeout: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl ReplayArgs {
    /// The file, for people.
    fn name(&self) -> String {
        self.file.display().to_string()
    }
}

/// Why not everything was told.
#[derive(Debug, thiserror::Error)]
enum NotTold {
    #[error("{0}")]
    Config(String),
    #[error("{0}: {1}")]
    Read(String, io::Error),
    #[error("{0}: line {1}: {2}")]
    Line(String, u64, String),
    #[error("{0}: several agents were recorded ({1} and {2}); give --agent")]
    Several(String, String, String),
    #[error("not asked: {0}")]
    Runtime(#[from] io::Error),
    #[error("{0}: {1}")]
    Connect(Target, portcullis_agent_protocol::ConnectError),
}

/// A line of a recording.
#[derive(Deserialize)]
struct Line {
    agent: String,
    #[serde(rename = "type")]
    kind: String,
    event: Value,
    left_out_bytes: u64,
    answer: Value,
}

/// What has become of a recording.
#[derive(Default)]
struct Told {
    requests: HashSet<String>,
    events: u64,
    /// Pieces of bodies and frames that are not in the recording, and those behind them.
    left_out: u64,
    not_announced: u64,
    /// There was no verdict, so that there is nothing to compare with.
    failed_before: u64,
    differ: u64,
    differences: Vec<Difference>,
}

/// A verdict that is not the one that was recorded.
struct Difference {
    line: u64,
    correlation_id: String,
    phase: &'static str,
    about: String,
    recorded: String,
    now: String,
}

pub(super) fn replay(args: &ReplayArgs) -> ExitCode {
    let told = match block_on(tell(args)) {
        Ok(told) => told,
        Err(error) => Err(NotTold::Runtime(error)),
    };
    match told {
        Ok(told) => {
            say(&match args.json {
                true => told.json(),
                false => told.text(),
            });
            match told.differ {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            }
        }
        Err(reason) => {
            complain(&reason);
            ExitCode::from(2)
        }
    }
}

async fn tell(args: &ReplayArgs) -> Result<Told, NotTold> {
    args.target.valid().map_err(NotTold::Config)?;
    let config = args.config.as_deref().map(config_file).transpose();
    let mut teller = Teller {
        args,
        config: config.map_err(NotTold::Config)?.map(Arc::new),
        connection: None,
        agent: args.agent.clone(),
        cut: HashSet::new(),
        told: Told::default(),
    };
    let unread = |error| NotTold::Read(args.name(), error);
    let mut file = BufReader::new(File::open(&args.file).map_err(unread)?);
    let mut text = Vec::new();
    let mut number = 0;
    loop {
        text.clear();
        let mut part = file.by_ref().take(LONGEST_LINE);
        if part.read_until(b'\n', &mut text).map_err(unread)? == 0 {
            return Ok(teller.told);
        }
        number += 1;
        let wrong = |error: String| NotTold::Line(args.name(), number, error);
        let line: Line = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        teller.line(number, &line).await?;
    }
}

/// Tells one line after the other.
struct Teller<'a> {
    args: &'a ReplayArgs,
    config: Option<Arc<Value>>,
    connection: Option<AnyConnection>,
    agent: Option<String>,
    /// Bodies and sockets of which a piece is missing, by correlation id.
    cut: HashSet<(String, EventKind)>,
    told: Told,
}

impl Teller<'_> {
    async fn line(&mut self, number: u64, line: &Line) -> Result<(), NotTold> {
        let wrong = |error: String| NotTold::Line(self.args.name(), number, error);
        let agent = self.agent.get_or_insert_with(|| line.agent.clone());
        if *agent != line.agent {
            return match &self.args.agent {
                Some(_) => Ok(()),
                None => {
                    let (one, other) = (agent.clone(), line.agent.clone());
                    Err(NotTold::Several(self.args.name(), one, other))
                }
            };
        }
        let kinds = super::PHASES.iter().map(|(_, kind)| *kind);
        let kind = kinds.into_iter().find(|kind| kind.name() == line.kind);
        let kind = kind.ok_or_else(|| wrong(format!("no such event: {}", line.kind)))?;
        let payload = line.event.to_string();
        let decoded = json::decode_event(kind, payload.as_bytes(), true);
        let (_, decoded) = decoded.map_err(|bad| wrong(bad.error.to_string()))?;
        let event = decoded.view();
        let id = event.correlation_id().to_owned();
        let recorded = match &line.answer {
            Value::Null => None,
            answer => {
                let answer = answer.to_string();
                let decoded = json::decode_answer(answer.as_bytes(), Extensions::ALL);
                let (_, answer) = decoded.map_err(|bad| wrong(bad.error.to_string()))?;
                Some(answer.map_err(|failure| wrong(failure.to_string()))?)
            }
        };
        self.told.requests.insert(id.clone());
        // What comes behind a gap is no longer that body.
        if line.left_out_bytes > 0 {
            self.cut.insert((id.clone(), kind));
        }
        if self.cut.contains(&(id.clone(), kind)) {
            self.told.left_out += 1;
            return Ok(());
        }
        let now = self.tell(&event).await?;
        let Some(now) = now else {
            self.told.not_announced += 1;
            return Ok(());
        };
        self.told.events += 1;
        let Some(recorded) = recorded else {
            self.told.failed_before += 1;
            return Ok(());
        };
        let (was, is) = match &now {
            Ok(now) if same(&recorded, now, kind) => return Ok(()),
            Ok(now) => (
                described(&recorded, Some(now)),
                described(now, Some(&recorded)),
            ),
            Err(error) => (described(&recorded, None), format!("failed: {error}")),
        };
        self.told.differ += 1;
        if self.told.differences.len() < MOST_KEPT {
            self.told.differences.push(Difference {
                line: number,
                correlation_id: id,
                phase: phase_of(kind),
                about: about(&event),
                recorded: was,
                now: is,
            });
        }
        Ok(())
    }

    /// `None`: the agent does not want to be asked this.
    async fn tell(
        &mut self,
        event: &Event<'_>,
    ) -> Result<Option<Result<Decision, String>>, NotTold> {
        let connection = match self.connection.take().filter(AnyConnection::is_open) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let connection = self.connection.insert(connection);
        if !connection.supports(event.kind()) {
            return Ok(None);
        }
        let answer = match connection.send(event, CallGuard::none()) {
            Ok(answer) => answer,
            Err(error) => return Ok(Some(Err(error.to_string()))),
        };
        let limit = self.args.timeout;
        Ok(Some(match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }))
    }

    async fn connect(&self) -> Result<AnyConnection, NotTold> {
        let options = ConnectOptions {
            config: self.config.clone(),
            handshake_timeout: self.args.timeout,
            proxy_id: "portcullis-replay".to_owned(),
            ..ConnectOptions::new("replay")
        };
        let connected = self.args.target.connect(&options).await;
        connected.map_err(|error| NotTold::Connect(self.args.target.clone(), error))
    }
}

/// Whether two decisions do the same to a request. Reasons may differ, and so may what was not recorded; nobody looks at what is
/// decided about a request that is over.
fn same(recorded: &Decision, now: &Decision, kind: EventKind) -> bool {
    if kind == EventKind::RequestComplete {
        return true;
    }
    same_verdict(&recorded.verdict, &now.verdict)
        && same_operations(&recorded.request_headers, &now.request_headers)
        && same_operations(&recorded.response_headers, &now.response_headers)
        && recorded.needs_more == now.needs_more
        && recorded.request_body == now.request_body
        && recorded.response_body == now.response_body
        && recorded.websocket == now.websocket
}

fn is_redacted(value: &str) -> bool {
    value.starts_with("[redacted")
}

fn same_value(recorded: &str, now: &str) -> bool {
    is_redacted(recorded) || recorded == now
}

fn same_pairs(recorded: &[(String, String)], now: &[(String, String)]) -> bool {
    recorded.len() == now.len()
        && recorded.iter().zip(now).all(|(recorded, now)| {
            recorded.0.eq_ignore_ascii_case(&now.0) && same_value(&recorded.1, &now.1)
        })
}

fn same_operations(recorded: &[HeaderOp], now: &[HeaderOp]) -> bool {
    let is_same = |(recorded, now): (&HeaderOp, &HeaderOp)| {
        let values = match (recorded, now) {
            (HeaderOp::Set { value: one, .. }, HeaderOp::Set { value: other, .. })
            | (HeaderOp::Add { value: one, .. }, HeaderOp::Add { value: other, .. }) => {
                same_value(one, other)
            }
            (HeaderOp::Remove { .. }, HeaderOp::Remove { .. }) => true,
            _ => false,
        };
        values && recorded.name().eq_ignore_ascii_case(now.name())
    };
    recorded.len() == now.len() && recorded.iter().zip(now).all(is_same)
}

fn same_verdict(recorded: &Verdict, now: &Verdict) -> bool {
    match (recorded, now) {
        (
            Verdict::Block {
                status,
                body,
                headers,
            },
            Verdict::Block {
                status: now_status,
                body: now_body,
                headers: now_headers,
            },
        ) => {
            status == now_status
                && same_pairs(headers, now_headers)
                && (body.is_none() || body == now_body)
        }
        (
            Verdict::Redirect { url, status },
            Verdict::Redirect {
                url: now_url,
                status: now_status,
            },
        ) => status == now_status && (url == now_url || url.contains("=[redacted")),
        (
            Verdict::Challenge {
                challenge_type,
                params,
            },
            Verdict::Challenge {
                challenge_type: now_type,
                params: now_params,
            },
        ) => challenge_type == now_type && same_pairs(params, now_params),
        (recorded, now) => recorded == now,
    }
}

/// A decision in few words, and what of it is not in the other one.
fn described(decision: &Decision, other: Option<&Decision>) -> String {
    let mut words = vec![match &decision.verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Block { status, .. } => format!("block {status}"),
        Verdict::Redirect { url, status } => format!("redirect {status} {url}"),
        Verdict::Challenge { challenge_type, .. } => format!("challenge {challenge_type}"),
    }];
    if decision.needs_more {
        words.push("needs more".to_owned());
    }
    let sides = [
        (
            "request",
            &decision.request_headers,
            other.map(|it| &it.request_headers),
        ),
        (
            "response",
            &decision.response_headers,
            other.map(|it| &it.response_headers),
        ),
    ];
    for (side, operations, others) in sides {
        for operation in operations {
            if others.is_none_or(|others| !others.contains(operation)) {
                words.push(format!("{side}: {}", operated(operation)));
            }
        }
    }
    let bodies = [
        ("request body", &decision.request_body),
        ("response body", &decision.response_body),
    ];
    for (side, body) in bodies {
        if let Some(body) = body {
            words.push(format!("{side}: {} other bytes", body.len()));
        }
    }
    if let Some(change) = &decision.websocket {
        words.push(format!("frame: {change:?}"));
    }
    if let Some(audit) = decision.audit.as_deref()
        && !audit.reason_codes.is_empty()
    {
        words.push(format!("({})", audit.reason_codes.join(", ")));
    }
    words.join(", ")
}

fn operated(operation: &HeaderOp) -> String {
    match operation {
        HeaderOp::Set { name, value } => format!("set {name}: {value}"),
        HeaderOp::Add { name, value } => format!("add {name}: {value}"),
        HeaderOp::Remove { name } => format!("remove {name}"),
    }
}

/// What an event is about, in few words.
fn about(event: &Event<'_>) -> String {
    match event {
        Event::RequestHeaders(head) => format!("{} {}", head.method, head.uri),
        Event::RequestBodyChunk(chunk) | Event::ResponseBodyChunk(chunk) => {
            format!("piece {}", chunk.index)
        }
        Event::ResponseHeaders(head) => format!("status {}", head.status),
        Event::WebSocketFrame(frame) => format!("frame {}", frame.index),
        Event::GuardrailInspect(text) => text.inspection_type.name().to_owned(),
        Event::RequestComplete(complete) => format!("status {}", complete.status),
    }
}

impl Told {
    fn text(&self) -> String {
        let mut text = String::new();
        for difference in &self.differences {
            let line = format!(
                "line {}: {} {}, {}\n",
                difference.line, difference.phase, difference.about, difference.correlation_id
            );
            text.push_str(&printable(line.trim_end()));
            for (when, what) in [("recorded", &difference.recorded), ("now", &difference.now)] {
                text.push_str(&format!("\n  {when:<8}  {}", printable(what)));
            }
            text.push('\n');
        }
        text.push_str(&format!(
            "{} events of {} requests told, {} verdicts differ",
            self.events,
            self.requests.len(),
            self.differ
        ));
        for (count, what) in [
            (self.failed_before, "had no verdict when they were recorded"),
            (self.left_out, "not told: bodies that were not recorded"),
            (
                self.not_announced,
                "not told: the agent has not announced them",
            ),
        ] {
            if count > 0 {
                text.push_str(&format!("\n{count} {what}"));
            }
        }
        text
    }

    fn json(&self) -> String {
        let differences: Vec<_> = self
            .differences
            .iter()
            .map(|it| {
                json!({
                    "line": it.line,
                    "correlation_id": it.correlation_id,
                    "phase": it.phase,
                    "about": it.about,
                    "recorded": it.recorded,
                    "now": it.now,
                })
            })
            .collect();
        let report = json!({
            "requests": self.requests.len(),
            "events": self.events,
            "differ": self.differ,
            "failed_before": self.failed_before,
            "left_out": self.left_out,
            "not_announced": self.not_announced,
            "differences": differences,
        });
        format!("{report:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_the_same_when_they_do_the_same() {
        let kind = EventKind::RequestHeaders;
        let allow = Decision::allow;
        let secret = allow().set_request_header("authorization", "[redacted:00]");
        for (recorded, now, expected) in [
            (allow(), allow().reason("r").tag("t"), true),
            (allow(), Decision::block(403), false),
            (Decision::block(403), Decision::block(404), false),
            (
                Decision::block(403),
                Decision::block(403).with_body("b"),
                true,
            ),
            (
                Decision::block(403).with_body("a"),
                Decision::block(403),
                false,
            ),
            (Decision::redirect("/a"), Decision::redirect("/b"), false),
            (Decision::challenge("a"), Decision::challenge("a"), true),
            (
                secret.clone(),
                allow().set_request_header("Authorization", "x"),
                true,
            ),
            (secret, allow(), false),
            (
                allow().set_request_header("a", "1"),
                allow().add_request_header("a", "1"),
                false,
            ),
            (allow().replace_request_body("a"), allow(), false),
            (allow(), allow().provisional(), false),
            (allow().drop_frame(), allow().drop_frame(), true),
        ] {
            assert_eq!(
                same(&recorded, &now, kind),
                expected,
                "{recorded:?} {now:?}"
            );
        }
        let complete = EventKind::RequestComplete;
        assert!(same(&allow(), &Decision::block(403), complete));
    }

    #[test]
    fn a_difference_is_said_in_few_words() {
        let one = Decision::allow()
            .set_request_header("a", "1")
            .set_request_header("b", "2");
        let other = Decision::allow().set_request_header("a", "1");
        assert_eq!(described(&one, Some(&other)), "allow, request: set b: 2");
        assert_eq!(described(&other, Some(&one)), "allow");
        let block = Decision::block(403).reason("rule-7");
        assert_eq!(described(&block, None), "block 403, (rule-7)");
    }
}
