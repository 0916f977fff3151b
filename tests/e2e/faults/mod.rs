//! The table of faults: whatever an agent or the wire to it does wrong is a failure with a name, refuses when the agent is
//! closed, passes when it is open, and leaves nothing behind.

mod agent;
mod connecting;
mod crossing;
mod wire;

use crate::harness::{
    Origin, Proxy, Response, Sabotage, Saboteur, TestAgent,
    agent::{Dialect, Reaction},
    eventually,
};
use portcullis_agent_protocol::Decision;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The timeout where nothing else ends the wait.
const TIMEOUT_MILLIS: u64 = 400;
const RECONNECTS: &str = r#"portcullis_agent_reconnects_total{agent="waf"}"#;

/// Something that goes wrong.
struct Case {
    name: &'static str,
    does: Does,
    /// `None` when the verdict holds all the same.
    failure: Option<Failure>,
}

enum Does {
    /// On the wire.
    Wire(Sabotage),
    /// In the agent, as its reaction.
    Agent(Reaction),
}

/// A row of the table of failures, from the outside.
#[derive(Debug, Clone, Copy)]
struct Failure {
    name: &'static str,
    status: u16,
    retry_after: bool,
}

const UNREACHABLE: Failure = Failure {
    name: "unreachable",
    status: 503,
    retry_after: true,
};
const TIMEOUT: Failure = Failure {
    name: "timeout",
    status: 504,
    retry_after: false,
};
const PROTOCOL_ERROR: Failure = Failure {
    name: "protocol_error",
    status: 502,
    retry_after: false,
};

fn wire(name: &'static str, sabotage: Sabotage, failure: Failure) -> Case {
    Case {
        name,
        does: Does::Wire(sabotage),
        failure: Some(failure),
    }
}

fn agent(name: &'static str, reaction: impl Into<Reaction>, failure: Failure) -> Case {
    Case {
        name,
        does: Does::Agent(reaction.into()),
        failure: Some(failure),
    }
}

impl Case {
    /// Where it is asked. What ends by the timeout alone is asked where that is short. All else has time: it is no fault that
    /// the machine has much else to do.
    fn path(&self, mode: &str, number: usize) -> String {
        use Sabotage::{CloseAtOnce, Handshake, NeverRead, NoListener, NoSocket};
        let unconnected = matches!(
            self.does,
            Does::Wire(NoSocket | NoListener | CloseAtOnce | NeverRead | Handshake(_))
        );
        let late = self
            .failure
            .is_some_and(|failure| failure.name == "timeout");
        let hasty = if unconnected || late { "/hasty" } else { "" };
        format!("/{mode}{hasty}/{number}")
    }
}

/// One proxy with one connection to one agent, and a closed and an open route over it.
struct Bench {
    saboteur: Saboteur,
    proxy: Proxy,
    origin: Origin,
    /// What the proxy has open when nothing is going on.
    descriptors: usize,
    _agent: TestAgent,
}

