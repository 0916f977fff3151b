//! How long the guard of a call lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_agent_protocol::codec::binary;
use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::{
    CallError, CallGuard, ConnectOptions, Connection, Decision, Extensions, Limits, PendingAnswer,
};
use serde_json::json;

use crate::support::{
    PEERS, RawListener, RawPeer, Request, Served, connect, legacy_answer, until, within,
};

/// Counts guards: how many there were, and how many have been dropped.
#[derive(Default)]
pub(crate) struct Guards {
    made: AtomicUsize,
    dropped: Arc<AtomicUsize>,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Guards {
    pub(crate) fn make(&self) -> CallGuard {
        self.made.fetch_add(1, Ordering::SeqCst);
        CallGuard::new(Counted(Arc::clone(&self.dropped)))
    }

    /// How many are alive.
    pub(crate) fn held(&self) -> usize {
        self.made.load(Ordering::SeqCst) - self.dropped.load(Ordering::SeqCst)
    }
}

fn ask(connection: &Connection, guards: &Guards, id: &str) -> Result<PendingAnswer, CallError> {
    connection.send(&Request::new(id, "/").event(), guards.make())
}

/// Reads one event and answers it with allow.
async fn answer_next(peer: &mut RawPeer, extensions: Extensions) {
    let (kind, event) = peer.receive().await;
    assert_eq!(kind, MessageType::RequestHeaders);
    peer.send(MessageType::AgentResponse, &allow(&event, extensions))
        .await;
}

fn allow(event: &[u8], extensions: Extensions) -> Vec<u8> {
    if extensions.binary {
        let mut out = Vec::new();
        let number = u64::from_be_bytes(*event.first_chunk().unwrap());
        binary::encode_answer(&mut out, number, &Ok(Decision::allow()), Extensions::ALL).unwrap();
        return out;
    }
    let event: serde_json::Value = serde_json::from_slice(event).unwrap();
    let mut answer = legacy_answer(event["correlation_id"].as_str().unwrap(), &json!("allow"));
    if extensions.event_id {
        answer["event_id"] = event["event_id"].clone();
    }
    answer.to_string().into_bytes()
}

#[tokio::test]
async fn it_is_gone_when_the_answer_is_seen() {
    for extensions in PEERS {
        let served = Served::with_extensions(extensions);
        let connection = connect(&served.path).await;
        let guards = Guards::default();
        for id in ["1", "2", "3"] {
            let answer = ask(&connection, &guards, id).unwrap();
            assert_eq!(guards.held(), 1);
            assert_eq!(within(answer).await, Ok(Decision::allow()));
            assert_eq!(guards.held(), 0);
        }
    }
}

#[tokio::test]
async fn it_does_not_wait_for_the_answer_to_be_fetched() {
    let served = Served::with_extensions(Extensions::ALL);
    let connection = connect(&served.path).await;
    let guards = Guards::default();
    let answers = ["1", "2"].map(|id| ask(&connection, &guards, id).unwrap());
    assert_eq!(guards.held(), 2);
    until(|| guards.held() == 0).await;
    for answer in answers {
        assert_eq!(within(answer).await, Ok(Decision::allow()));
    }
}

#[tokio::test]
async fn a_refused_event_holds_nothing() {
    let raw = RawListener::new();
    let limits = Limits {
        max_frame_bytes: 1000,
        max_unanswered: 2,
        ..Limits::default()
    };
    let options = ConnectOptions {
        limits,
        ..ConnectOptions::new("raw")
    };
    let (connection, _peer) = raw.connected_with(&options, Extensions::NONE, false).await;
    let guards = Guards::default();
    let _first = ask(&connection, &guards, "1").unwrap();
    let duplicate = ask(&connection, &guards, "1").unwrap_err();
    assert_eq!(duplicate, CallError::DuplicateOutstanding);
    assert_eq!(guards.held(), 1);
    let long = Request::new("2", format!("/{}", "x".repeat(1000)));
    let too_large = connection.send(&long.event(), guards.make());
    assert!(matches!(too_large, Err(CallError::EventTooLarge { .. })));
    assert_eq!(guards.held(), 1);
    let _second = ask(&connection, &guards, "2").unwrap();
    let full = ask(&connection, &guards, "3").unwrap_err();
    assert_eq!((full, guards.held()), (CallError::OutboundFull, 2));
    connection.retire();
    let closed = ask(&connection, &guards, "4").unwrap_err();
    assert_eq!((closed, guards.held()), (CallError::Closed, 2));
}

#[tokio::test]
async fn d13_a_call_that_timed_out_holds_it_until_the_late_answer() {
    for extensions in PEERS {
        let raw = RawListener::new();
        let (connection, mut peer) = raw.connected(extensions).await;
        let guards = Guards::default();
        let late = ask(&connection, &guards, "late").unwrap();
        let other = ask(&connection, &guards, "other").unwrap();
        drop(late);
        assert_eq!((guards.held(), connection.in_flight()), (2, 1));
        answer_next(&mut peer, extensions).await;
        until(|| connection.late_answers_seen() == 1).await;
        assert_eq!((guards.held(), connection.in_flight()), (1, 1));
        answer_next(&mut peer, extensions).await;
        assert_eq!(within(other).await, Ok(Decision::allow()));
        assert_eq!(guards.held(), 0);
    }
}

#[tokio::test]
async fn d13_the_end_of_the_connection_ends_all_guards() {
    enum End {
        Peer,
        Error,
        Us,
        Driver,
    }
    for extensions in [Extensions::ALL, Extensions::NONE] {
        for end in [End::Peer, End::Error, End::Us, End::Driver] {
            let raw = RawListener::new();
            let options = ConnectOptions::new("raw");
            let agent = async {
                let mut peer = raw.accept().await;
                peer.shake_hands(extensions).await;
                peer
            };
            let (opened, mut peer) =
                tokio::join!(within(Connection::connect(&raw.path, &options)), agent);
            let (connection, driver) = opened.unwrap();
            let guards = Guards::default();
            let waited_for = ask(&connection, &guards, "1").unwrap();
            drop(ask(&connection, &guards, "2").unwrap());
            assert_eq!(guards.held(), 2);
            match end {
                End::Peer => drop(peer),
                End::Error => peer.send_bytes(&[0, 0, 0, 0]).await,
                End::Us => connection.close(),
                End::Driver => {
                    drop(driver);
                    assert_eq!(guards.held(), 0);
                    assert_eq!(within(waited_for).await, Err(CallError::Closed));
                    continue;
                }
            }
            assert_eq!(guards.held(), 2, "nothing has been read yet");
            tokio::spawn(driver);
            assert!(within(waited_for).await.is_err());
            assert_eq!(guards.held(), 0);
        }
    }
}

#[tokio::test]
async fn a_legacy_connection_that_retires_ends_the_guard_with_itself() {
    let raw = RawListener::new();
    let (connection, mut peer) = raw.connected(Extensions::NONE).await;
    let guards = Guards::default();
    drop(ask(&connection, &guards, "1").unwrap());
    assert_eq!(guards.held(), 1);
    within(connection.closed()).await;
    assert_eq!(guards.held(), 0);
    peer.ended().await;
}

#[tokio::test]
async fn it_may_use_the_connection_while_it_is_dropped() {
    struct Asks(Connection);
    impl Drop for Asks {
        fn drop(&mut self) {
            // Would never return if the connection were locked.
            assert!(self.0.in_flight() < 2);
            let view = Request::new("again", "/");
            drop(self.0.send(&view.event(), CallGuard::none()));
        }
    }
    let served = Served::with_extensions(Extensions::ALL);
    let connection = connect(&served.path).await;
    let request = Request::new("1", "/");
    let guard = CallGuard::new(Asks(connection.clone()));
    let answer = connection.send(&request.event(), guard).unwrap();
    assert_eq!(within(answer).await, Ok(Decision::allow()));
    until(|| connection.unanswered() == 0).await;
}
