//! The table of failures, for every phase in both modes and for both kinds of clients: what a client gets, what the origin gets,
//! and what is written down.

mod cell;

use crate::harness::{
    Answer, Origin, Proxy, RawClient, Response, TestAgent,
    agent::{Dialect, Phase, Reaction, When},
    eventually,
    grpc::{Call, call},
    http2::exchange,
    proxy::Builder,
};
use cell::Cell;
use portcullis_agent_protocol::Decision;
use std::{
    io::{Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
};

/// Where an agent fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    inspect: &'static str,
    /// `None` is that of the request's head.
    phase: Option<Phase>,
    name: &'static str,
    /// The head of the response has gone when the agent fails.
    late: bool,
    /// The request has not begun to go to the origin.
    first: bool,
}

/// Something that goes wrong, and what stands in the table about it.
struct Fault {
    /// The name of the agent that is asked.
    agent: &'static str,
    /// What the agent finds in the message and takes for its order.
    order: &'static str,
    name: &'static str,
    status: u16,
    grpc: &'static str,
    retry_after: Option<&'static str>,
}

const fn fault(agent: &'static str, name: &'static str, status: u16, grpc: &'static str) -> Fault {
    Fault {
        agent,
        order: agent,
        name,
        status,
        grpc,
        retry_after: if status == 503 { Some("1") } else { None },
    }
}

const FAULTS: [Fault; 10] = [
    fault("closes", "unreachable", 503, "14"),
    fault("hangs", "timeout", 504, "4"),
    fault("babbles", "protocol_error", 502, "13"),
    fault("meddles", "protocol_error", 502, "13"),
    fault("errs", "protocol_error", 502, "13"),
    fault("lacks", "unavailable", 503, "14"),
    fault("broken", "breaker_open", 503, "14"),
    fault("full", "saturated", 503, "14"),
    Fault {
        retry_after: Some("60"),
        ..fault("busy", "overloaded", 503, "14")
    },
    Fault {
        order: "hangs",
        ..fault("slow", "budget", 504, "4")
    },
];

const MODES: [&str; 2] = ["closed", "open"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Http1,
    Grpc,
}

const CLIENTS: [Client; 2] = [Client::Http1, Client::Grpc];

impl Client {
    const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Grpc => "grpc",
        }
    }
}

/// What a client got.
enum Got {
    Http1(Response),
    Grpc(Result<http::Response<bytes::Bytes>, h2::Error>),
}

/// What is in the message where this is to happen.
fn order(what: &str) -> String {
    format!("order={what};")
}

/// One proxy and its agents, all of which are asked in the same place.
struct Bench {
    place: Place,
    proxy: Proxy,
    origin: Origin,
    /// Lets the origin send the body behind the head.
    body: Sender<()>,
    _agents: [TestAgent; 3],
}

/// Whatever is asked, it says it back, in the head and in the body. Where agents fail late, the body comes when the client has
/// the head.
fn echoing(place: Place) -> (Origin, Sender<()>) {
    let (body, told) = channel::<()>();
    let told = Arc::new(Mutex::new(told));
    let origin = Origin::answering(move |request| {
        let order = order_of(&request.target());
        let answer = Answer::with(200, &[("x-order", &order)], order.as_bytes());
        if !place.late {
            return answer;
        }
        let told = told.clone();
        let head = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\nx-order: {order}\r\ncontent-length: {}\r\n\r\n",
            order.len()
        );
        Answer::raw(head).then(move |stream| {
            if told.lock().unwrap().recv().is_ok() {
                // Whoever has refused it may have gone.
                let _ = stream.write_all(order.as_bytes());
                let _ = stream.read(&mut [0]);
            }
        })
    });
    (origin, body)
}

