//! Our proxy's end and our agent's end, over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::server::ServeOptions;
use portcullis_agent_protocol::{
    CallError, CallGuard, CloseReason, ConnectError, ConnectOptions, Connection, Decision,
    EventKind, Extensions, HeaderOp, Limits,
};
use serde_json::json;

use crate::support::{
    PEERS, RawPeer, Request, Served, block, connect, connect_with, edit, until, within,
};

async fn ask(connection: &Connection, uri: &str) -> Result<Decision, CallError> {
    let request = Request::new(uri, uri);
    let answer = connection.send(&request.event(), CallGuard::none())?;
    within(answer).await
}

#[tokio::test]
async fn every_verdict_with_every_kind_of_peer() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        assert_eq!(connection.extensions(), extensions);
        assert_eq!(connection.capabilities().name, "path");
        assert!(connection.supports(EventKind::RequestHeaders));
        assert!(!connection.supports(EventKind::ResponseHeaders));
        let challenge = Decision::challenge("captcha").with_param("site_key", "k");
        for (uri, expected) in [
            ("/", Decision::allow()),
            ("/block", block()),
            (
                "/redirect",
                Decision::redirect("https://example.com/").tag("moved"),
            ),
            ("/challenge", challenge),
            ("/edit", edit()),
        ] {
            assert_eq!(
                ask(&connection, uri).await,
                Ok(expected),
                "{uri} {extensions:?}"
            );
        }
        assert_eq!((connection.in_flight(), connection.unanswered()), (0, 0));
    }
}

#[tokio::test]
async fn agents_of_ours_learn_the_time_left() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        for left in [
            None,
            Some(Duration::ZERO),
            Some(Duration::from_micros(1500)),
        ] {
            let request = Request::new("c", "/budget");
            let event = request.event().with_budget_left(left);
            let answer = connection.send(&event, CallGuard::none());
            let told = left.filter(|_| extensions.event_id);
            let expected = Decision::allow().tag(format!("{told:?}"));
            assert_eq!(within(answer.unwrap()).await, Ok(expected));
        }
    }
}

#[tokio::test]
async fn the_proxy_may_offer_less_than_the_agent_can() {
    let served = Served::with_extensions(Extensions::ALL);
    for extensions in PEERS {
        let options = ConnectOptions {
            extensions,
            ..ConnectOptions::new("test")
        };
        let connection = connect_with(&served.path, &options).await;
        assert_eq!(connection.extensions(), extensions);
        assert_eq!(ask(&connection, "/block").await, Ok(block()));
    }
}

#[tokio::test]
async fn a_configuration_is_accepted_before_the_connection_is_used() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let config = |value| ConnectOptions {
            config: Some(Arc::new(value)),
            ..ConnectOptions::new("test")
        };
        let accepted = connect_with(&served.path, &config(json!({"level": 2}))).await;
        assert_eq!(ask(&accepted, "/block").await, Ok(block()));
        let refused = config(json!({"refuse": "unknown key \"levle\""}));
        let error = within(Connection::connect(&served.path, &refused))
            .await
            .unwrap_err();
        let ConnectError::ConfigurationRefused { reason } = error else {
            panic!("{error}");
        };
        assert_eq!(reason, "unknown key \"levle\"");
    }
}

#[tokio::test]
async fn a_thousand_calls_at_once_get_their_own_answers() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        let answers = (0..1000).map(|n| {
            // They finish in another order than they began.
            let request = Request::new(format!("c-{n}"), format!("/yield/{}", n * 7 % 13));
            connection
                .send(&request.event(), CallGuard::none())
                .unwrap()
        });
        let answers: Vec<_> = answers.collect();
        assert_eq!(connection.in_flight(), 1000);
        for (n, answer) in within(join_all(answers)).await.into_iter().enumerate() {
            let op = HeaderOp::Set {
                name: "x-id".to_owned(),
                value: format!("c-{n}"),
            };
            assert_eq!(answer.unwrap().request_headers, [op]);
        }
        assert_eq!(connection.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_handler_that_waits_does_not_hold_up_others() {
    for extensions in [Extensions::ALL, PEERS[2]] {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        let request = Request::new("held", "/hold");
        let held = connection
            .send(&request.event(), CallGuard::none())
            .unwrap();
        assert_eq!(ask(&connection, "/block").await, Ok(block()));
        assert_eq!(connection.in_flight(), 1);
        served.agent.release.notify_one();
        assert_eq!(within(held).await, Ok(Decision::allow().tag("held")));
    }
}

#[tokio::test]
async fn concurrency_of_a_connection_is_bounded() {
    let options = ServeOptions {
        concurrency: 2,
        ..ServeOptions::default()
    };
    let served = Served::new(options);
    let connection = connect(&served.path).await;
    assert_eq!(connection.capabilities().features.concurrent_requests, 2);
    let held: Vec<_> = ["1", "2", "3"]
        .map(|id| {
            connection
                .send(&Request::new(id, "/hold").event(), CallGuard::none())
                .unwrap()
        })
        .into();
    let last = connection
        .send(&Request::new("4", "/").event(), CallGuard::none())
        .unwrap();
    for _ in 0..3 {
        served.agent.release.notify_one();
        // The notification must have been taken before the next is given.
        let before = connection.unanswered();
        until(|| connection.unanswered() < before).await;
    }
    for answer in within(join_all(held)).await {
        assert_eq!(answer, Ok(Decision::allow().tag("held")));
    }
    assert_eq!(within(last).await, Ok(Decision::allow()));
}

#[tokio::test]
async fn d08_a_failing_agent_never_allows() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        for (uri, message) in [("/fail", "no idea"), ("/panic", "the agent panicked")] {
            let answer = ask(&connection, uri).await;
            if extensions.error {
                assert_eq!(answer, Err(CallError::Agent(message.to_owned())));
            } else {
                let expected = Decision::block(500)
                    .reason("agent_error")
                    .custom("error", message);
                assert_eq!(answer, Ok(expected));
            }
        }
        assert_eq!(
            ask(&connection, "/block").await,
            Ok(block()),
            "and it goes on"
        );
    }
}

