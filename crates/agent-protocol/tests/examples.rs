//! The agents in examples/ do what they say, asked without a socket in between.

#![expect(clippy::unwrap_used, reason = "a panic in here is a test that fails")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portcullis_agent_protocol::server::Agent;
use portcullis_agent_protocol::{
    BodyChunk, Decision, EventKind, RequestHeaders, RequestMetadata, Verdict,
};
use serde_json::{Value, json};

#[path = "../examples/body_redaction.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod body_redaction;
#[path = "../examples/denylist.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod denylist;
#[path = "../examples/header_stamp.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod header_stamp;
#[path = "../examples/jwt_check.rs"]
#[expect(dead_code, reason = "its main is not called here")]
mod jwt_check;

async fn configured<A: Agent>(agent: A, config: &Value) -> A {
    assert_eq!(agent.configure(config).await, Ok(()));
    agent
}

async fn asked(
    agent: &impl Agent,
    uri: &str,
    client_ip: &str,
    fields: &[(&str, &str)],
) -> Decision {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    let event = RequestHeaders {
        metadata: RequestMetadata {
            correlation_id: "c-1",
            request_id: "r-1",
            client_ip: client_ip.parse().unwrap(),
            client_port: 51234,
            server_name: None,
            protocol: "HTTP/1.1",
            tls_version: None,
            tls_cipher: None,
            client_certificate: None,
            route_id: None,
            upstream_id: None,
            timestamp: UNIX_EPOCH,
            traceparent: None,
        },
        method: "GET",
        uri,
        headers: &headers,
        budget_left: None,
    };
    agent.request_headers(&event).await.unwrap()
}

