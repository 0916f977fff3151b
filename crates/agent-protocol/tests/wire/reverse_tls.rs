//! Agents that dial the proxy over TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_agent_protocol::server::{self, DialOptions, DialTarget, ServeOptions};
use portcullis_agent_protocol::{
    AnyConnection, CallGuard, ConnectError, ConnectOptions, Decision, RegisterError, ReverseAgent,
    ReverseDoor, ReversePeer, ReverseSettings, ReverseTls, ReverseTlsFiles, Target, TlsFiles,
};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::support::{PathAgent, Request, block, until, within};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/tls")
        .join(name)
}

fn settings(name: Option<&str>) -> ReverseSettings {
    ReverseSettings {
        id: "waf".to_owned(),
        peer: ReversePeer::Certificate(name.map(str::to_owned)),
        token: None,
        replicas: 2,
        config: None,
    }
}

/// What the proxy shows, and who signs certificates of agents.
fn shown(name: &str, ca: &str) -> ReverseTls {
    let files = ReverseTlsFiles {
        certificate: file(&format!("{name}.pem")),
        key: file(&format!("{name}.key")),
        ca: file(ca),
    };
    ReverseTls::read(&files).unwrap()
}

/// Where agents register, and what became of those who came.
struct Door {
    address: SocketAddr,
    agent: ReverseAgent,
    options: ConnectOptions,
    tls: ReverseTls,
    ended: mpsc::UnboundedReceiver<Result<(), RegisterError>>,
}

impl Door {
    async fn new(settings: ReverseSettings, tls: ReverseTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let agent = ReverseAgent::new(settings);
        let door = ReverseDoor {
            agents: vec![agent.clone()],
            proxy_id: "test".to_owned(),
        };
        let (ends, ended) = mpsc::unbounded_channel();
        let accepts = tls.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (door, ends, tls) = (door.clone(), ends.clone(), accepts.clone());
                tokio::spawn(async move {
                    let ended = door.receive_tls(stream, &tls, (), |_| {}).await;
                    drop(ends.send(ended.map(drop)));
                });
            }
        });
        Self {
            address,
            agent,
            options: ConnectOptions::new("waf"),
            tls,
            ended,
        }
    }

    /// An agent with this certificate, to which the proxy has to be of this name.
    fn dial(&self, shows: Option<&str>, expects: Option<&str>) -> oneshot::Sender<()> {
        let files = TlsFiles {
            ca: Some(file("ca.pem")),
            server_name: expects.map(str::to_owned),
            identity: shows.map(|name| {
                let file = |kind: &str| file(&format!("{name}.{kind}"));
                (file("pem"), file("key"))
            }),
        };
        let proxy = DialOptions {
            proxy: DialTarget::Tls {
                address: self.address.to_string(),
                tls: files,
            },
            agent_id: "waf".to_owned(),
            token: None,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { drop(stopped.await) };
        let agent = Arc::new(PathAgent::default());
        tokio::spawn(server::dial(
            agent,
            proxy,
            ServeOptions::default(),
            shutdown,
        ));
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
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                }
            }
        })
        .await
    }

    async fn error(&mut self) -> RegisterError {
        within(self.ended.recv()).await.unwrap().unwrap_err()
    }
}

async fn ask_path(connection: &AnyConnection, path: &str) -> Decision {
    let request = Request::new("c-1", path);
    let answer = connection
        .send(&request.event(), CallGuard::none())
        .unwrap();
    within(answer).await.unwrap()
}

#[tokio::test]
async fn an_agent_shows_its_certificate_and_is_asked() {
    let door = Door::new(settings(Some("Agent.Test")), shown("proxy", "ca.pem")).await;
    // By the name that it was given, and by the address that it dials.
    let first = door.dial(Some("agent"), Some("proxy.test"));
    let connection = door.leased().await;
    let _second = door.dial(Some("agent"), None);
    let other = door.leased().await;
    for connection in [&connection, &other] {
        assert_eq!(ask_path(connection, "/block").await, block());
        assert_eq!(ask_path(connection, "/").await, Decision::allow());
    }
    // Larger than what TLS or the system would take at once.
    let long = format!("/{}", "x".repeat(4 << 20));
    assert_eq!(ask_path(&connection, &long).await, Decision::allow());
    drop(first);
    within(connection.closed()).await;
    assert_eq!(ask_path(&other, "/block").await, block());
}

