//! Many questions of version 1 at once, to an agent that answers late and wrongly.

use std::time::Duration;

use portcullis_agent_protocol::{AnyConnection, CallGuard, ConnectOptions, Decision, Target};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use super::support::{Request, within};
use super::v1::{Peer, frame};

/// A few numbers that are the same at every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Says in each answer which question it is for, some time later, and
/// sometimes misbehaves.
async fn agent_of_its_own_mind(listener: UnixListener) {
    for seed in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut numbers = Numbers(seed);
            let mut peer = Peer(stream);
            while let Ok(question) = peer.next_question().await {
                tokio::time::sleep(Duration::from_micros(numbers.below(3000))).await;
                let id = &question["payload"]["metadata"]["correlation_id"];
                let set = json!({"set": {"name": "x-id", "value": id}});
                let answer =
                    frame(&json!({"version": 1, "decision": "allow", "request_headers": [set]}));
                let sent = match numbers.below(40) {
                    0 => peer.0.write_all(&answer[..numbers.below(9) as usize]).await,
                    1 => peer.0.write_all(&[&answer[..], &answer[..]].concat()).await,
                    2 => peer.0.write_all(b"\0\0\0\x02no").await,
                    _ => peer.0.write_all(&answer).await,
                };
                if sent.is_err() || numbers.below(50) == 0 {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn d12_crossing_questions_never_get_the_verdict_of_another() {
    const ASKERS: u64 = 16;
    const QUESTIONS: u64 = 250;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let agent = tokio::spawn(agent_of_its_own_mind(UnixListener::bind(&path).unwrap()));
    let target = Target::V1UnixSocket(path);
    let mut askers = Vec::new();
    for asker in 0..ASKERS {
        let target = target.clone();
        askers.push(tokio::spawn(async move {
            let mut numbers = Numbers(1000 + asker);
            let mut connection = dial(&target).await;
            let (mut answered, mut late) = (0, 0);
            for question in 0..QUESTIONS {
                let id = format!("{asker}-{question}");
                let request = Request::new(&id, "/");
                let pending = loop {
                    match connection.send(&request.event(), CallGuard::none()) {
                        Ok(pending) => break pending,
                        Err(_) => connection = dial(&target).await,
                    }
                };
                let timeout = Duration::from_micros(numbers.below(6000));
                match tokio::time::timeout(timeout, pending).await {
                    Ok(Ok(decision)) => {
                        let own = Decision::allow().set_request_header("x-id", &id);
                        assert_eq!(decision, own);
                        answered += 1;
                    }
                    Ok(Err(_)) => {}
                    Err(_) => late += 1,
                }
            }
            (answered, late)
        }));
    }
    let (mut answered, mut late) = (0, 0);
    for asker in askers {
        let (these, those) = within(asker).await.unwrap();
        answered += these;
        late += those;
    }
    agent.abort();
    assert!(answered > 500 && late > 500, "{answered} {late}");
}

async fn dial(target: &Target) -> AnyConnection {
    let options = ConnectOptions::new("old");
    let connected = within(AnyConnection::connect(target, &options)).await;
    let (connection, driver) = connected.unwrap();
    tokio::spawn(driver);
    connection
}
