//! What an agent announces about how much it can bear.

use std::num::NonZeroU32;

use portcullis_agent_protocol::server::ServeOptions;
use portcullis_agent_protocol::{ConnectOptions, Extensions};
use serde_json::json;

use crate::support::{PEERS, RawListener, Served, connect, connect_with};

#[tokio::test]
async fn what_an_agent_does_not_say_is_not_a_number() {
    let table = [
        (json!({}), (None, None)),
        (json!({"features": {}, "limits": {}}), (None, None)),
        (
            json!({"features": {"concurrent_requests": 0}, "limits": {"max_concurrency": 0}}),
            (None, None),
        ),
        (
            json!({"features": {"concurrent_requests": 1}}),
            (Some(1), None),
        ),
        (
            json!({"limits": {"max_concurrency": 100, "max_body_size": 1}}),
            (None, Some(100)),
        ),
        (
            json!({"features": {"concurrent_requests": 8}, "limits": {"max_concurrency": 32}}),
            (Some(8), Some(32)),
        ),
    ];
    for (capabilities, expected) in table {
        let raw = RawListener::new();
        let agent = async {
            let mut peer = raw.accept().await;
            peer.shake_hands_saying(Extensions::NONE, &capabilities)
                .await;
            peer
        };
        let options = ConnectOptions::new("raw");
        let (connection, _peer) = tokio::join!(connect_with(&raw.path, &options), agent);
        let said = [connection.max_outstanding(), connection.max_concurrency()];
        let [at_once, over_all] = said.map(|number| number.map(NonZeroU32::get));
        assert_eq!((at_once, over_all), expected, "{capabilities}");
    }
}

#[tokio::test]
async fn our_agents_say_how_much_they_work_on() {
    for extensions in PEERS {
        let served = Served::new(ServeOptions {
            concurrency: 7,
            extensions,
            ..ServeOptions::default()
        });
        let connection = connect(&served.path).await;
        // Without extensions an agent works on one after the other, but on
        // as many at once as there are connections.
        let at_once = if extensions == Extensions::NONE { 1 } else { 7 };
        assert_eq!(connection.max_outstanding().unwrap().get(), at_once);
        assert_eq!(connection.max_concurrency().unwrap().get(), 7);
    }
}
