//! Recordings of agents, for `portcullis agent record`: begun, taken out piece by piece, ended.

use super::{Health, text, typed};
use crate::recording::{Settings, Status};
use http::{Method, Response, StatusCode, header};
use pingora::protocols::http::ServerSession;
use std::{sync::Arc, time::Instant};
use uuid::Uuid;

/// Everything below it is about recordings.
pub(super) const PATH: &str = "/recordings";
/// Settings are shorter.
const MOST_SETTINGS_BYTES: usize = 16 << 10;
/// What pages in a browser cannot say without asking first.
const JSON: &str = "application/json";

pub(super) async fn answer(health: &Arc<Health>, session: &mut ServerSession) -> Response<Vec<u8>> {
    let head = session.req_header();
    let method = head.method.clone();
    let path = head.uri.path().to_owned();
    let parts: Vec<&str> = path[1..].split('/').skip(1).collect();
    match (method, parts.as_slice()) {
        (Method::POST, []) => match settings(session).await {
            Ok(settings) => begin(health, settings),
            Err(refusal) => refusal,
        },
        (Method::POST, [id, "take"]) => take(health, id),
        (Method::DELETE, [id]) => match health.telemetry.recordings.end(id) {
            true => text(StatusCode::OK, "ended\n"),
            false => unknown(),
        },
        (_, [] | [_] | [_, "take"]) => {
            text(StatusCode::METHOD_NOT_ALLOWED, "POST, or DELETE to end\n")
        }
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// What the request asks for, or how it is refused.
async fn settings(session: &mut ServerSession) -> Result<Settings, Response<Vec<u8>>> {
    let refused = |why: &str| text(StatusCode::BAD_REQUEST, &format!("{why}\n"));
    if session.get_header_bytes(header::CONTENT_TYPE) != JSON.as_bytes() {
        let why = "content-type is application/json\n";
        return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let mut body = Vec::new();
    loop {
        match session.read_request_body().await {
            Ok(None) => break,
            Ok(Some(bytes)) => body.extend_from_slice(&bytes),
            Err(_) => return Err(refused("the body is not complete")),
        }
        if body.len() > MOST_SETTINGS_BYTES {
            return Err(text(StatusCode::PAYLOAD_TOO_LARGE, "too large\n"));
        }
    }
    let settings: Settings =
        serde_json::from_slice(&body).map_err(|error| refused(&error.to_string()))?;
    settings.checked().map_err(|error| refused(&error))
}

fn begin(health: &Arc<Health>, settings: Settings) -> Response<Vec<u8>> {
    let agents = health.agents();
    let names: Vec<&str> = agents.iter().map(|agent| agent.id.as_str()).collect();
    if let Some(agent) = settings.agent.as_deref()
        && !names.contains(&agent)
    {
        let why = format!("there is no such agent; there are {}\n", names.join(", "));
        return text(StatusCode::NOT_FOUND, &why);
    }
    let id = Uuid::now_v7().to_string();
    let recordings = &health.telemetry.recordings;
    match recordings.begin(id.clone(), settings, Instant::now()) {
        Ok(status) => {
            let telemetry = health.telemetry.clone();
            tokio::spawn(async move {
                while let Some(wait) = telemetry.recordings.look_after(&id, Instant::now()) {
                    tokio::time::sleep(wait).await;
                }
            });
            lines(StatusCode::CREATED, &status, &[])
        }
        Err(()) => text(
            StatusCode::CONFLICT,
            "there is a recording already; it ends by itself\n",
        ),
    }
}

fn take(health: &Health, id: &str) -> Response<Vec<u8>> {
    match health.telemetry.recordings.take(id, Instant::now()) {
        Some((status, entries)) => lines(StatusCode::OK, &status, &entries),
        None => unknown(),
    }
}

fn unknown() -> Response<Vec<u8>> {
    text(StatusCode::NOT_FOUND, "there is no such recording\n")
}

/// How the recording stands, and below it entries.
fn lines(status: StatusCode, standing: &Status, entries: &[u8]) -> Response<Vec<u8>> {
    let mut body = serde_json::to_vec(standing).unwrap_or_default();
    body.push(b'\n');
    body.extend_from_slice(entries);
    typed(status, "application/x-ndjson", body)
}
