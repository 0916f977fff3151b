//! From the first connection to an agent to the last: what a manager says of it, and how it takes its leave.
#![expect(clippy::unwrap_used, reason = "a panic in here is a test that fails")]

use http::HeaderMap;
use portcullis_agent_manager::{
    AgentManager, AgentSettings, AgentState, AgentUse, Answer, Ask, Conversation, FailureReason,
    Links,
};
use portcullis_agent_protocol::{
    Decision, Event, RequestHeaders, RequestMetadata, Target,
    server::{self, Agent, AgentError, ServeOptions},
};
use portcullis_config::FailureMode;
use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio::sync::Semaphore;

const DEADLINE: Duration = Duration::from_secs(10);

/// Answers `/held` when it is let, and everything else at once.
struct Holding(Arc<Semaphore>);

#[async_trait::async_trait]
impl Agent for Holding {
    fn name(&self) -> &str {
        "holding"
    }

    async fn request_headers(&self, event: &RequestHeaders<'_>) -> Result<Decision, AgentError> {
        if event.uri == "/held" {
            self.0.acquire().await?.forget();
        }
        Ok(Decision::allow())
    }
}

struct Stage {
    folder: TempDir,
    let_go: Arc<Semaphore>,
}

impl Stage {
    /// An agent that serves on the current runtime.
    fn new() -> Self {
        let stage = Self {
            folder: tempfile::tempdir().unwrap(),
            let_go: Arc::new(Semaphore::new(0)),
        };
        let listener = server::bind_socket(&stage.socket()).unwrap();
        let agent = Arc::new(Holding(stage.let_go.clone()));
        tokio::spawn(server::serve(
            agent,
            listener,
            ServeOptions::default(),
            std::future::pending(),
        ));
        stage
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }
}

fn manager(socket: &Path, previous: Option<&AgentManager>) -> AgentManager {
    let settings = AgentSettings::new("holding".into(), Target::UnixSocket(socket.to_owned()));
    AgentManager::new(vec![settings], previous, "test", |_| None)
}

async fn ask(manager: &AgentManager, links: &Links, uri: &str) -> Answer {
    ask_for(DEADLINE, manager, links, uri, false).await
}

/// Asks for so long; aside, if so wanted, from other questions.
async fn ask_for(
    timeout: Duration,
    manager: &AgentManager,
    links: &Links,
    uri: &str,
    is_aside: bool,
) -> Answer {
    let headers = HeaderMap::new();
    let event = Event::RequestHeaders(RequestHeaders {
        metadata: RequestMetadata {
            correlation_id: uri,
            request_id: uri,
            client_ip: [127, 0, 0, 1].into(),
            client_port: 1,
            server_name: None,
            protocol: "HTTP/1.1",
            tls_version: None,
            tls_cipher: None,
            client_certificate: None,
            route_id: None,
            upstream_id: None,
            timestamp: SystemTime::UNIX_EPOCH,
            traceparent: None,
        },
        method: "GET",
        uri,
        headers: &headers,
        budget_left: None,
    });
    let used = AgentUse {
        agent: 0,
        timeout,
        failure_mode: FailureMode::Closed,
    };
    let ask = Ask {
        used: &used,
        event: &event,
        more: false,
        streamed: false,
    };
    let conversation = Conversation::with_budget(DEADLINE).aside(is_aside);
    manager.ask(links, &[ask], &conversation).await
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}

