//! Services that say whether a request may go on: what the manager has to know to call them.

use super::bytes;
use portcullis_agent_protocol::{
    ExtAuthzGrpcTarget, ExtAuthzHttpTarget, ForwardAuthTarget, GrpcEndpoint, HttpEndpoint, Target,
    authz::{ExtAuthzGrpcOptions, ExtAuthzHttpOptions, ForwardAuthOptions},
    header_name::HeaderNames,
};
use portcullis_config::{Agent, AgentTransport, Authz, Dialect, SendHeaders};

pub(super) fn ext_authz_over_grpc(agent: &Agent, endpoint: GrpcEndpoint) -> Target {
    let settings = settings(agent);
    let options = ExtAuthzGrpcOptions {
        context: settings.context.into_iter().collect(),
        with_body: agent.inspect.request_body.is_some(),
        body_as_bytes: settings.body_as_bytes,
    };
    Target::ExtAuthzGrpc(Box::new(ExtAuthzGrpcTarget { endpoint, options }))
}

pub(super) fn ext_authz_over_http(agent: &Agent, endpoint: HttpEndpoint) -> Target {
    let settings = settings(agent);
    let options = ExtAuthzHttpOptions {
        copy_headers: names(&settings.copy_headers),
        copy_to_client: names(&settings.copy_to_client),
        with_body: agent.inspect.request_body.is_some(),
        max_body: bytes(settings.max_body),
    };
    Target::ExtAuthzHttp(Box::new(ExtAuthzHttpTarget { endpoint, options }))
}

pub(super) fn forward_auth(agent: &Agent, endpoint: HttpEndpoint) -> Target {
    let settings = settings(agent);
    let options = ForwardAuthOptions {
        copy_headers: names(&settings.copy_headers),
        copy_to_client: names(&settings.copy_to_client),
        relay_failures: settings.relay_failures,
        max_body: bytes(settings.max_body),
    };
    Target::ForwardAuth(Box::new(ForwardAuthTarget { endpoint, options }))
}

fn settings(agent: &Agent) -> Authz {
    agent.authz.clone().unwrap_or_default()
}

fn names(patterns: &[String]) -> HeaderNames {
    HeaderNames::new(patterns.iter().map(String::as_str))
}

/// What an agent is told of a request's headers. Of these dialects some are part of every question, and over HTTP ext-authz
/// is, as with Envoy, a question with few headers unless the configuration names others.
pub(super) fn told(agent: &Agent) -> SendHeaders {
    let always: &[&str] = match (agent.dialect, &agent.transport) {
        (Dialect::ExtAuthz, AgentTransport::Http(_)) => &[
            "authorization",
            "content-length",
            "host",
            "x-forwarded-proto",
        ],
        (Dialect::ExtAuthz | Dialect::ForwardAuth, _) => &[
            "host",
            "content-length",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ],
        _ => &[],
    };
    let only = |list: &[String]| {
        let always = always.iter().map(|name| (*name).to_owned());
        SendHeaders::Only(list.iter().cloned().chain(always).collect())
    };
    match (&agent.send_headers, agent.dialect, &agent.transport) {
        (SendHeaders::All, Dialect::ExtAuthz, AgentTransport::Http(_)) => only(&[]),
        (SendHeaders::Only(list), ..) => only(list),
        (other, ..) => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn agent(text: &str) -> Agent {
        let text = format!(
            "schema-version \"1\"\nlisteners {{ listener \"a\" {{ address \"127.0.0.1:0\" }} }}\nagents {{ agent \"x\" {{ {text} }} }}"
        );
        let loaded = portcullis_config::load_str("x.kdl", &text, Path::new("/"), &|_| None);
        loaded.unwrap().config.agents.remove(0)
    }

    #[test]
    fn some_headers_are_part_of_the_question() {
        let (http, grpc) = ("http \"http://a/\"", "grpc \"http://a\"");
        let table = [
            (
                format!("{http}; dialect \"ext-authz\""),
                vec!["authorization", "host"],
                vec!["cookie", "x-forwarded-for"],
            ),
            (
                format!("{http}; dialect \"ext-authz\"; send-headers {{ only \"cookie\" }}"),
                vec!["authorization", "cookie"],
                vec!["x-other"],
            ),
            (
                format!("{grpc}; dialect \"ext-authz\"; send-headers {{ only \"cookie\" }}"),
                vec!["host", "cookie", "x-forwarded-proto"],
                vec!["authorization"],
            ),
            (
                format!("{http}; dialect \"forward-auth\"; send-headers {{ only \"cookie\" }}"),
                vec!["host", "cookie", "x-forwarded-for"],
                vec!["authorization"],
            ),
        ];
        for (text, told_of, not) in table {
            let SendHeaders::Only(list) = told(&agent(&text)) else {
                panic!("{text}");
            };
            let has = |name: &&str| list.iter().any(|known| known == name);
            assert!(told_of.iter().all(has), "{text}: {list:?}");
            assert!(!not.iter().any(has), "{text}: {list:?}");
        }
        assert_eq!(
            told(&agent(&format!("{http}; dialect \"forward-auth\""))),
            SendHeaders::All
        );
    }
}
