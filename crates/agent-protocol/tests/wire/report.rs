//! What our agents say about themselves without being asked.

use std::time::Duration;

use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::server::{Reporter, ServeOptions};
use portcullis_agent_protocol::{
    CallError, CallGuard, CloseReason, Connection, Decision, Extensions, HealthState, PendingAnswer,
};
use serde_json::{Value, json};

use crate::support::{DEADLINE, PEERS, RawPeer, Request, Served, connect, until, within};

fn ask(connection: &Connection, id: &str, uri: &str) -> Result<PendingAnswer, CallError> {
    connection.send(&Request::new(id, uri).event(), CallGuard::none())
}

#[tokio::test]
async fn every_proxy_is_told_the_present_state_and_every_change() {
    for extensions in PEERS {
        let reporter = Reporter::default();
        let served = Served::new(ServeOptions {
            extensions,
            reporter: reporter.clone(),
            ..ServeOptions::default()
        });
        let first = connect(&served.path).await;
        let features = &first.capabilities().features;
        assert!(features.health_reporting && features.flow_control);
        reporter.health(HealthState::Degraded);
        reporter.pause();
        until(|| first.health() == HealthState::Degraded && first.is_paused()).await;
        let second = connect(&served.path).await;
        until(|| second.health() == HealthState::Degraded && second.is_paused()).await;
        // It works on what comes all the same.
        let answer = within(ask(&first, "c", "/").unwrap()).await;
        assert_eq!(answer, Ok(Decision::allow()));
        reporter.resume();
        reporter.health(HealthState::Healthy);
        for connection in [first, second] {
            let well = || connection.health() == HealthState::Healthy && !connection.is_paused();
            until(well).await;
            assert_eq!(connection.control_messages_seen(), 4);
        }
    }
}

#[tokio::test]
async fn an_agent_that_is_well_says_nothing() {
    let served = Served::with_extensions(Extensions::ALL);
    let connection = connect(&served.path).await;
    // Whatever had been said would have come before the Pong.
    within(connection.ping()).await.unwrap();
    assert_eq!(connection.control_messages_seen(), 1);
}

#[tokio::test]
async fn what_is_said_has_the_shape_of_others() {
    let reporter = Reporter::default();
    reporter.health(HealthState::Unhealthy);
    reporter.pause();
    let served = Served::new(ServeOptions {
        reporter: reporter.clone(),
        ..ServeOptions::default()
    });
    let mut proxy = RawPeer::connect(&served.path).await;
    let request = json!({"supported_versions": [2], "proxy_id": "p", "proxy_version": "1",
        "config": null});
    let response = proxy.greet(&request).await;
    assert_eq!(response["capabilities"]["features"]["flow_control"], true);
    let health = |state: u32| json!({"agent_id": "path", "state": state, "message": null, "timestamp_ms": null});
    let unhealthy = timeless(&mut proxy).await;
    assert_eq!(unhealthy, (MessageType::HealthStatus, health(4)));
    let flow =
        |action: u32| json!({"correlation_id": null, "action": action, "timestamp_ms": null});
    let paused = timeless(&mut proxy).await;
    assert_eq!(paused, (MessageType::FlowControl, flow(1)));
    reporter.resume();
    let resumed = timeless(&mut proxy).await;
    assert_eq!(resumed, (MessageType::FlowControl, flow(2)));
    for (state, expected) in [
        (HealthState::Degraded, 2),
        (HealthState::Draining, 3),
        (HealthState::Healthy, 1),
    ] {
        reporter.health(state);
        let (kind, message) = timeless(&mut proxy).await;
        assert_eq!(
            (kind, message),
            (MessageType::HealthStatus, health(expected))
        );
    }
}

/// The next message, which says when it was sent.
async fn timeless(proxy: &mut RawPeer) -> (MessageType, Value) {
    let (kind, payload) = proxy.receive().await;
    let mut message: Value = serde_json::from_slice(&payload).unwrap();
    let timestamp = message["timestamp_ms"].take().as_u64().unwrap();
    assert!(timestamp > 1_700_000_000_000, "{timestamp}");
    (kind, message)
}

#[tokio::test]
async fn a_proxy_that_hears_of_the_end_loses_nothing() {
    for extensions in PEERS {
        let mut served = Served::new(ServeOptions {
            extensions,
            drain_notice: DEADLINE,
            drain_timeout: DEADLINE,
            ..ServeOptions::default()
        });
        let connection = connect(&served.path).await;
        let held = ask(&connection, "held", "/hold").unwrap();
        until(|| served.agent.held() == 1).await;
        served.begin_stop();
        until(|| connection.health() == HealthState::Draining).await;
        // One more that could have been on its way.
        let late = ask(&connection, "late", "/").unwrap();
        connection.retire();
        served.agent.release.notify_one();
        assert_eq!(within(held).await, Ok(Decision::allow().tag("held")));
        assert_eq!(within(late).await, Ok(Decision::allow()));
        within(connection.closed()).await;
        // Well before the end of the notice.
        served.stopped().await;
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_care_is_told_and_closed() {
    for extensions in PEERS {
        let mut served = Served::new(ServeOptions {
            extensions,
            drain_notice: Duration::from_millis(10),
            ..ServeOptions::default()
        });
        let connection = connect(&served.path).await;
        let held = ask(&connection, "held", "/hold").unwrap();
        until(|| served.agent.held() == 1).await;
        let seen = connection.condition();
        served.begin_stop();
        let draining = within(connection.condition_changed(seen)).await.unwrap();
        assert_eq!(draining.health, HealthState::Draining);
        served.agent.release.notify_one();
        assert_eq!(within(held).await, Ok(Decision::allow().tag("held")));
        assert_eq!(within(connection.condition_changed(draining)).await, None);
        assert_eq!(connection.close_reason(), Some(CloseReason::Peer));
        served.stopped().await;
    }
}
