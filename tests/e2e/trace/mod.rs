//! What is told about single requests: verdicts beside the response, for those who know the token, and `portcullis why`.

mod aside;
mod headers;
mod secret;
mod why;

use crate::harness::{Answer, Origin, Proxy, Response, TestAgent, agent::Reaction, proxy::Builder};
use portcullis_agent_protocol::Decision;
use std::net::TcpListener;

const TOKEN: &str = "the-current-token-is-secret";
const PREVIOUS: &str = "the-previous-token-is-secret";

/// Every kind of route: with agents and without, to an upstream and not.
const ROUTES: &str = r#"
routes {
    route "judged" {
        match { path-prefix "/judged" }
        match { host "unused.example"; path "/never" }
        filters {
            request-headers { set "x-route" "hidden-by-filter"; remove "x-debug" }
            agent "judge"
            response-headers { set "x-frame-options" "hidden-by-filter" }
        }
        upstream "origin"
    }
    route "open" { match { path-prefix "/open" }; filters { agent "judge" failure-mode="open" }; upstream "origin" }
    route "bodies" { match { path-prefix "/bodies" }; filters { agent "reader" }; upstream "origin" }
    route "plain" { match { path-prefix "/plain" }; upstream "origin" }
    route "lost" { match { path-prefix "/lost" }; upstream "nobody" }
    route "old" { match { path "/old" }; redirect "/new" }
    route "fixed" { match { path "/fixed" }; respond 200 "fixed\n" }
}
"#;

/// Two tokens, one here and one in a file.
const BOTH: &str =
    "verdict-trace token-file=\"token\" previous-token=\"the-previous-token-is-secret\"";

struct Scene {
    origin: Origin,
    judge: TestAgent,
    reader: TestAgent,
    nobody: String,
}

impl Scene {
    fn new() -> Self {
        let judge = TestAgent::named("judge")
            .on("/judged/no", refusal())
            .on("/judged/late", Reaction::Hang)
            .on("/open/late", Reaction::Hang)
            .on("/judged/there", Decision::redirect("/elsewhere"))
            .otherwise(
                Decision::allow()
                    .set_request_header("x-user", "hidden-by-agent")
                    .remove_request_header("x-client")
                    .set_response_header("x-judged", "hidden-by-agent"),
            )
            .start();
        Self {
            origin: Origin::answering(|_| {
                // What an upstream says in our name is not passed on.
                let fields = [("x-agent-trace", "made-up"), ("server-timing", "app;dur=1")];
                Answer::with(200, &fields, b"ok")
            }),
            judge,
            reader: TestAgent::named("reader").start(),
            // Free again as soon as its address is known.
            nobody: TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .unwrap()
                .to_string(),
        }
    }

    /// A proxy with this in `observability`, and with this beside it.
    fn builder(&self, observability: &str, rest: &str) -> Builder {
        Proxy::builder(format!(
            "observability {{ access-log \"./access.log\"; log level=\"trace\" format=\"json\"; {observability} }}\n{rest}\n{ROUTES}"
        ))
        .file("token", &format!("{TOKEN}\n"))
        .origin(&self.origin)
        .upstream("nobody", &format!("target \"{}\"", self.nobody))
        .agent_with(&self.judge, "timeout \"500ms\"")
        .agent_with(
            &self.reader,
            "timeout \"5s\"; inspect { request-headers; request-body \"buffer\"; response-headers; response-body \"buffer\" }",
        )
    }

    fn start(&self, observability: &str, rest: &str) -> Proxy {
        let proxy = self.builder(observability, rest).start();
        proxy.wait_ready();
        proxy
    }
}

fn refusal() -> Decision {
    Decision::block(403)
        .reason("rule-7")
        .with_header("x-verdict", "hidden-by-agent")
}

fn line(token: &str) -> String {
    format!("X-Agent-Trace-Token: {token}")
}

/// What a response says to those who know the token: verdicts and times.
fn told(response: &Response) -> Option<(String, String)> {
    let all = response.header_values("x-agent-trace");
    assert!(all.len() <= 1, "{all:?}");
    let timing = response.header_values("server-timing").join(", ");
    Some((all.first()?.to_string(), timing))
}
