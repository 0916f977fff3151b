//! The table of failures for the frames of sockets: both directions, both modes.

use super::peers::{Server, Socket, by_library, connect, described};
use crate::harness::{
    Proxy, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
    eventually,
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use tungstenite::{Message, protocol::Role};

/// The name of an agent, what it finds in a frame and takes for its order, and what stands in the table about it.
const FAULTS: [(&str, &str, &str); 9] = [
    ("closes", "closes", "unreachable"),
    ("hangs", "hangs", "timeout"),
    ("babbles", "babbles", "protocol_error"),
    ("meddles", "meddles", "protocol_error"),
    ("errs", "errs", "protocol_error"),
    ("busy", "busy", "overloaded"),
    ("lacks", "lacks", "unavailable"),
    ("slow", "hangs", "budget"),
    ("broken", "errs", "breaker_open"),
];

const MODES: [&str; 2] = ["closed", "open"];
const DIRECTIONS: [&str; 2] = ["client", "server"];

/// Sends back every text with the cases of its letters swapped, so that an order is one in one direction alone.
fn swapping() -> Server {
    Server::start(|stream, _| {
        let mut socket = by_library(stream, Role::Server);
        let mut seen = Vec::new();
        loop {
            let message = socket.read();
            seen.push(described(&message));
            match message {
                Ok(Message::Text(text)) => {
                    let _ = socket.send(Message::text(swapped(&text)));
                }
                Ok(_) => {
                    let _ = socket.flush();
                }
                Err(_) => return seen,
            }
        }
    })
}

fn swapped(text: &str) -> String {
    match text.starts_with(char::is_lowercase) {
        true => text.to_uppercase(),
        false => text.to_lowercase(),
    }
}

fn by_hand() -> TestAgent {
    let holds = |word: &str| When::Holds(format!("order {word}"));
    TestAgent::named("by-hand")
        .speaking(Dialect::Legacy)
        .then(Phase::Frames, holds("closes"), Reaction::Close)
        .then(
            Phase::Frames,
            holds("babbles"),
            Reaction::Text("no answer".to_owned()),
        )
        .start()
}

fn by_library_agent() -> TestAgent {
    let holds = |word: &str| When::Holds(format!("order {word}"));
    TestAgent::named("by-library")
        .then(Phase::Frames, holds("hangs"), Reaction::Hang)
        // A code that nobody may send.
        .then(
            Phase::Frames,
            holds("meddles"),
            Decision::allow().close_websocket(1005, ""),
        )
        .then(Phase::Frames, holds("errs"), Reaction::Fail)
        .then(
            Phase::Frames,
            holds("busy"),
            Reaction::Overloaded(Some(60_000)),
        )
        .start()
}

struct Bench {
    proxy: Proxy,
    server: Server,
    _agents: [TestAgent; 3],
}

impl Bench {
    fn new() -> Self {
        let server = swapping();
        let agents = [
            by_hand(),
            by_library_agent(),
            TestAgent::named("deaf").supporting(&[1]).start(),
        ];
        let [by_hand, by_library, deaf] = &agents;
        let routes: String = FAULTS
            .iter()
            .flat_map(|(agent, _, _)| MODES.map(|mode| route(agent, mode)))
            .collect();
        let text = format!("system {{ worker-threads 1 }}\nroutes {{\n{routes}}}");
        let builder = Proxy::builder(text).upstream("origin", &server.target());
        let proxy = FAULTS
            .iter()
            .fold(builder, |builder, (name, _, _)| {
                let agent = match *name {
                    "closes" | "babbles" => by_hand,
                    "lacks" => deaf,
                    _ => by_library,
                };
                let timeout = if *name == "hangs" { "200ms" } else { "5s" };
                let breaker = match *name {
                    "broken" => "circuit-breaker failures=1 open-for=\"60s\"",
                    _ => "circuit-breaker failures=1000",
                };
                let text = format!(
                    "unix-socket \"{}\"; timeout \"{timeout}\"; {breaker}; inspect {{ websocket-frames }}",
                    agent.socket().display()
                );
                builder.agent_block(name, &text)
            })
            .start();
        let bench = Self {
            proxy,
            server,
            _agents: agents,
        };
        for (agent, _, _) in FAULTS {
            bench.connected(agent);
        }
        bench
    }

    /// Once more if the connection was lost.
    fn connected(&self, agent: &str) {
        let connections = format!(r#"portcullis_agent_connections{{agent="{agent}"}}"#);
        self.proxy.wait_metric(&connections, 1.0);
    }

    fn open(&self, path: &str) -> Socket {
        connect(self.proxy.address_of("http"), path)
    }

    fn break_circuit(&self) {
        let mut socket = self.open("/broken/open/first");
        socket.send(Message::text("order errs")).unwrap();
        assert_eq!(described(&socket.read()), "text ORDER ERRS");
        let open = r#"portcullis_agent_circuit_state{agent="broken",state="open"}"#;
        self.proxy.wait_metric(open, 1.0);
    }

    fn run(&self, fault: (&str, &str, &str), mode: &str, direction: &str) {
        let (agent, order, name) = fault;
        let path = format!("/{agent}/{mode}/{direction}");
        let mut socket = self.open(&path);
        let order = format!("order {order}");
        let sent = match direction {
            "client" => order,
            _ => order.to_uppercase(),
        };
        socket.send(Message::text(sent.as_str())).unwrap();
        // An agent of which nothing can be had fails in the other direction as well.
        let always = ["lacks", "broken", "busy"].contains(&agent);
        if mode == "open" {
            let answer = format!("text {}", swapped(&sent));
            assert_eq!(described(&socket.read()), answer, "{path}");
            socket.close(None).unwrap();
            assert_eq!(described(&socket.read()), "close", "{path}");
            assert_eq!(described(&socket.read()), "end", "{path}");
        } else {
            assert_eq!(described(&socket.read()), "close 1011 ", "{path}");
            assert_eq!(described(&socket.read()), "end", "{path}");
        }
        let seen = self.server.saw(&path);
        let message = format!("text {sent}");
        match (mode, direction) {
            ("open", _) => assert_eq!(seen, [&message, "close", "end"], "{path}"),
            (_, "server") if !always => {
                assert_eq!(seen, [&message, "close 1011 ", "end"], "{path}");
            }
            _ => assert_eq!(seen, ["close 1011 ", "end"], "{path}"),
        }
        self.assert_line(&path, (agent, name), mode);
        self.connected(agent);
    }

    fn assert_line(&self, path: &str, (agent, name): (&str, &str), mode: &str) {
        let line = self.proxy.access_line_of(path);
        assert_eq!(line["status"], 101, "{line}");
        let records = line["agents"].as_array().unwrap();
        assert_eq!(records.len(), 1, "{line}");
        for (member, expected) in [
            ("name", agent),
            ("phase", "websocket_frames"),
            ("verdict", "failed"),
            ("failure", name),
            ("failure_mode", mode),
        ] {
            assert_eq!(records[0][member], expected, "{line}");
        }
        let (blocked_by, reason, code) = match mode {
            "closed" => (agent.into(), name.into(), 1011),
            _ => (Value::Null, Value::Null, 1005),
        };
        assert_eq!(line["blocked_by"], blocked_by, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["websocket"]["close_code"], code, "{line}");
    }
}

fn route(agent: &str, mode: &str) -> String {
    let budget = match agent {
        "slow" => "agent-budget \"100ms\";",
        _ => "",
    };
    format!(
        "route \"{agent}-{mode}\" {{ match {{ path-prefix \"/{agent}/{mode}\" }}; filters {{ agent \"{agent}\" failure-mode=\"{mode}\" }}; {budget} upstream \"origin\"; websocket }}\n"
    )
}

#[test]
fn d04_the_table_of_failures_holds_for_frames_in_both_directions_and_both_modes() {
    let bench = Bench::new();
    for fault in FAULTS {
        if fault.0 == "broken" {
            bench.break_circuit();
        }
        for mode in MODES {
            for direction in DIRECTIONS {
                bench.run(fault, mode, direction);
            }
        }
    }
}

#[test]
fn a_dead_agent_ends_sockets_by_its_mode_and_is_asked_again_when_it_is_back() {
    let server = swapping();
    let mut agent = TestAgent::named("frames").start();
    let routes = MODES.map(|mode| {
        format!(
            "route \"{mode}\" {{ match {{ path-prefix \"/{mode}\" }}; filters {{ agent \"frames\" failure-mode=\"{mode}\" }}; upstream \"origin\"; websocket }}\n"
        )
    });
    let proxy = Proxy::builder(format!("routes {{\n{}}}", routes.concat()))
        .upstream("origin", &server.target())
        .agent_with(&agent, "timeout \"2s\"; inspect { websocket-frames }")
        .start();
    proxy.wait_ready();
    let mut sockets = MODES.map(|mode| connect(proxy.address_of("http"), &format!("/{mode}")));
    for socket in &mut sockets {
        socket.send(Message::text("here")).unwrap();
        assert_eq!(described(&socket.read()), "text HERE");
    }
    agent.kill();
    let applied = |policy: &str| {
        let series = format!(
            r#"portcullis_agent_failures_applied_total{{agent="frames",policy="{policy}"}}"#
        );
        proxy.metric(&series)
    };
    let [closed, open] = &mut sockets;
    closed.send(Message::text("gone")).unwrap();
    assert_eq!(described(&closed.read()), "close 1011 ");
    open.send(Message::text("gone")).unwrap();
    assert_eq!(described(&open.read()), "text GONE");
    // It is seen at once, and not when the socket ends.
    assert_eq!(applied("open"), 2.0, "one for each direction");
    agent.start_again();
    eventually("the agent is asked again", || {
        open.send(Message::text("back")).unwrap();
        assert_eq!(described(&open.read()), "text BACK");
        let mut seen = agent.seen("websocket_frame").into_iter();
        seen.any(|frame| frame["data"] == "back").then_some(())
    });
}