impl Bench {
    fn new(place: Place) -> Self {
        let (origin, body) = echoing(place);
        let agents = [by_hand(place), by_library(place), deaf()];
        let [by_hand, by_library, deaf] = &agents;
        let routes: String = FAULTS
            .iter()
            .flat_map(|fault| MODES.map(|mode| route(fault.agent, mode)))
            .collect();
        let text = format!("system {{ worker-threads 1 }}\nroutes {{\n{routes}}}");
        let proxy = FAULTS
            .iter()
            .fold(Proxy::builder(text).origin(&origin), |proxy, fault| {
                let agent = match fault.agent {
                    "closes" | "babbles" | "meddles" => by_hand,
                    "lacks" => deaf,
                    _ => by_library,
                };
                asking(proxy, place, fault.agent, agent)
            })
            .start();
        for fault in &FAULTS {
            connected(&proxy, fault);
        }
        Self {
            place,
            proxy,
            origin,
            body,
            _agents: agents,
        }
    }

    /// Brings it about that the agent fails with everything from now on, where that takes more than an order.
    fn prepare(&self, fault: &Fault) {
        match fault.agent {
            "broken" => {
                self.ask(Client::Http1, "/broken/closed/first/errs");
                let open = r#"portcullis_agent_circuit_state{agent="broken",state="open"}"#;
                self.proxy.wait_metric(open, 1.0);
            }
            "full" => self.take_the_permit(),
            _ => {}
        }
    }

    /// By a call that hangs until its timeout.
    fn take_the_permit(&self) {
        let mut held = self.proxy.client();
        held.send(request("/full/closed/first/hangs"));
        if self.place.late {
            eventually("a head", || held.is_readable().then_some(()));
            self.body.send(()).unwrap();
        }
        let asked = r#"portcullis_agent_in_flight{agent="full"}"#;
        self.proxy.wait_metric(asked, 1.0);
        std::mem::forget(held);
    }

    fn ask(&self, client: Client, path: &str) -> Got {
        match client {
            Client::Http1 => {
                let mut client: RawClient = self.proxy.client();
                client.send(request(path));
                if self.place.late {
                    eventually("a head", || client.is_readable().then_some(()));
                    self.body.send(()).unwrap();
                }
                Got::Http1(client.response())
            }
            Client::Grpc if self.place.late => {
                let mut call = Call::to(self.proxy.address_of("http"), path);
                call.send(order_of(path));
                let head = call.finish().head().unwrap();
                self.body.send(()).unwrap();
                Got::Grpc(call.rest().map(|body| head.map(|()| body.into())))
            }
            Client::Grpc => {
                let mut call = call(path);
                *call.body_mut() = order_of(path).into();
                Got::Grpc(exchange(self.proxy.address_of("http"), vec![call]).remove(0))
            }
        }
    }

    fn run_cell(&self, fault: &Fault, mode: &'static str, client: Client) {
        let cell = Cell {
            bench: self,
            fault,
            mode,
            client,
            path: format!("/{}/{mode}/{}/{}", fault.agent, client.name(), fault.order),
        };
        let applied = cell.applied();
        let got = self.ask(client, &cell.path);
        if mode == "open" {
            cell.assert_went_on(got);
        } else if self.place.late {
            cell.assert_cut(got);
        } else {
            cell.assert_refused(got);
        }
        eventually("the count", || {
            (cell.applied() == applied + 1.0).then_some(())
        });
        connected(&self.proxy, fault);
    }
}

