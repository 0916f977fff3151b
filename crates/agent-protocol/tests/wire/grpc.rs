//! Both ends of gRPC, with each other.

use std::sync::Arc;
use std::time::Duration;

use portcullis_agent_protocol::server::{self, Agent, ServeOptions};
use portcullis_agent_protocol::{
    AnyConnection, CallError, CallGuard, CancelReason, ConnectError, ConnectOptions, Decision,
    Event, EventKind, Extensions, GrpcEndpoint, GuardrailResult, HealthState, Target, TlsFiles,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::guardrail::{Finder, inspect};
use crate::support::{PathAgent, Request, block, edit, until, within};

/// With our extensions, and as published agents are.
const PEERS: [Extensions; 2] = [Extensions::ALL, Extensions::NONE];

struct Served<A = PathAgent> {
    target: Target,
    agent: Arc<A>,
    options: ServeOptions,
    stop: Option<oneshot::Sender<()>>,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn new(options: ServeOptions) -> Self {
        Self::with_agent(PathAgent::default(), options).await
    }

    async fn speaking(extensions: Extensions) -> Self {
        Self::new(ServeOptions {
            extensions,
            ..ServeOptions::default()
        })
        .await
    }
}

impl<A: Agent + 'static> Served<A> {
    async fn with_agent(agent: A, options: ServeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let agent = Arc::new(agent);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let serving = server::serve_grpc(agent.clone(), listener, None, options.clone(), shutdown);
        Self {
            target: Target::V2Grpc {
                endpoint: GrpcEndpoint {
                    url,
                    tls: TlsFiles::default(),
                    keep_alive: None,
                },
                package: "any.package".to_owned(),
            },
            agent,
            options,
            stop: Some(stop),
            serving: tokio::spawn(serving),
        }
    }

    async fn connect(&self) -> AnyConnection {
        self.connect_with(&ConnectOptions::new("test"))
            .await
            .unwrap()
    }

    async fn connect_with(&self, options: &ConnectOptions) -> Result<AnyConnection, ConnectError> {
        let connected = within(AnyConnection::connect(&self.target, options)).await;
        connected.map(|(connection, driver)| {
            tokio::spawn(driver);
            connection
        })
    }
}

async fn ask(connection: &AnyConnection, path: &str) -> Result<Decision, CallError> {
    let request = Request::new(format!("c-{path}"), path);
    within(connection.send(&request.event(), CallGuard::none())?).await
}

#[tokio::test]
async fn decisions_come_over_grpc() {
    for extensions in PEERS {
        let served = Served::speaking(extensions).await;
        let connection = served.connect().await;
        assert_eq!(connection.tells_answers_apart(), extensions.event_id);
        assert_eq!(connection.capabilities().name, "path");
        assert_eq!(ask(&connection, "/").await, Ok(Decision::allow()));
        assert_eq!(ask(&connection, "/block").await, Ok(block()));
        assert_eq!(ask(&connection, "/edit").await, Ok(edit()));
        let moved = Decision::redirect("https://example.com/").tag("moved");
        assert_eq!(ask(&connection, "/redirect").await, Ok(moved));
        let challenge = Decision::challenge("captcha").with_param("site_key", "k");
        assert_eq!(ask(&connection, "/challenge").await, Ok(challenge));
        assert!(within(connection.ping()).await.is_ok());
        assert_eq!((connection.in_flight(), connection.unanswered()), (0, 0));
    }
}

#[tokio::test]
async fn failures_are_no_decisions() {
    let served = Served::speaking(Extensions::ALL).await;
    let connection = served.connect().await;
    let failed = |text: &str| Err(CallError::Agent(text.to_owned()));
    assert_eq!(ask(&connection, "/fail").await, failed("no idea"));
    assert_eq!(
        ask(&connection, "/panic").await,
        failed("the agent panicked")
    );
    let retry_after = Some(Duration::from_millis(5));
    let later = Err(CallError::Overloaded { retry_after });
    assert_eq!(ask(&connection, "/later/5").await, later);
    let legacy = Served::speaking(Extensions::NONE).await;
    let connection = legacy.connect().await;
    let block = Decision::block(500).reason("agent_error");
    let block = block.custom("error", "no idea");
    assert_eq!(ask(&connection, "/fail").await, Ok(block));
}

#[tokio::test]
async fn many_are_asked_at_once_and_none_gets_the_answer_of_another() {
    let served = Served::speaking(Extensions::ALL).await;
    let connection = served.connect().await;
    let asked = (0..500).map(|number| {
        let connection = &connection;
        async move {
            let request = Request::new(format!("c-{number}"), format!("/yield/{}", number % 7));
            let answer = connection
                .send(&request.event(), CallGuard::none())
                .unwrap();
            let expected = Decision::allow().set_request_header("x-id", &request.id);
            assert_eq!(answer.await, Ok(expected));
        }
    });
    within(futures::future::join_all(asked)).await;
}