#[tokio::test]
async fn denylist_blocks_by_path_user_agent_and_address() {
    let config = json!({"paths": "/admin", "user-agents": ["SqlMap", "nikto"],
        "client-networks": ["198.51.100.0/24", "2001:db8::/32"]});
    let agent = configured(denylist::Denylist::default(), &config).await;
    let curl = ("user-agent", "curl/8");
    for (uri, client, fields, reason) in [
        ("/admin?x", "203.0.113.7", &[][..], "path:/admin"),
        (
            "/",
            "203.0.113.7",
            &[curl, ("user-agent", "x sqlmap/1")],
            "user-agent:sqlmap",
        ),
        ("/", "198.51.100.7", &[], "client:198.51.100.0/24"),
        ("/", "2001:db8::7", &[], "client:2001:db8::/32"),
    ] {
        let decision = asked(&agent, uri, client, fields).await;
        assert_eq!(decision, Decision::block(403).reason(reason), "{uri}");
    }
    let allowed = asked(&agent, "/administrator", "203.0.113.7", &[curl]).await;
    assert_eq!(allowed, Decision::allow());
    for wrong in [json!({"path": "/"}), json!({"client-networks": "nowhere"})] {
        assert!(agent.configure(&wrong).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn header_stamp_changes_both_heads() {
    let config = json!({"request": {"x-edge": "eu-1"}, "response": {"x-frame-options": "DENY"},
        "remove": "server"});
    let agent = configured(header_stamp::HeaderStamp::default(), &config).await;
    let expected = Decision::allow()
        .set_request_header("x-stamped-for", "r-1")
        .set_request_header("x-edge", "eu-1")
        .remove_response_header("server")
        .set_response_header("x-frame-options", "DENY");
    assert_eq!(asked(&agent, "/", "203.0.113.7", &[]).await, expected);
}

async fn redacted(
    agent: &body_redaction::BodyRedaction,
    kind: EventKind,
    pieces: &[&[u8]],
) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, data) in pieces.iter().enumerate() {
        let event = BodyChunk {
            correlation_id: "c-1",
            index: index.try_into().unwrap(),
            data: Bytes::copy_from_slice(data),
            is_last: index + 1 == pieces.len(),
            total_size: None,
            transferred: 0,
            truncated: false,
            trailers: None,
            budget_left: None,
        };
        let changed = match kind {
            EventKind::RequestBodyChunk => {
                let decision = agent.request_body_chunk(&event).await.unwrap();
                decision.request_body
            }
            _ => {
                let decision = agent.response_body_chunk(&event).await.unwrap();
                decision.response_body
            }
        };
        out.extend_from_slice(changed.as_deref().unwrap_or(data));
    }
    out
}

#[tokio::test]
async fn body_redaction_finds_matches_across_pieces() {
    let config = json!({"pattern": r"\b\d{16}\b", "replacement": "[card]", "max-match": 16});
    let agent = configured(body_redaction::BodyRedaction::new(), &config).await;
    let text = b"pay 4111111111111111 now, not 41111111111111112 nor a4111111111111111; \
        1234567890123456";
    let expected = b"pay [card] now, not 41111111111111112 nor a4111111111111111; [card]";
    for kind in [EventKind::RequestBodyChunk, EventKind::ResponseBodyChunk] {
        assert_eq!(redacted(&agent, kind, &[text]).await, expected);
        for at in 1..text.len() {
            let (before, after) = text.split_at(at);
            assert_eq!(
                redacted(&agent, kind, &[before, after]).await,
                expected,
                "{at}"
            );
        }
        let mut bytes: Vec<&[u8]> = text.chunks(1).collect();
        bytes.push(b"");
        assert_eq!(redacted(&agent, kind, &bytes).await, expected);
    }
    let middle = BodyChunk {
        correlation_id: "c-2",
        index: 1,
        data: Bytes::new(),
        is_last: true,
        total_size: None,
        transferred: 0,
        truncated: false,
        trailers: None,
        budget_left: None,
    };
    assert!(agent.request_body_chunk(&middle).await.is_err());
    for wrong in [
        json!({}),
        json!({"pattern": "("}),
        json!({"pattern": "a*"}),
        json!({"pattern": "a", "max-match": 0}),
    ] {
        assert!(agent.configure(&wrong).await.is_err(), "{wrong}");
    }
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn token(algorithm: Algorithm, secret: &str, changes: Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let exp = (now + Duration::from_secs(60)).as_secs();
    let mut claims = json!({"sub": "alice", "iss": "i", "aud": "shop", "exp": exp});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).unwrap()
}

// Reading the secret needs a runtime.
#[tokio::test]
async fn jwt_check_lets_in_whom_the_secret_vouches_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{SECRET}\n")).unwrap();
    let agent = jwt_check::JwtCheck::default();
    let config = json!({"secret-file": file.path(), "issuer": "i", "audience": "shop"});
    assert_eq!(agent.configure(&config).await, Ok(()));
    let bearing = async |token: &str| {
        let field = format!("Bearer {token}");
        asked(&agent, "/", "203.0.113.7", &[("authorization", &field)]).await
    };
    let good = token(Algorithm::HS256, SECRET, json!({}));
    let allowed = Decision::allow().set_request_header("x-user", "alice");
    assert_eq!(bearing(&good).await, allowed);
    let refused =
        |decision: Decision| matches!(decision.verdict, Verdict::Block { status: 401, .. });
    assert!(refused(asked(&agent, "/", "203.0.113.7", &[]).await));
    let field = format!("Bearer {good}");
    let twice = [("authorization", &*field), ("authorization", &*field)];
    assert!(refused(asked(&agent, "/", "203.0.113.7", &twice).await));
    let reversed: String = SECRET.chars().rev().collect();
    for bad in [
        "x".to_owned(),
        token(Algorithm::HS256, &reversed, json!({})),
        token(Algorithm::HS384, SECRET, json!({})),
        token(Algorithm::HS256, SECRET, json!({"exp": 1})),
        token(Algorithm::HS256, SECRET, json!({"exp": null})),
        token(Algorithm::HS256, SECRET, json!({"sub": null})),
        token(Algorithm::HS256, SECRET, json!({"iss": "j"})),
        token(Algorithm::HS256, SECRET, json!({"iss": null})),
        token(Algorithm::HS256, SECRET, json!({"aud": "other"})),
        token(Algorithm::HS256, SECRET, json!({"aud": null})),
    ] {
        assert!(refused(bearing(&bad).await), "{bad}");
    }
    for wrong in [json!({}), json!({"secret-file": "/no/such/file"})] {
        assert!(agent.configure(&wrong).await.is_err(), "{wrong}");
    }
}
