//! Where an agent is and what is spoken there, from its transport and its dialect. Which of these go together is seen to by
//! the configuration.

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

pub(super) fn at_socket(agent: &Agent, path: PathBuf) -> Target {
    match agent.dialect {
        Dialect::V1 => Target::V1UnixSocket(path),
        Dialect::V2 | Dialect::ExtProc | Dialect::ExtAuthz | Dialect::ForwardAuth => {
            Target::UnixSocket(path)
        }
    }
}

pub(super) fn over_grpc(agent: &Agent, endpoint: &AgentEndpoint) -> Target {
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
        Dialect::V2 | Dialect::V1 | Dialect::ForwardAuth => Target::V2Grpc { endpoint, package },
        Dialect::ExtProc => Target::ExtProc(Box::new(ExtProcTarget {
            endpoint,
            options: ext_proc(agent),
        })),
        Dialect::ExtAuthz => authz::ext_authz_over_grpc(agent, endpoint),
    }
}

pub(super) fn over_http(agent: &Agent, endpoint: &AgentEndpoint) -> Target {
    let endpoint = HttpEndpoint {
        url: endpoint.url.to_string().parse().unwrap_or_default(),
        tls: tls_files(&endpoint.tls),
    };
    match agent.dialect {
        Dialect::V1 | Dialect::V2 | Dialect::ExtProc => Target::V1Http(endpoint),
        Dialect::ExtAuthz => authz::ext_authz_over_http(agent, endpoint),
        Dialect::ForwardAuth => authz::forward_auth(agent, endpoint),
    }
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
