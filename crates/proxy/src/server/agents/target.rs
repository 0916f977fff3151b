//! Where an agent is and what is spoken there, from its transport and its dialect. The configuration sees to it that these go
//! together; what would be a defect there is an error here, and never another dialect than the one that is written.

use super::authz;
use portcullis_agent_protocol::{
    ExtProcTarget, GrpcEndpoint, HttpEndpoint, Target, TlsFiles,
    ext_proc::{BodyMode, ExtProcOptions, Parts},
};
use portcullis_config::{
    Agent, AgentEndpoint, AgentTls, BodyInspection, Dialect, HeaderEncoding, OnClose, Overridable,
};
use std::path::PathBuf;

/// The package of the service of protocol version 2, unless another is configured.
const V2_PACKAGE: &str = "zentinel.agent.v2";

/// # Errors
/// The dialect is not spoken over Unix sockets.
pub(super) fn at_socket(agent: &Agent, path: PathBuf) -> Result<Target, String> {
    match agent.dialect {
        Dialect::V1 => Ok(Target::V1UnixSocket(path)),
        Dialect::V2 => Ok(Target::UnixSocket(path)),
        Dialect::ExtProc | Dialect::ExtAuthz | Dialect::ForwardAuth => {
            Err(mismatch(agent, "a Unix socket"))
        }
    }
}

/// # Errors
/// The dialect is not spoken over gRPC.
pub(super) fn over_grpc(agent: &Agent, endpoint: &AgentEndpoint) -> Result<Target, String> {
    let package = endpoint.package.as_deref().unwrap_or(V2_PACKAGE).to_owned();
    let scheme = if endpoint.url.is_https {
        "https"
    } else {
        "http"
    };
    let endpoint = GrpcEndpoint {
        url: format!("{scheme}://{}", endpoint.url.authority()),
        tls: tls_files(&endpoint.tls),
        // Whether the agent is there is found out by the dialect.
        keep_alive: None,
    };
    match agent.dialect {
        Dialect::V2 => Ok(Target::V2Grpc { endpoint, package }),
        Dialect::ExtProc => Ok(Target::ExtProc(Box::new(ExtProcTarget {
            endpoint,
            options: ext_proc(agent),
        }))),
        Dialect::ExtAuthz => Ok(authz::ext_authz_over_grpc(agent, endpoint)),
        Dialect::V1 | Dialect::ForwardAuth => Err(mismatch(agent, "gRPC")),
    }
}

/// # Errors
/// The dialect is not spoken over HTTP.
pub(super) fn over_http(agent: &Agent, endpoint: &AgentEndpoint) -> Result<Target, String> {
    let endpoint = HttpEndpoint {
        url: endpoint.url.to_string().parse().unwrap_or_default(),
        tls: tls_files(&endpoint.tls),
    };
    match agent.dialect {
        Dialect::V1 => Ok(Target::V1Http(endpoint)),
        Dialect::ExtAuthz => Ok(authz::ext_authz_over_http(agent, endpoint)),
        Dialect::ForwardAuth => Ok(authz::forward_auth(agent, endpoint)),
        Dialect::V2 | Dialect::ExtProc => Err(mismatch(agent, "HTTP")),
    }
}

fn mismatch(agent: &Agent, transport: &str) -> String {
    let (id, dialect) = (&agent.id, agent.dialect.name());
    format!("agent \"{id}\": the dialect {dialect} is not spoken over {transport}")
}

fn tls_files(tls: &AgentTls) -> TlsFiles {
    TlsFiles {
        ca: tls.ca.clone(),
        server_name: tls.server_name.clone(),
        identity: tls.identity.clone(),
    }
}

/// How an agent is spoken to that speaks ext-proc.
fn ext_proc(agent: &Agent) -> ExtProcOptions {
    let mode = |body: Option<BodyInspection>| match body.map(|body| body.mode) {
        None => BodyMode::None,
        Some(portcullis_config::BodyMode::Stream) => BodyMode::Streamed,
        Some(portcullis_config::BodyMode::Buffer) => BodyMode::Buffered,
    };
    let (inspect, settings) = (&agent.inspect, &agent.ext_proc);
    let may = |part| settings.may_leave_out.contains(&part);
    ExtProcOptions {
        request_headers: inspect.request_headers,
        request_body: mode(inspect.request_body),
        response_headers: inspect.response_headers,
        response_body: mode(inspect.response_body),
        response_trailers: settings.response_trailers,
        headers_as_text: settings.header_encoding == HeaderEncoding::String,
        strict: agent.strict,
        close_allows: settings.on_close == OnClose::Allow,
        may_leave_out: Parts {
            request_body: may(Overridable::RequestBody),
            response_headers: may(Overridable::ResponseHeaders),
            response_body: may(Overridable::ResponseBody),
            response_trailers: may(Overridable::ResponseTrailers),
        },
        max_message_timeout: settings.max_message_timeout,
        observability: settings.observability,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_dialect_is_spoken_where_it_is_or_not_at_all() {
        let text = "schema-version \"1\"\nlisteners { listener \"a\" { address \"127.0.0.1:0\" } }\nagents { agent \"x\" { http \"http://a/\"; dialect \"forward-auth\" } }";
        let loaded = portcullis_config::load_str("x.kdl", text, Path::new("/"), &|_| None);
        let mut agent = loaded.unwrap().config.agents.remove(0);
        let portcullis_config::AgentTransport::Http(endpoints) = agent.transport.clone() else {
            panic!("it is called over HTTP");
        };
        for (dialect, [socket, grpc, http]) in [
            (Dialect::V2, [true, true, false]),
            (Dialect::V1, [true, false, true]),
            (Dialect::ExtProc, [false, true, false]),
            (Dialect::ExtAuthz, [false, true, true]),
            (Dialect::ForwardAuth, [false, false, true]),
        ] {
            agent.dialect = dialect;
            let endpoint = &endpoints[0];
            assert_eq!(
                at_socket(&agent, "/a".into()).is_ok(),
                socket,
                "{dialect:?}"
            );
            assert_eq!(over_grpc(&agent, endpoint).is_ok(), grpc, "{dialect:?}");
            assert_eq!(over_http(&agent, endpoint).is_ok(), http, "{dialect:?}");
        }
    }
}
