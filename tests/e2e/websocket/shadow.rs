//! Frames for agents that are asked in the shadow of sockets.

use super::peers::{Server, connect, described};
use crate::{
    harness::{
        Proxy, TestAgent,
        agent::{Phase, Reaction, When},
    },
    shadow::entry,
};
use portcullis_agent_protocol::Decision;
use std::time::Duration;
use tungstenite::Message;

#[test]
fn a_shadow_agent_sees_frames_and_nothing_comes_of_it() {
    let reactions = [
        (
            Decision::allow().close_websocket(1008, "no").into(),
            "close",
        ),
        (Decision::allow().drop_frame().into(), "drop"),
        (Reaction::Hang, "timeout"),
    ];
    for (reaction, verdict) in reactions {
        let server = Server::echoing();
        let agent = TestAgent::named("next")
            .then(Phase::Frames, When::Always, reaction)
            .start();
        let proxy = Proxy::builder(
            "admin { address \"127.0.0.1:0\" }\nroutes { route \"live\" { filters { agent \"next\" mode=\"shadow\" }; upstream \"origin\"; websocket } }",
        )
        .upstream("origin", &server.target())
        .agent_with(&agent, "timeout \"100ms\"; inspect { websocket-frames }")
        .start();
        proxy.wait_metric("portcullis_agent_up{agent=\"next\"}", 1.0);
        let mut client = connect(proxy.address_of("http"), "/ws");
        for text in ["one", "two", "three"] {
            client.send(Message::text(text)).unwrap();
            assert_eq!(
                described(&client.read()),
                format!("text {text}"),
                "{verdict}"
            );
        }
        client.close(None).unwrap();
        assert_eq!(described(&client.read()), "close", "{verdict}");
        drop(client);
        let met =
            format!("portcullis_shadow_verdicts_total{{shadow=\"{verdict}\",enforced=\"allow\"}}");
        proxy.wait_metric(&met, 1.0);
        let failed = u64::from(verdict == "timeout");
        let reported = entry(&proxy);
        assert_eq!(reported["failed"], failed, "{verdict}: {reported}");
        assert_eq!(reported["disagreed"], 1 - failed, "{verdict}: {reported}");
        let seen = agent.seen("websocket_frame");
        assert_eq!(seen[0]["data"], "one", "{verdict}: {seen:?}");
        // Who would have closed the socket is shown no more of it.
        assert_eq!(seen.len() == 1, verdict != "drop", "{verdict}: {seen:?}");
        let line = proxy.access_line_of("/ws");
        assert_eq!(line["status"], 101, "{line}");
        assert_eq!(line["websocket"]["close_code"], 1005, "{line}");
        assert_eq!(line.get("blocked_by"), None, "{line}");
    }
}

#[test]
fn a_frame_that_was_dropped_is_what_is_compared_with() {
    let server = Server::echoing();
    let dropping = |name: &str| {
        let decision = Decision::allow().drop_frame();
        TestAgent::named(name)
            .then(Phase::Frames, When::Holds("bad".into()), decision)
            .start()
    };
    let (next, waf) = (dropping("next"), dropping("waf"));
    let frames = "timeout \"10s\"; inspect { websocket-frames }";
    let proxy = Proxy::builder(
        "admin { address \"127.0.0.1:0\" }\nroutes { route \"live\" { filters { agent \"next\" mode=\"shadow\"; agent \"waf\" }; upstream \"origin\"; websocket } }",
    )
    .upstream("origin", &server.target())
    .agent_with(&next, frames)
    .agent_with(&waf, frames)
    .start();
    proxy.wait_ready();
    proxy.wait_metric("portcullis_agent_up{agent=\"next\"}", 1.0);
    let mut client = connect(proxy.address_of("http"), "/ws");
    for text in ["bad", "good"] {
        client.send(Message::text(text)).unwrap();
    }
    assert_eq!(described(&client.read()), "text good");
    client.close(None).unwrap();
    assert_eq!(described(&client.read()), "close");
    proxy.wait_metric(
        "portcullis_shadow_verdicts_total{shadow=\"drop\",enforced=\"drop\"}",
        1.0,
    );
    let reported = entry(&proxy);
    assert_eq!(reported["agreed"], 1, "{reported}");
}

/// An agent that takes its time for each of many frames does not go on for long when the socket is closed.
#[test]
fn what_is_left_some_time_after_the_end_is_dropped() {
    const FRAMES: usize = 100;
    let server = Server::echoing();
    let takes = Duration::from_millis(150);
    let slow = Reaction::slow(takes, &Decision::allow());
    let next = TestAgent::named("next")
        .then(Phase::Frames, When::Always, slow)
        .start();
    let proxy = Proxy::builder(
        "admin { address \"127.0.0.1:0\" }\nroutes { route \"live\" { filters { agent \"next\" mode=\"shadow\" }; upstream \"origin\"; websocket } }",
    )
    .upstream("origin", &server.target())
    .agent_with(&next, "timeout \"1s\"; inspect { websocket-frames }")
    .start();
    proxy.wait_metric("portcullis_agent_up{agent=\"next\"}", 1.0);
    let mut client = connect(proxy.address_of("http"), "/ws");
    for _ in 0..FRAMES {
        client.send(Message::text("one")).unwrap();
        assert_eq!(described(&client.read()), "text one");
    }
    client.close(None).unwrap();
    assert_eq!(described(&client.read()), "close");
    drop(client);
    proxy.wait_metric(
        "portcullis_shadow_dropped_total{agent=\"next\",reason=\"time\"}",
        1.0,
    );
    let seen = next.seen("websocket_frame").len();
    assert!((1..FRAMES).contains(&seen), "{seen}");
    // What it said of the others is not counted as its verdict of the socket.
    assert_eq!(entry(&proxy)["dropped"], 1);
    assert_eq!(entry(&proxy)["compared"], 0);
}
