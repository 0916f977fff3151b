//! Verdicts that hold for a while, and what takes them back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::codec::{EventId, binary, json};
use portcullis_agent_protocol::server::{Agent, AgentError, Reporter, ServeOptions};
use portcullis_agent_protocol::{
    CallGuard, CloseReason, ConnectOptions, Connection, ControlMessage, Decision, Extensions,
    KeyPart, MAX_VERDICT_TTL, ProtocolError, RequestHeaders, VerdictTtl,
};
use serde_json::json;

use crate::support::{
    PEERS, RawListener, RawPeer, Request, Served, connect, connect_with, until, within,
};
use crate::vectors::unhex;

/// Its verdicts hold for a second, whatever the cookies and the query.
struct Forgetful;

fn held() -> Decision {
    Decision::block(403)
        .hold_for(Duration::from_secs(1))
        .whatever_the(KeyPart::Cookie)
        .whatever_the(KeyPart::Query)
        .whatever_the(KeyPart::Cookie)
}

#[async_trait::async_trait]
impl Agent for Forgetful {
    fn name(&self) -> &str {
        "forgetful"
    }

    async fn request_headers(&self, _: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        Ok(held())
    }
}

fn served(extensions: Extensions) -> (Served<Forgetful>, Reporter) {
    let reporter = Reporter::default();
    let options = ServeOptions {
        extensions,
        reporter: reporter.clone(),
        ..ServeOptions::default()
    };
    (Served::with_agent(Forgetful, options), reporter)
}

async fn ask(connection: &Connection) -> Decision {
    let request = Request::new("c-1", "/");
    let answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    within(answer).await.unwrap()
}

#[test]
fn a_ttl_is_made_and_taken_back() {
    let ttl = held().ttl.unwrap();
    assert_eq!(ttl.ttl, Duration::from_secs(1));
    assert_eq!(ttl.vary_ignores, [KeyPart::Cookie, KeyPart::Query]);
    let longer = held().hold_for(Duration::from_secs(2)).ttl.unwrap();
    assert_eq!(longer.ttl, Duration::from_secs(2));
    assert_eq!(longer.vary_ignores, ttl.vary_ignores);
    assert_eq!(held().hold_for(Duration::ZERO).ttl, None);
    let never = Decision::allow().whatever_the(KeyPart::Cookie);
    assert_eq!(never, Decision::allow());
}

#[tokio::test]
async fn those_who_have_agreed_to_it_learn_for_how_long_a_verdict_holds() {
    for extensions in PEERS {
        let (served, _reporter) = served(extensions);
        let connection = connect(&served.path).await;
        assert_eq!(connection.extensions().verdict_ttl, extensions.verdict_ttl);
        let expected = Decision {
            ttl: held().ttl.filter(|_| extensions.verdict_ttl),
            ..held()
        };
        assert_eq!(ask(&connection).await, expected);
    }
}

#[tokio::test]
async fn every_proxy_is_told_that_verdicts_hold_no_longer() {
    for extensions in PEERS {
        let (served, reporter) = served(extensions);
        let heard = Arc::new(Mutex::new(0));
        let mut options = ConnectOptions::new("test");
        let count = Arc::clone(&heard);
        options.on_control = Some(Arc::new(move |message: &ControlMessage| {
            if *message == ControlMessage::PurgeVerdicts {
                *count.lock().unwrap() += 1;
            }
        }));
        let first = connect_with(&served.path, &options).await;
        let second = connect(&served.path).await;
        assert_eq!((first.purges_seen(), second.purges_seen()), (0, 0));
        reporter.purge_verdicts();
        if !extensions.verdict_ttl {
            // Whatever had been said would have come before the Pong.
            within(first.ping()).await.unwrap();
            assert_eq!((first.purges_seen(), first.control_messages_seen()), (0, 1));
            continue;
        }
        for connection in [&first, &second] {
            assert_eq!(within(connection.purged(0)).await, Some(1));
            assert_eq!(connection.purges_seen(), 1);
        }
        assert_eq!(*heard.lock().unwrap(), 1);
        reporter.purge_verdicts();
        assert_eq!(within(first.purged(1)).await, Some(2));
        // It may have been connected before, and have kept something.
        let third = connect(&served.path).await;
        assert_eq!(within(third.purged(0)).await, Some(1));
        // A purge is no change of how the agent is.
        assert_eq!(first.condition(), Default::default());
        first.close();
        assert_eq!(within(first.purged(2)).await, None);
    }
}

#[tokio::test]
async fn a_purge_is_seen_before_the_answer_behind_it() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(PEERS[1]).await;
    let request = Request::new("c-1", "/");
    for purges in 1..=3 {
        let pending = connection
            .send(&request.event(), CallGuard::none())
            .unwrap();
        let event = peer.receive_json(MessageType::RequestHeaders).await;
        let id = EventId::Number(event["event_id"].as_u64().unwrap());
        let mut payload = Vec::new();
        json::encode_answer(&mut payload, &id, 0, &Ok(held()), PEERS[1]).unwrap();
        peer.send_json(MessageType::VerdictPurge, &json!({})).await;
        peer.send(MessageType::AgentResponse, &payload).await;
        assert_eq!(within(pending).await, Ok(held()));
        assert_eq!(connection.purges_seen(), purges);
    }
}