#[tokio::test]
async fn what_nobody_waits_for_is_cancelled() {
    let served = Served::speaking(Extensions::ALL).await;
    let connection = served.connect().await;
    let request = Request::new("c", "/hold");
    let answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    until(|| served.agent.held() == 1).await;
    answer.cancel(CancelReason::Timeout);
    until(|| served.agent.held() == 0).await;
    assert_eq!(served.options.counters.cancelled_events(), 1);
    assert_eq!(connection.unanswered(), 0);
    assert!(connection.is_open());
}

#[tokio::test]
async fn a_legacy_connection_retires_after_a_late_answer() {
    let served = Served::speaking(Extensions::NONE).await;
    let connection = served.connect().await;
    let request = Request::new("c", "/hold");
    let answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    until(|| served.agent.held() == 1).await;
    drop(answer);
    assert!(!connection.is_open());
    within(connection.closed()).await;
}

#[tokio::test]
async fn a_configuration_is_taken_or_refused() {
    for extensions in PEERS {
        let served = Served::speaking(extensions).await;
        let with = |config| ConnectOptions {
            config: Some(Arc::new(config)),
            ..ConnectOptions::new("test")
        };
        let taken = json!({"level": 2});
        let connection = served.connect_with(&with(taken.clone())).await.unwrap();
        assert_eq!(*served.agent.configured.lock().unwrap(), taken);
        assert_eq!(ask(&connection, "/").await, Ok(Decision::allow()));
        let refused = served
            .connect_with(&with(json!({"refuse": "no such level"})))
            .await;
        let Err(ConnectError::ConfigurationRefused { reason }) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("no such level"), "{reason}");
    }
}

#[tokio::test]
async fn what_an_agent_says_is_heard() {
    let served = Served::speaking(Extensions::ALL).await;
    let connection = served.connect().await;
    served.options.reporter.health(HealthState::Degraded);
    let seen = connection.condition();
    let seen = within(connection.condition_changed(seen)).await.unwrap();
    assert_eq!(seen.health, HealthState::Degraded);
    served.options.reporter.pause();
    let seen = within(connection.condition_changed(seen)).await.unwrap();
    assert!(seen.paused);
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_has() {
    for extensions in PEERS {
        let mut served = Served::speaking(extensions).await;
        let connection = served.connect().await;
        let request = Request::new("c", "/hold");
        let answer = connection
            .send(&request.event(), CallGuard::none())
            .unwrap();
        until(|| served.agent.held() == 1).await;
        drop(served.stop.take());
        let seen = connection.condition();
        let seen = within(connection.condition_changed(seen)).await.unwrap();
        assert_eq!(seen.health, HealthState::Draining);
        served.agent.release.notify_waiters();
        assert_eq!(within(answer).await, Ok(Decision::allow().tag("held")));
        within(connection.closed()).await;
        within(served.serving).await.unwrap().unwrap();
        let error = AnyConnection::connect(&served.target, &ConnectOptions::new("test")).await;
        assert!(
            matches!(error, Err(ConnectError::Unreachable(_))),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let served = Served::new(ServeOptions {
        max_connections: 1,
        ..ServeOptions::default()
    })
    .await;
    let first = served.connect().await;
    let second = served.connect_with(&ConnectOptions::new("test")).await;
    assert!(
        matches!(second, Err(ConnectError::Unreachable(_))),
        "{second:?}"
    );
    assert_eq!(ask(&first, "/").await, Ok(Decision::allow()));
}

#[tokio::test]
async fn an_event_beyond_the_limit_is_not_sent() {
    let served = Served::speaking(Extensions::ALL).await;
    let mut options = ConnectOptions::new("test");
    options.limits.max_frame_bytes = 1000;
    let connection = served.connect_with(&options).await.unwrap();
    let path = format!("/{}", "x".repeat(1000));
    let error = ask(&connection, &path).await.unwrap_err();
    assert!(
        matches!(error, CallError::EventTooLarge { .. }),
        "{error:?}"
    );
    assert_eq!(ask(&connection, "/").await, Ok(Decision::allow()));
    assert_eq!(connection.unanswered(), 0);
}

#[tokio::test]
async fn texts_are_shown_over_grpc_to_agents_that_say_what_they_find() {
    for extensions in PEERS {
        let options = ServeOptions {
            extensions,
            ..ServeOptions::default()
        };
        let served = Served::with_agent(Finder, options).await;
        let connection = served.connect().await;
        // Published agents announce it, and allow every text without a look.
        let asked = connection.supports(EventKind::GuardrailInspect);
        assert_eq!(asked, extensions.event_id);
        if !asked {
            continue;
        }
        let found =
            GuardrailResult::found_at("secret", "the word", 2..8).with_redacted_content("a ***");
        for (text, expected) in [("a secret", found), ("", GuardrailResult::clean())] {
            let event = Event::GuardrailInspect(inspect(text));
            let answer = connection.send(&event, CallGuard::none()).unwrap();
            let decision = within(answer).await.unwrap();
            assert_eq!(decision.guardrail.as_deref(), Some(&expected), "{text}");
        }
    }
}