impl Bench {
    fn new(dialect: Dialect, cases: &[Case]) -> Self {
        // Whoever was judged has the mark.
        let judged = Decision::allow().set_request_header("x-judged", "yes");
        let mut agent = TestAgent::named("waf").speaking(dialect).otherwise(judged);
        for (number, case) in cases.iter().enumerate() {
            if let Does::Agent(reaction) = &case.does {
                for mode in ["closed", "open"] {
                    agent = agent.on(&case.path(mode, number), reaction.clone());
                }
            }
        }
        let agent = agent.start();
        let saboteur = Saboteur::before(&agent);
        let origin = Origin::start();
        let settings = "timeout \"10s\"; circuit-breaker failures=100000; pool min=1 max=1";
        let hasty = format!(r#"timeout="{TIMEOUT_MILLIS}ms""#);
        let routes: String = [
            ("closed", "closed", ""),
            ("open", "open", r#"failure-mode="open""#),
            ("closed-hasty", "closed/hasty", &hasty),
            ("open-hasty", "open/hasty", &format!(r#"failure-mode="open" {hasty}"#)),
        ]
        .iter()
        .map(|(name, path, settings)| {
            format!(
                "route \"{name}\" {{ match {{ path-prefix \"/{path}\" }}; filters {{ agent \"waf\" {settings} }}; upstream \"origin\" }}\n"
            )
        })
        .collect();
        let proxy = Proxy::builder(format!(
            "system {{ worker-threads 1 }}\nroutes {{\n{routes}}}"
        ))
        .origin(&origin)
        .agent_behind(&saboteur, "waf", settings)
        .start();
        proxy.wait_ready();
        let mut bench = Self {
            saboteur,
            proxy,
            origin,
            descriptors: 0,
            _agent: agent,
        };
        bench.judges("warm");
        bench.descriptors = steady(|| bench.proxy.descriptors());
        bench
    }

    /// Runs the cases, all of them, and names those that failed.
    fn run(dialect: Dialect, cases: &[Case]) {
        let bench = Self::new(dialect, cases);
        let failed: Vec<&str> = cases
            .iter()
            .enumerate()
            .filter(|(number, case)| {
                let run = || bench.run_case(*number, case);
                catch_unwind(AssertUnwindSafe(run)).is_err()
            })
            .map(|(_, case)| case.name)
            .collect();
        assert!(failed.is_empty(), "{dialect:?}: {failed:#?}");
    }

    fn run_case(&self, number: usize, case: &Case) {
        let name = case.name;
        for mode in ["closed", "open"] {
            let before = Counts::of(&self.proxy, mode);
            if let Does::Wire(sabotage) = &case.does {
                let lost = self.proxy.metric(RECONNECTS);
                self.saboteur.does(sabotage.clone());
                if *sabotage == Sabotage::StopReading {
                    self.is_connected_anew(name, lost);
                }
            }
            let path = case.path(mode, number);
            let response = self.proxy.get(&path);
            self.saboteur.relents();
            match case.failure {
                Some(failure) if mode == "closed" => self.assert_refused(name, &response, failure),
                Some(failure) => self.assert_went_on(name, &response, failure, &path),
                None => {
                    assert_eq!(response.status, 200, "{name}");
                    assert_judged(&self.origin, &path);
                }
            }
            let failures = if case.failure.is_some() { 1.0 } else { 0.0 };
            eventually(&format!("{name}: metrics of {mode}"), || {
                let now = Counts::of(&self.proxy, mode);
                (now.applied == before.applied + failures && now.other_mode == before.other_mode)
                    .then_some(())
            });
            self.assert_as_at_start(name);
        }
    }

    /// The connection that was there is gone, and there is another, so that what follows is a fault of the new one.
    fn is_connected_anew(&self, name: &str, lost: f64) {
        eventually(&format!("{name}: a new connection"), || {
            let up = self.proxy.metric(r#"portcullis_agent_up{agent="waf"}"#);
            (self.proxy.metric(RECONNECTS) > lost && up == 1.0).then_some(())
        });
    }

    fn assert_refused(&self, name: &str, response: &Response, failure: Failure) {
        assert_eq!(response.status, failure.status, "{name}");
        let retry_after = failure.retry_after.then_some("1");
        assert_eq!(response.header("retry-after"), retry_after, "{name}");
        let line = self.line_about(response);
        assert_eq!(line["blocked_by"], "waf", "{name}: {line}");
        assert_eq!(line["reason"], failure.name, "{name}: {line}");
        assert_eq!(line["upstream"], Value::Null, "{name}: {line}");
        assert_record(name, &line, failure, "closed");
    }

    fn assert_went_on(&self, name: &str, response: &Response, failure: Failure, path: &str) {
        assert_eq!(
            (response.status, response.text()),
            (200, "ok".into()),
            "{name}"
        );
        let line = self.line_about(response);
        assert_eq!(line["blocked_by"], Value::Null, "{name}: {line}");
        assert_record(name, &line, failure, "open");
        let request = self.origin.saw(|request| request.target() == path);
        for header in ["x-judged", "x-valid", "x-injected", "x-own"] {
            let value = request.header(header);
            assert_eq!(value, None, "{name}: nothing of the answer is used");
        }
    }

    fn line_about(&self, response: &Response) -> Value {
        let id = response.header("x-request-id").unwrap();
        self.proxy.access_line(|line| line["request_id"] == id)
    }

    /// The agent is well again: the next request of either route is judged, and nothing of the fault is left.
    fn assert_as_at_start(&self, name: &str) {
        eventually(&format!("{name}: one connection that is up"), || {
            let up = self.proxy.metric(r#"portcullis_agent_up{agent="waf"}"#);
            (self.saboteur.lines() == 1 && up == 1.0).then_some(())
        });
        self.judges(name);
        for gauge in [
            "portcullis_agent_in_flight",
            "portcullis_agent_waiting",
            "portcullis_http_requests_in_flight",
        ] {
            self.proxy.wait_metric(gauge, 0.0);
        }
        let what = format!("{name}: {} descriptors", self.descriptors);
        eventually(&what, || {
            (self.proxy.descriptors() == self.descriptors).then_some(())
        });
    }

    /// A request on each route gets the agent's verdict.
    fn judges(&self, name: &str) {
        for mode in ["closed", "open"] {
            let path = format!("/{mode}/clean-{}", self.origin.requests().len());
            assert_eq!(self.proxy.get(&path).status, 200, "{name}: clean {mode}");
            assert_judged(&self.origin, &path);
        }
    }
}

fn assert_judged(origin: &Origin, path: &str) {
    let request = origin.saw(|request| request.target() == path);
    assert_eq!(request.header("x-judged").as_deref(), Some("yes"), "{path}");
}

fn assert_record(name: &str, line: &Value, failure: Failure, mode: &str) {
    let records = line["agents"].as_array().unwrap();
    assert_eq!(records.len(), 1, "{name}: {line}");
    let record = &records[0];
    assert_eq!(record["name"], "waf", "{name}: {line}");
    assert_eq!(record["phase"], "request_headers", "{name}: {line}");
    assert_eq!(record["verdict"], "failed", "{name}: {line}");
    assert_eq!(record["failure"], failure.name, "{name}: {line}");
    assert_eq!(record["failure_mode"], mode, "{name}: {line}");
}

/// Failures that were applied in a mode, and in the other one.
struct Counts {
    applied: f64,
    other_mode: f64,
}

impl Counts {
    fn of(proxy: &Proxy, mode: &str) -> Self {
        let applied = |policy: &str| {
            proxy.metric(&format!(
                r#"portcullis_agent_failures_applied_total{{agent="waf",policy="{policy}"}}"#
            ))
        };
        let other = if mode == "open" { "closed" } else { "open" };
        Self {
            applied: applied(mode),
            other_mode: applied(other),
        }
    }
}

/// A value that has been the same for a while.
fn steady(value: impl Fn() -> usize) -> usize {
    let mut last = value();
    let mut same = 0;
    eventually("a steady value", || {
        let now = value();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same >= 20).then_some(now)
    })
}