#[tokio::test]
async fn a_purge_that_was_not_agreed_on_ends_the_connection() {
    for extensions in [PEERS[2], Extensions::NONE] {
        let raw = RawListener::new();
        let (connection, mut peer) = raw.connected(extensions).await;
        peer.send_json(MessageType::VerdictPurge, &json!({})).await;
        within(connection.closed()).await;
        let error = ProtocolError::UnexpectedMessage(MessageType::VerdictPurge);
        assert_eq!(
            connection.close_reason(),
            Some(CloseReason::Protocol(error))
        );
        assert_eq!(connection.purges_seen(), 0);
    }
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::ALL).await;
    peer.send(MessageType::VerdictPurge, b"[]").await;
    within(connection.closed()).await;
    assert_eq!(connection.purges_seen(), 0);
}

#[tokio::test]
async fn a_proxy_cannot_purge_an_agent() {
    let (served, _reporter) = served(Extensions::ALL);
    let mut proxy = RawPeer::connect(&served.path).await;
    let request = json!({"supported_versions": [2], "extensions": Extensions::ALL.names()});
    proxy.greet(&request).await;
    proxy.send_json(MessageType::VerdictPurge, &json!({})).await;
    proxy.ended().await;
}

#[tokio::test]
async fn several_purges_while_a_proxy_does_not_read_are_one() {
    let (served, reporter) = served(Extensions::ALL);
    let connection = connect(&served.path).await;
    within(connection.ping()).await.unwrap();
    // The agent cannot speak in between: there is one thread.
    for _ in 0..1000 {
        reporter.purge_verdicts();
    }
    until(|| connection.purges_seen() == 1).await;
    within(connection.ping()).await.unwrap();
    assert_eq!(connection.purges_seen(), 1);
}

fn answer_with(members: &str) -> String {
    format!(r#"{{"version":2,"event_id":7,"decision":"allow"{members}}}"#)
}

#[test]
fn what_json_says_of_a_ttl() {
    let ttl = |milliseconds, parts: &[KeyPart]| {
        Some(Box::new(VerdictTtl {
            ttl: Duration::from_millis(milliseconds),
            vary_ignores: parts.to_vec(),
        }))
    };
    let cookie = [KeyPart::Cookie];
    let longest = MAX_VERDICT_TTL.as_millis() as u64;
    let table = [
        ("", Some(None)),
        (r#","ttl_ms":null,"vary_ignores":null"#, Some(None)),
        (r#","ttl_ms":0,"vary_ignores":["cookie"]"#, Some(None)),
        (r#","vary_ignores":["cookie"]"#, Some(None)),
        (r#","ttl_ms":1"#, Some(ttl(1, &[]))),
        (
            r#","ttl_ms":1500,"vary_ignores":["cookie","host","Cookie","cookie",""]"#,
            Some(ttl(1500, &cookie)),
        ),
        (r#","ttl_ms":18446744073709551615"#, Some(ttl(longest, &[]))),
        (r#","ttl_ms":-1"#, None),
        (r#","ttl_ms":1.5"#, None),
        (r#","ttl_ms":"1s""#, None),
        (r#","ttl_ms":1,"vary_ignores":"cookie""#, None),
        (r#","ttl_ms":1,"vary_ignores":[1]"#, None),
    ];
    for (members, expected) in table {
        let text = answer_with(members);
        let decoded = json::decode_answer(text.as_bytes(), PEERS[1]);
        match expected {
            Some(expected) => assert_eq!(decoded.unwrap().1.unwrap().ttl, expected, "{text}"),
            None => assert_eq!(decoded.unwrap_err().id, Some(EventId::Number(7)), "{text}"),
        }
    }
    let without = Extensions {
        verdict_ttl: false,
        ..PEERS[1]
    };
    let decoded = json::decode_answer(answer_with(r#","ttl_ms":1500"#).as_bytes(), without);
    assert_eq!(decoded.unwrap().1, Ok(Decision::allow()));
}

#[test]
fn what_the_binary_encoding_says_of_a_ttl() {
    let table = [
        ("00000000000005dc00000000", Some(Some(1500)), 0),
        ("000000000000000000000000", Some(None), 0),
        (
            "00000000000005dc00000001 00000006636f6f6b6965",
            Some(Some(1500)),
            1,
        ),
        (
            "00000000000005dc00000001 00000004686f7374",
            Some(Some(1500)),
            0,
        ),
        ("ffffffffffffffff00000000", Some(Some(86_400_000)), 0),
        ("00000000000005dc", None, 0),
        ("00000000000005dc00000002 00000006636f6f6b6965", None, 0),
        ("00000000000005dcffffffff", None, 0),
        ("00000000000005dc00000001 00000001ff", None, 0),
    ];
    for (section, expected, ignored) in table {
        let section = section.replace(' ', "");
        let length = section.len() / 2;
        let answer = unhex(&format!("0000000000000007000008{length:08x}{section}"));
        let decoded = binary::decode_answer(&answer, Extensions::ALL);
        let Some(expected) = expected else {
            assert_eq!(
                decoded.unwrap_err().id,
                Some(EventId::Number(7)),
                "{section}"
            );
            continue;
        };
        let ttl = decoded.unwrap().1.unwrap().ttl;
        let read = ttl.as_ref().map(|it| it.ttl.as_millis());
        assert_eq!(read, expected, "{section}");
        assert_eq!(ttl.map_or(0, |it| it.vary_ignores.len()), ignored);
        let without = Extensions {
            verdict_ttl: false,
            ..Extensions::ALL
        };
        let decoded = binary::decode_answer(&answer, without);
        assert_eq!(decoded.unwrap().1, Ok(Decision::allow()));
    }
}
