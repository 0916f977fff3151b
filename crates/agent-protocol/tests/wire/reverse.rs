//! Agents that dial the proxy.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis_agent_protocol::codec::frame::MessageType;
use portcullis_agent_protocol::server::{self, DialOptions, DialTarget, ServeOptions};
use portcullis_agent_protocol::{
    AnyConnection, CallGuard, ConnectError, ConnectOptions, ControlMessage, Decision,
    RegisterError, ReverseAgent, ReverseDoor, ReversePeer, ReverseSettings, Target,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::support::{PathAgent, RawPeer, Request, block, legacy_answer, until, within};

const TOKEN: &str = "a token that is long enough";

fn settings(replicas: usize) -> ReverseSettings {
    ReverseSettings {
        id: "waf".to_owned(),
        peer: ReversePeer::User(rustix_uid()),
        token: Some(TOKEN.as_bytes().into()),
        replicas,
        config: None,
    }
}

// The user of this process, by what a socket of its own says.
fn rustix_uid() -> u32 {
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(one).unwrap();
    stream.peer_cred().unwrap().uid()
}

/// A proxy's socket, and what became of those who came.
struct Door {
    path: PathBuf,
    agent: ReverseAgent,
    options: ConnectOptions,
    ended: mpsc::UnboundedReceiver<Result<(), RegisterError>>,
    /// Each that is still unknown has another one.
    unknown: Arc<()>,
    _directory: TempDir,
}

impl Door {
    fn new(settings: ReverseSettings) -> Self {
        Self::with(vec![ReverseAgent::new(settings)])
    }

    /// What is leased is the first of them.
    fn with(agents: Vec<ReverseAgent>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reverse.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = agents[0].clone();
        let door = ReverseDoor {
            agents,
            proxy_id: "test".to_owned(),
        };
        let (ends, ended) = mpsc::unbounded_channel();
        let unknown = Arc::new(());
        let places = Arc::downgrade(&unknown);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (door, ends, place) = (door.clone(), ends.clone(), places.upgrade());
                tokio::spawn(async move {
                    let ended = door.receive(stream, place, |_| {}).await;
                    drop(ends.send(ended.map(drop)));
                });
            }
        });
        Self {
            path,
            agent,
            options: ConnectOptions::new("waf"),
            ended,
            unknown,
            _directory: directory,
        }
    }

    fn dial(&self, token: &str) -> oneshot::Sender<()> {
        self.dial_with(token, ServeOptions::default())
    }

    fn dial_with(&self, token: &str, options: ServeOptions) -> oneshot::Sender<()> {
        let proxy = DialOptions {
            proxy: DialTarget::UnixSocket(self.path.clone()),
            agent_id: "waf".to_owned(),
            token: Some(token.to_owned()),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let agent = Arc::new(PathAgent::default());
        tokio::spawn(server::dial(agent, proxy, options, shutdown));
        stop
    }

    async fn lease(&self) -> Result<AnyConnection, ConnectError> {
        let target = Target::Reverse(self.agent.clone());
        let connected = AnyConnection::connect(&target, &self.options).await;
        connected.map(|(connection, driver)| {
            tokio::spawn(driver);
            connection
        })
    }

    async fn leased(&self) -> AnyConnection {
        within(async {
            loop {
                match self.lease().await {
                    Ok(connection) => break connection,
                    Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        })
        .await
    }

    async fn refusal(&mut self) -> &'static str {
        match within(self.ended.recv()).await.unwrap() {
            Err(RegisterError::Refused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// How many have connected and are not known yet.
    fn unknown(&self) -> usize {
        Arc::strong_count(&self.unknown) - 1
    }
}

async fn ask(connection: &AnyConnection, path: &str) -> Decision {
    let request = Request::new("c-1", path);
    let answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    within(answer).await.unwrap()
}

#[tokio::test]
async fn an_agent_registers_and_is_asked() {
    let door = Door::new(settings(1));
    assert!(matches!(
        door.lease().await,
        Err(ConnectError::Unreachable(_))
    ));
    let stop = door.dial(TOKEN);
    let connection = door.leased().await;
    assert!(connection.tells_answers_apart());
    assert_eq!(connection.capabilities().name, "path");
    assert_eq!(ask(&connection, "/block").await, block());
    assert!(within(connection.ping()).await.is_ok());
    // When it goes, it is not there any more.
    drop(stop);
    within(connection.closed()).await;
    assert!(matches!(
        door.lease().await,
        Err(ConnectError::Unreachable(_))
    ));
}

#[tokio::test]
async fn a_connection_that_ends_is_made_again() {
    let door = Door::new(settings(1));
    let _agent = door.dial(TOKEN);
    for _ in 0..3 {
        let connection = door.leased().await;
        assert_eq!(ask(&connection, "/").await, Decision::allow());
        connection.retire();
        within(connection.closed()).await;
    }
}

#[tokio::test]
async fn who_may_not_is_refused_and_told_no_more_than_that() {
    let mut door = Door::new(settings(1));
    let _agent = door.dial("another token, as long");
    assert_eq!(door.refusal().await, "it has not shown the token");
    // Somebody else of this user may.
    let own = settings(1);
    let other = ReverseSettings {
        id: "other".to_owned(),
        peer: ReversePeer::User(rustix_uid() + 1),
        ..settings(1)
    };
    let mut foreign = Door::with(vec![ReverseAgent::new(other), ReverseAgent::new(own)]);
    let mut peer = RawPeer::connect(&foreign.path).await;
    let registration = json!({"protocol_version": 2, "agent_id": "other", "auth_token": TOKEN});
    peer.send_json(MessageType::HandshakeRequest, &registration)
        .await;
    assert_eq!(
        foreign.refusal().await,
        "its process belongs to another user"
    );
    let mut peer = RawPeer::connect(&door.path).await;
    let registration = json!({"protocol_version": 2, "agent_id": "other", "auth_token": TOKEN});
    peer.send_json(MessageType::HandshakeRequest, &registration)
        .await;
    let reply = peer.receive_json(MessageType::HandshakeResponse).await;
    assert_eq!(reply["success"], false);
    assert_eq!(reply["error"], "the registration was not accepted");
    peer.ended().await;
    assert!(door.lease().await.is_err());
}

#[tokio::test]
async fn a_user_of_no_agent_is_refused_unheard() {
    let mut door = Door::new(ReverseSettings {
        peer: ReversePeer::User(rustix_uid() + 1),
        ..settings(1)
    });
    let mut peer = RawPeer::connect(&door.path).await;
    let reply = peer.receive_json(MessageType::HandshakeResponse).await;
    assert_eq!(
        (&reply["success"], &reply["error"]),
        (&json!(false), &json!("the registration was not accepted"))
    );
    peer.ended().await;
    let ended = within(door.ended.recv()).await.unwrap();
    let uid = rustix_uid();
    assert!(
        matches!(ended, Err(RegisterError::Stranger { uid: it }) if it == uid),
        "{ended:?}"
    );
}

#[tokio::test]
async fn little_of_what_a_stranger_says_is_in_an_error() {
    let mut door = Door::new(settings(1));
    let long = "x".repeat(60_000);
    for registration in [
        json!({"protocol_version": 2, "agent_id": long}),
        json!({"protocol_version": long, "agent_id": "waf"}),
    ] {
        let mut peer = RawPeer::connect(&door.path).await;
        until(|| door.unknown() == 1).await;
        peer.send_json(MessageType::HandshakeRequest, &registration)
            .await;
        let ended = within(door.ended.recv()).await.unwrap();
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("xxx…") && error.len() < 400, "{error}");
        assert_eq!(door.unknown(), 0);
    }
}

#[tokio::test]
async fn further_registrations_join_and_replace_nothing() {
    let mut door = Door::new(settings(2));
    let first = door.dial(TOKEN);
    let connection = door.leased().await;
    let _second = door.dial(TOKEN);
    let other = door.leased().await;
    assert_eq!(ask(&connection, "/").await, Decision::allow());
    assert_eq!(ask(&other, "/block").await, block());
    // There is no place for a third.
    let third = door.dial(TOKEN);
    assert_eq!(door.refusal().await, "as many are registered as may be");
    drop(third);
    assert!(connection.is_open() && other.is_open());
    drop(first);
    within(connection.closed()).await;
    assert_eq!(ask(&other, "/").await, Decision::allow());
}

#[tokio::test]
async fn who_leaves_a_connection_leaves_it_to_others() {
    let door = Door::new(settings(1));
    let _agent = door.dial(TOKEN);
    let connection = door.leased().await;
    // This one has it already, another may have it too.
    assert!(door.lease().await.is_err());
    let target = Target::Reverse(door.agent.clone());
    let options = ConnectOptions::new("waf");
    let other = AnyConnection::connect(&target, &options).await.unwrap().0;
    connection.leave();
    within(connection.closed()).await;
    assert!(!connection.is_open());
    assert!(
        connection
            .send(&Request::new("c", "/").event(), CallGuard::none())
            .is_err()
    );
    drop(connection);
    assert_eq!(ask(&other, "/block").await, block());
    let again = door.leased().await;
    assert_eq!(ask(&again, "/").await, Decision::allow());
}

#[tokio::test]
async fn a_legacy_agent_registers_and_takes_its_configuration() {
    let config = json!({"level": 2});
    let door = Door::new(ReverseSettings {
        config: Some(Arc::new(config.clone())),
        ..settings(1)
    });
    let mut peer = RawPeer::connect(&door.path).await;
    let registration = json!({"protocol_version": 2, "agent_id": "waf", "auth_token": TOKEN,
        "capabilities": {"name": "old"}, "metadata": null});
    peer.send_json(MessageType::HandshakeRequest, &registration)
        .await;
    let reply = peer.receive_json(MessageType::HandshakeResponse).await;
    assert_eq!(
        (&reply["success"], &reply["proxy_id"]),
        (&json!(true), &json!("test"))
    );
    assert_eq!(reply.get("extensions"), None);
    let configure = peer.receive_json(MessageType::Configure).await;
    assert_eq!(configure["config"], config);
    assert!(door.lease().await.is_err(), "it has not taken it yet");
    assert_eq!(door.unknown(), 0, "but it is known");
    let id = configure["correlation_id"].as_str().unwrap().to_owned();
    let taken = legacy_answer(&id, &json!("allow"));
    peer.send_json(MessageType::AgentResponse, &taken).await;
    let connection = door.leased().await;
    assert_eq!(connection.capabilities().name, "old");
    let request = Request::new("c-1", "/");
    let answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    let event: Value = peer.receive_json(MessageType::RequestHeaders).await;
    assert_eq!(event["correlation_id"], "c-1");
    let allow = legacy_answer("c-1", &json!("allow"));
    peer.send_json(MessageType::AgentResponse, &allow).await;
    assert_eq!(within(answer).await, Ok(Decision::allow()));
}

#[tokio::test]
async fn nobody_keeps_connections_of_an_agent_that_is_not_wanted() {
    let door = Door::new(settings(1));
    let mut peer = RawPeer::connect(&door.path).await;
    let garbage = json!({"protocol_version": 3, "agent_id": "waf"});
    peer.send_json(MessageType::HandshakeRequest, &garbage)
        .await;
    peer.ended().await;
    // A registration that nobody waits for takes no place.
    let _agent = door.dial(TOKEN);
    let connection = door.leased().await;
    assert_eq!(ask(&connection, "/").await, Decision::allow());
}

#[tokio::test]
async fn what_it_said_before_anybody_asked_is_heard_once_by_each() {
    let mut door = Door::new(settings(1));
    let options = ServeOptions::default();
    let reporter = options.reporter.clone();
    reporter.purge_verdicts();
    let _agent = door.dial_with(TOKEN, options);
    // It has been said when an answer has come.
    let connection = door.leased().await;
    assert_eq!(ask(&connection, "/").await, Decision::allow());
    connection.leave();
    drop(connection);
    let heard = Arc::new(Mutex::new(0));
    let hears = Arc::clone(&heard);
    door.options.on_control = Some(Arc::new(move |message| {
        if *message == ControlMessage::PurgeVerdicts {
            *hears.lock().unwrap() += 1;
        }
    }));
    // Two who hear with the same ears.
    let options = door.options.clone();
    let _first = door.leased().await;
    let target = Target::Reverse(door.agent.clone());
    let connected = AnyConnection::connect(&target, &options).await;
    let second = connected.unwrap().0;
    assert_eq!(*heard.lock().unwrap(), 2);
    reporter.purge_verdicts();
    assert_eq!(ask(&second, "/").await, Decision::allow());
    until(|| *heard.lock().unwrap() == 3).await;
}