async fn until(manager: &AgentManager, state: AgentState) {
    within(async {
        while manager.status()[0].state != state {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_goes_through_its_states() {
    let stage = Stage::new();
    let manager = manager(&stage.socket(), None);
    assert_eq!(manager.status()[0].state, AgentState::Starting);
    let links = manager.attach(None);
    until(&manager, AgentState::Ready).await;
    assert!(matches!(
        ask(&manager, &links, "/").await,
        Answer::Continue(_)
    ));
    within(manager.shutdown(DEADLINE)).await.unwrap();
    assert_eq!(manager.status()[0].state, AgentState::Stopped);
    // It may be asked for again, and says the same.
    within(manager.shutdown(DEADLINE)).await.unwrap();
    assert!(matches!(
        ask(&manager, &links, "/").await,
        Answer::Refused(_)
    ));
}

#[tokio::test]
async fn d24_a_shutdown_says_what_it_has_not_done() {
    let stage = Stage::new();
    let manager = Arc::new(manager(&stage.socket(), None));
    let links = Arc::new(manager.attach(None));
    until(&manager, AgentState::Ready).await;
    let held = {
        let (manager, links) = (manager.clone(), links.clone());
        tokio::spawn(async move { ask(&manager, &links, "/held").await })
    };
    within(async {
        while manager.status()[0].in_flight == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let left = within(manager.shutdown(Duration::from_millis(20))).await;
    assert_eq!(left, Err(vec![("holding".into(), 1)]));
    assert_eq!(manager.status()[0].state, AgentState::Draining);
    // The call under way has its answer, and then the connection ends.
    stage.let_go.add_permits(1);
    assert!(matches!(within(held).await.unwrap(), Answer::Continue(_)));
    within(manager.shutdown(DEADLINE)).await.unwrap();
    assert_eq!(manager.status()[0].state, AgentState::Stopped);
}

#[tokio::test]
async fn what_nobody_holds_any_longer_closes_in_order() {
    let stage = Stage::new();
    let manager = manager(&stage.socket(), None);
    let end = manager.end_of(&"holding".into()).unwrap();
    let links = manager.attach(None);
    until(&manager, AgentState::Ready).await;
    drop(links);
    within(async {
        while manager.status()[0].connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(manager);
    within(end.reached()).await;
}

#[tokio::test]
async fn d14_the_same_agent_is_carried_over_and_another_is_not() {
    let stage = Stage::new();
    let first = manager(&stage.socket(), None);
    let links = first.attach(None);
    until(&first, AgentState::Ready).await;
    let second = manager(&stage.socket(), Some(&first));
    // Its connection is up before anybody attaches.
    assert_eq!(second.status()[0].state, AgentState::Ready);
    let settled = second.settled(&first, DEADLINE, |_| true);
    assert!(within(settled).await.is_empty());
    let second_links = second.attach(Some(&links));
    drop((links, first));
    assert!(matches!(
        ask(&second, &second_links, "/").await,
        Answer::Continue(_)
    ));
    assert_eq!(second.status()[0].connections, 1);
    let elsewhere = manager(Path::new("/no/such/agent.sock"), Some(&second));
    let _links = elsewhere.attach(Some(&second_links));
    let limit = Duration::from_millis(50);
    assert_eq!(elsewhere.settled(&second, limit, |_| false).await, []);
    let unsettled = elsewhere.settled(&second, limit, |_| true).await;
    assert_eq!(unsettled.len(), 1);
    assert!(!unsettled[0].refused);
    assert!(unsettled[0].reason.contains("unreachable"), "{unsettled:?}");
}

fn failure(answer: Answer) -> Option<FailureReason> {
    match answer {
        Answer::Refused(refusal) => Some(refusal.reason),
        _ => None,
    }
}

#[tokio::test]
async fn questions_aside_take_what_is_left() {
    let stage = Stage::new();
    let mut settings = AgentSettings::new("holding".into(), Target::UnixSocket(stage.socket()));
    settings.max_concurrent_calls = 2;
    settings.breaker.failures = 1;
    let manager = AgentManager::new(vec![settings], None, "test", |_| None);
    let links = manager.attach(None);
    until(&manager, AgentState::Ready).await;
    let held = ask(&manager, &links, "/held");
    let others = async {
        within(async {
            while manager.status()[0].in_flight != 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // There is a permit, and a place in the queue, but not for this one.
        let aside = ask_for(DEADLINE, &manager, &links, "/aside", true).await;
        assert_eq!(failure(aside), Some(FailureReason::Saturated));
        assert_eq!(failure(ask(&manager, &links, "/").await), None);
        stage.let_go.add_permits(1);
    };
    let (held, ()) = tokio::join!(held, others);
    assert_eq!(failure(held), None);
    // That it gets no answer is not held against the agent.
    let short = Duration::from_millis(20);
    let aside = ask_for(short, &manager, &links, "/held", true).await;
    assert_eq!(failure(aside), Some(FailureReason::Timeout));
    assert_eq!(failure(ask(&manager, &links, "/").await), None);
}