#[tokio::test]
async fn an_agent_may_say_not_now() {
    let hour = Duration::from_secs(3600);
    let without_overloaded = Extensions {
        overloaded: false,
        ..Extensions::ALL
    };
    for extensions in PEERS.into_iter().chain([without_overloaded]) {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        for (uri, retry_after) in [
            ("/later", None),
            ("/later/1500", Some(Duration::from_millis(1500))),
            ("/later/3600001", Some(hour)),
        ] {
            let answer = ask(&connection, uri).await;
            let message = "the agent is overloaded";
            let expected = match extensions {
                Extensions {
                    overloaded: true, ..
                } => Err(CallError::Overloaded { retry_after }),
                Extensions { error: true, .. } => Err(CallError::Agent(message.to_owned())),
                _ => Ok(Decision::block(500)
                    .reason("agent_error")
                    .custom("error", message)),
            };
            assert_eq!(answer, expected, "{uri} {extensions:?}");
        }
        assert_eq!(ask(&connection, "/block").await, Ok(block()));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_a_failure() {
    let options = ServeOptions {
        max_frame_bytes: 100_000,
        ..ServeOptions::default()
    };
    let served = Served::new(options);
    let connection = connect(&served.path).await;
    let answer = ask(&connection, "/huge").await;
    assert_eq!(
        answer,
        Err(CallError::Agent(
            "the agent's answer cannot be sent".to_owned()
        ))
    );
    assert_eq!(ask(&connection, "/block").await, Ok(block()));
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused() {
    let served = Served::with_extensions(Extensions::ALL);
    let limits = Limits {
        max_frame_bytes: 1000,
        ..Limits::default()
    };
    let options = ConnectOptions {
        limits,
        ..ConnectOptions::new("test")
    };
    let connection = connect_with(&served.path, &options).await;
    let uri = format!("/{}", "x".repeat(1000));
    let refused = connection.send(&Request::new("c", uri).event(), CallGuard::none());
    let Err(CallError::EventTooLarge { bytes, limit: 1000 }) = refused else {
        panic!("{refused:?}");
    };
    assert!(bytes > 1000);
    assert_eq!(connection.in_flight(), 0);
    assert_eq!(ask(&connection, "/block").await, Ok(block()));
}

#[tokio::test]
async fn d12_a_legacy_connection_retires_after_a_late_answer_is_expected() {
    let served = Served::with_extensions(PEERS[2]);
    let connection = connect(&served.path).await;
    let ask_held = |id| connection.send(&Request::new(id, "/hold").event(), CallGuard::none());
    let forgotten = ask_held("1").unwrap();
    let waited_for = ask_held("2").unwrap();
    assert_eq!(ask_held("2").unwrap_err(), CallError::DuplicateOutstanding);
    drop(forgotten);
    assert!(connection.is_retiring());
    assert!(!connection.is_open());
    assert_eq!(ask_held("3").unwrap_err(), CallError::Closed);
    // Both handlers wait by now or will find the permit.
    served.agent.release.notify_one();
    until(|| connection.late_answers_seen() == 1).await;
    served.agent.release.notify_one();
    assert_eq!(within(waited_for).await, Ok(Decision::allow().tag("held")));
    within(connection.closed()).await;
    assert_eq!(connection.close_reason(), Some(CloseReason::Local));
}

#[tokio::test]
async fn retiring_finishes_and_closing_does_not() {
    let served = Served::with_extensions(Extensions::ALL);
    let retired = connect(&served.path).await;
    let answer = retired
        .send(&Request::new("1", "/hold").event(), CallGuard::none())
        .unwrap();
    retired.retire();
    assert!(
        retired
            .send(&Request::new("2", "/").event(), CallGuard::none())
            .is_err()
    );
    served.agent.release.notify_one();
    assert_eq!(within(answer).await, Ok(Decision::allow().tag("held")));
    within(retired.closed()).await;

    let closed = connect(&served.path).await;
    let answer = closed
        .send(&Request::new("1", "/hold").event(), CallGuard::none())
        .unwrap();
    closed.close();
    assert_eq!(within(answer).await, Err(CallError::Closed));
    within(closed.closed()).await;
    assert!(!closed.is_open());
    assert_eq!((closed.in_flight(), closed.unanswered()), (0, 0));
}

#[tokio::test]
async fn the_last_handle_lets_the_connection_finish_and_close() {
    let served = Served::with_extensions(Extensions::ALL);
    let options = ConnectOptions::new("test");
    let (connection, driver) = Connection::connect(&served.path, &options).await.unwrap();
    let driver = tokio::spawn(driver);
    let clone = connection.clone();
    drop(connection);
    let answer = clone
        .send(&Request::new("1", "/hold").event(), CallGuard::none())
        .unwrap();
    drop(clone);
    served.agent.release.notify_one();
    assert_eq!(within(answer).await, Ok(Decision::allow().tag("held")));
    assert_eq!(within(driver).await.unwrap(), CloseReason::Local);
}

#[tokio::test]
async fn dropping_the_driver_ends_the_connection() {
    let served = Served::with_extensions(Extensions::ALL);
    let options = ConnectOptions::new("test");
    let (connection, driver) = Connection::connect(&served.path, &options).await.unwrap();
    let answer = connection
        .send(&Request::new("1", "/").event(), CallGuard::none())
        .unwrap();
    drop(driver);
    assert_eq!(within(answer).await, Err(CallError::Closed));
    within(connection.closed()).await;
}

#[tokio::test]
async fn a_stopping_agent_finishes_what_it_has() {
    let mut served = Served::with_extensions(Extensions::ALL);
    let connection = connect(&served.path).await;
    let held = connection
        .send(&Request::new("1", "/hold").event(), CallGuard::none())
        .unwrap();
    // Answered after the held event was read.
    assert_eq!(ask(&connection, "/").await, Ok(Decision::allow()));
    // One that never says anything must not hold up the end.
    let _silent = RawPeer::connect(&served.path).await;
    served.begin_stop();
    served.agent.release.notify_one();
    assert_eq!(within(held).await, Ok(Decision::allow().tag("held")));
    within(connection.closed()).await;
    assert_eq!(connection.close_reason(), Some(CloseReason::Peer));
    served.stopped().await;
}

#[tokio::test]
async fn connections_of_an_agent_are_bounded() {
    let served = Served::new(ServeOptions {
        max_connections: 1,
        ..ServeOptions::default()
    });
    let _first = connect(&served.path).await;
    let options = ConnectOptions::new("test");
    let error = within(Connection::connect(&served.path, &options))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn nobody_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nobody.sock");
    let error = Connection::connect(&path, &ConnectOptions::new("test"))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn one_deadline_for_the_whole_handshake() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("silent.sock");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    let options = ConnectOptions {
        handshake_timeout: Duration::from_millis(20),
        ..ConnectOptions::new("test")
    };
    let error = within(Connection::connect(&path, &options))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Timeout), "{error}");
}

#[tokio::test]
async fn control_messages_are_counted_and_handed_on() {
    let raw = crate::support::RawListener::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let options = ConnectOptions {
        on_control: Some(Arc::new(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        })),
        config: Some(Arc::new(json!({}))),
        ..ConnectOptions::new("test")
    };
    let agent = async {
        let mut peer = raw.accept().await;
        peer.shake_hands(Extensions::NONE).await;
        // One before the configuration is acknowledged.
        peer.send_json(MessageType::HealthStatus, &json!({"state": 1}))
            .await;
        let configure = peer.receive_json(MessageType::Configure).await;
        let id = configure["correlation_id"].as_str().unwrap();
        assert!(id.starts_with("configure-test-"), "{id}");
        let answer = crate::support::legacy_answer(id, &json!("allow"));
        peer.send_json(MessageType::AgentResponse, &answer).await;
        peer
    };
    let (connection, mut peer) = tokio::join!(connect_with(&raw.path, &options), agent);
    for (kind, message) in [
        (MessageType::FlowControl, json!({"action": 1})),
        (
            MessageType::MetricsReport,
            json!({"agent_id": "waf", "counters": []}),
        ),
        (
            MessageType::ConfigUpdateRequest,
            json!({"update_type": {"type": "request_reload"}}),
        ),
        (MessageType::Pong, json!({"sequence": 1, "timestamp_ms": 2})),
    ] {
        peer.send_json(kind, &message).await;
    }
    until(|| connection.control_messages_seen() == 5).await;
    assert_eq!(seen.load(Ordering::Relaxed), 5);
    assert!(connection.is_open());
}