/// The agent has its connection, once more if it has lost it. One that takes no events counts as well.
fn connected(proxy: &Proxy, fault: &Fault) {
    let connections = format!(r#"portcullis_agent_connections{{agent="{}"}}"#, fault.agent);
    proxy.wait_metric(&connections, 1.0);
}

fn order_of(path: &str) -> String {
    order(path.rsplit('/').next().unwrap())
}

fn request(path: &str) -> Vec<u8> {
    super::post(path, order_of(path).as_bytes(), super::Framing::Length, &[])
}

fn route(agent: &str, mode: &str) -> String {
    let timeout = match agent {
        "hangs" => "300ms",
        _ => "10s",
    };
    let budget = match agent {
        "slow" => "agent-budget \"300ms\"",
        _ => "",
    };
    format!(
        "route \"{agent}-{mode}\" {{ match {{ path-prefix \"/{agent}/{mode}\" }}; filters {{ agent \"{agent}\" timeout=\"{timeout}\" failure-mode=\"{mode}\" }}; upstream \"origin\"; {budget} }}\n"
    )
}

/// The agent under this name, which is asked in this place.
fn asking(proxy: Builder, place: Place, name: &str, agent: &TestAgent) -> Builder {
    let settings = match name {
        "broken" => "circuit-breaker failures=1 open-for=\"1h\"",
        "full" => "max-concurrent-calls 1 queue=0",
        "busy" => "overload retries=0; circuit-breaker failures=100000",
        _ => "circuit-breaker failures=100000",
    };
    let socket = agent.socket().display();
    let inspect = place.inspect;
    proxy.agent_block(
        name,
        &format!("unix-socket \"{socket}\"; inspect {{ {inspect} }}; {settings}"),
    )
}

/// The agent that does what no library lets it do.
fn by_hand(place: Place) -> TestAgent {
    let foreign = match place.name {
        "response_headers" | "response_body" => "request_body_mutation",
        _ => "response_body_mutation",
    };
    let meddles = format!(
        r#"{{"version":2,"decision":"allow","{foreign}":{{"data":"eA==","chunk_index":0}},"audit":{{"custom":{{"correlation_id":"$ID"}}}}}}"#
    );
    let agent = TestAgent::named("by-hand").speaking(Dialect::Legacy);
    obeying(
        agent,
        place,
        &[
            ("closes", Reaction::Close),
            ("babbles", Reaction::Text("{\"version\":2,\"dec".into())),
            ("meddles", Reaction::Text(meddles)),
        ],
    )
}

fn by_library(place: Place) -> TestAgent {
    let agent = TestAgent::named("by-library");
    obeying(
        agent,
        place,
        &[
            ("hangs", Reaction::Hang),
            ("errs", Reaction::Fail),
            ("busy", Reaction::Overloaded(Some(60_000))),
        ],
    )
}

/// The agent does this where it finds the order.
fn obeying(mut agent: TestAgent, place: Place, orders: &[(&str, Reaction)]) -> TestAgent {
    for (what, reaction) in orders {
        let Some(phase) = place.phase else {
            for fault in FAULTS {
                for mode in MODES {
                    for client in ["http1", "grpc", "first"] {
                        let path = format!("/{}/{mode}/{client}/{what}", fault.agent);
                        agent = agent.on(&path, reaction.clone());
                    }
                }
            }
            continue;
        };
        agent = agent.then(phase, When::Holds(order(what)), reaction.clone());
    }
    agent.otherwise(Decision::allow()).start()
}

/// The agent that announces none of what it is asked here.
fn deaf() -> TestAgent {
    TestAgent::named("deaf").supporting(&[]).start()
}

fn run(place: Place) {
    let bench = Bench::new(place);
    let mut failed = Vec::new();
    for fault in &FAULTS {
        bench.prepare(fault);
        for mode in MODES {
            for client in CLIENTS {
                let run = || bench.run_cell(fault, mode, client);
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    failed.push((fault.agent, mode, client));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}: {failed:#?}", place.inspect);
}

#[test]
fn d04_in_the_head_of_a_request() {
    run(Place {
        inspect: "request-headers",
        phase: None,
        name: "request_headers",
        late: false,
        first: true,
    });
}

#[test]
fn d04_in_a_buffered_body_of_a_request() {
    run(Place {
        inspect: "request-body \"buffer\"",
        phase: Some(Phase::RequestBody),
        name: "request_body",
        late: false,
        first: true,
    });
}

#[test]
fn d04_in_a_streamed_body_of_a_request() {
    run(Place {
        inspect: "request-body \"stream\"",
        phase: Some(Phase::RequestBody),
        name: "request_body",
        late: false,
        first: false,
    });
}

#[test]
fn d04_in_the_head_of_a_response() {
    run(Place {
        inspect: "response-headers",
        phase: Some(Phase::ResponseHeaders),
        name: "response_headers",
        late: false,
        first: false,
    });
}

#[test]
fn d04_in_a_buffered_body_of_a_response() {
    run(Place {
        inspect: "response-body \"buffer\"",
        phase: Some(Phase::ResponseBody),
        name: "response_body",
        late: false,
        first: false,
    });
}

#[test]
fn d04_in_a_streamed_body_of_a_response() {
    run(Place {
        inspect: "response-body \"stream\"",
        phase: Some(Phase::ResponseBody),
        name: "response_body",
        late: true,
        first: false,
    });
}