#[tokio::test]
async fn who_has_not_the_right_certificate_is_refused() {
    for (name, ca, shows, expected) in [
        (
            Some("agent.test"),
            "ca.pem",
            Some("proxy"),
            "for another name",
        ),
        (Some("test"), "ca.pem", Some("agent"), "for another name"),
        (Some("*.test"), "ca.pem", Some("agent"), "for another name"),
        (
            Some("uri://agent.test"),
            "ca.pem",
            Some("agent"),
            "for another name",
        ),
        (Some("agent.test"), "other-ca.pem", Some("agent"), "TLS"),
        (None, "other-ca.pem", Some("agent"), "TLS"),
        (None, "ca.pem", None, "TLS"),
    ] {
        let mut door = Door::new(settings(name), shown("proxy", ca)).await;
        let _agent = door.dial(shows, Some("proxy.test"));
        let error = door.error().await.to_string();
        assert!(error.contains(expected), "{name:?} {ca} {shows:?}: {error}");
        assert!(door.lease().await.is_err());
    }
    // It is the proxy that is not what it should be.
    let mut door = Door::new(settings(None), shown("proxy", "ca.pem")).await;
    let _agent = door.dial(Some("agent"), Some("another.test"));
    assert!(matches!(door.error().await, RegisterError::Tls(_)));
    assert!(door.lease().await.is_err());
}

#[tokio::test]
async fn who_belongs_to_a_socket_cannot_register_over_the_network() {
    let of_a_socket = ReverseSettings {
        peer: ReversePeer::User(0),
        ..settings(None)
    };
    let mut door = Door::new(of_a_socket, shown("proxy", "ca.pem")).await;
    let _agent = door.dial(Some("agent"), None);
    let error = door.error().await.to_string();
    assert!(error.contains("no such agent registers here"), "{error}");
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let mut door = Door::new(settings(None), shown("proxy", "ca.pem")).await;
    let mut silent = TcpStream::connect(door.address).await.unwrap();
    // Now the clock jumps to the next thing that is waited for.
    tokio::time::pause();
    let error = door.ended.recv().await.unwrap().unwrap_err();
    tokio::time::resume();
    assert!(matches!(error, RegisterError::Timeout), "{error}");
    assert!(within(silent.read_u8()).await.is_err());
}

#[tokio::test]
async fn certificates_that_are_accepted_no_longer_end_connections() {
    let mut door = Door::new(settings(None), shown("proxy", "ca.pem")).await;
    let _agent = door.dial(Some("agent"), Some("proxy.test"));
    let connection = door.leased().await;
    // Another certificate of the proxy's own changes nothing for who is here.
    door.tls.become_like(&shown("agent", "ca.pem"));
    assert_eq!(door.agent.distrust(&door.tls), 0);
    assert_eq!(ask_path(&connection, "/").await, Decision::allow());
    door.tls.become_like(&shown("proxy", "other-ca.pem"));
    assert_eq!(door.agent.distrust(&door.tls), 1);
    within(connection.closed()).await;
    until(|| door.ended.try_recv().is_ok()).await;
    // It dials again, in vain.
    assert!(matches!(door.error().await, RegisterError::Tls(_)));
    door.tls.become_like(&shown("proxy", "ca.pem"));
    let again = door.leased().await;
    assert_eq!(ask_path(&again, "/block").await, block());
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let right = ReverseTlsFiles {
        certificate: file("proxy.pem"),
        key: file("proxy.key"),
        ca: file("ca.pem"),
    };
    let without = file("README.md");
    for (files, named) in [
        (
            ReverseTlsFiles {
                certificate: without.clone(),
                ..right.clone()
            },
            "README.md",
        ),
        (
            ReverseTlsFiles {
                key: without.clone(),
                ..right.clone()
            },
            "README.md",
        ),
        (
            ReverseTlsFiles {
                ca: without,
                ..right.clone()
            },
            "README.md",
        ),
        (
            // Not the key of this certificate.
            ReverseTlsFiles {
                key: file("agent.key"),
                ..right
            },
            "proxy.pem",
        ),
    ] {
        let error = ReverseTls::read(&files).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
