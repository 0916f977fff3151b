//! Envoy as a peer: what it is told, so that it does what our proxy does in the same scenario.

use std::{net::SocketAddr, path::Path};

/// What stands before the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Nothing.
    None,
    /// An agent that authorizes.
    ExtAuthz,
    /// An agent that processes the heads of requests.
    ExtProc,
}

/// Where its parts are.
pub(crate) struct Places<'a> {
    pub(crate) listener: SocketAddr,
    pub(crate) origin: SocketAddr,
    pub(crate) agent: Option<SocketAddr>,
    pub(crate) access_log: &'a Path,
}

/// The arguments of a process with one worker.
pub(crate) fn arguments(configuration: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--concurrency",
        "1",
        "--use-dynamic-base-id",
        "--disable-hot-restart",
        "--log-level",
        "error",
        "-c",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(configuration.display().to_string());
    arguments
}

/// The configuration, as JSON.
pub(crate) fn configuration(filter: Filter, places: &Places<'_>) -> String {
    let mut filters = Vec::new();
    if let Some(agent) = agent_filter(filter) {
        filters.push(agent);
    }
    filters.push(serde_json::json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    }));
    let mut clusters = vec![cluster("origin", places.origin, false)];
    if let Some(agent) = places.agent {
        clusters.push(cluster("agent", agent, true));
    }
    serde_json::json!({
        "static_resources": {
            "listeners": [{
                "name": "http",
                "address": address(places.listener),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "http",
                        "codec_type": "HTTP1",
                        "request_headers_timeout": "10s",
                        "access_log": [access_log(places.access_log)],
                        "route_config": {"virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "30s"}}]
                        }]},
                        "http_filters": filters
                    }
                }]}]
            }],
            "clusters": clusters
        }
    })
    .to_string()
}

fn agent_filter(filter: Filter) -> Option<serde_json::Value> {
    let service = serde_json::json!({"envoy_grpc": {"cluster_name": "agent"}, "timeout": "1s"});
    match filter {
        Filter::None => None,
        Filter::ExtAuthz => Some(serde_json::json!({
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "grpc_service": service
            }
        })),
        Filter::ExtProc => Some(serde_json::json!({
            "name": "envoy.filters.http.ext_proc",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
                "grpc_service": service,
                "message_timeout": "1s",
                "processing_mode": {"request_header_mode": "SEND", "response_header_mode": "SKIP"}
            }
        })),
    }
}

fn access_log(path: &Path) -> serde_json::Value {
    serde_json::json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": {
                "time": "%START_TIME%",
                "method": "%REQ(:METHOD)%",
                "path": "%REQ(:PATH)%",
                "status": "%RESPONSE_CODE%",
                "duration": "%DURATION%",
                "bytes": "%BYTES_SENT%",
                "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "upstream": "%UPSTREAM_HOST%",
                "id": "%REQ(X-REQUEST-ID)%",
                "flags": "%RESPONSE_FLAGS%"
            }}
        }
    })
}

fn cluster(name: &str, place: SocketAddr, is_http2: bool) -> serde_json::Value {
    let mut cluster = serde_json::json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(place)}}]}]
        }
    });
    if is_http2 {
        cluster["typed_extension_protocol_options"] = serde_json::json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}
            }
        });
    }
    cluster
}

fn address(place: SocketAddr) -> serde_json::Value {
    serde_json::json!({"socket_address": {"address": place.ip(), "port_value": place.port()}})
}
