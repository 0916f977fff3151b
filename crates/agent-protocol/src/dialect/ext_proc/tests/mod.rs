//! What events become, what answers become, and what is remembered in between: tables.

mod answers;
mod events;
mod remembered;

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message as _;

use super::answered::{Outcome, granted, outcome};
use super::messages::{
    self, Answered, BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMutation,
    HeaderValue, HeaderValueOption, HeadersResponse, HttpStatus, ImmediateResponse, Kind, Mutation,
    ProcessingMode, ProcessingRequest, ProcessingResponse, Struct, Told, TrailersResponse, Value,
};
use super::options::{BodyMode, ExtProcOptions, Parts};
use super::progress::Progress;
use super::told::{self, Part};
use crate::{
    BodyChunk, Decision, Event, HeaderOp, RequestHeaders, RequestMetadata, ResponseHeaders, Verdict,
};

fn everything() -> ExtProcOptions {
    ExtProcOptions {
        request_headers: true,
        request_body: BodyMode::Buffered,
        response_headers: true,
        response_body: BodyMode::Streamed,
        response_trailers: true,
        ..ExtProcOptions::default()
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> http::HeaderMap {
    let lines = lines.iter();
    lines
        .map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        })
        .collect()
}

fn request<'a>(method: &'a str, protocol: &'a str, headers: &'a http::HeaderMap) -> Event<'a> {
    Event::RequestHeaders(RequestHeaders {
        metadata: RequestMetadata {
            correlation_id: "c",
            request_id: "r",
            client_ip: Ipv4Addr::LOCALHOST.into(),
            client_port: 56094,
            server_name: None,
            protocol,
            tls_version: None,
            tls_cipher: None,
            client_certificate: None,
            route_id: None,
            upstream_id: None,
            timestamp: SystemTime::UNIX_EPOCH,
            traceparent: None,
        },
        method,
        uri: "/x?q=1",
        headers,
        budget_left: None,
    })
}

fn response(status: u16, headers: &http::HeaderMap) -> Event<'_> {
    Event::ResponseHeaders(ResponseHeaders {
        correlation_id: "c",
        status,
        headers,
        budget_left: None,
    })
}

fn piece(data: &'static str, is_last: bool) -> BodyChunk<'static> {
    BodyChunk {
        correlation_id: "c",
        index: 0,
        data: data.into(),
        is_last,
        total_size: None,
        transferred: data.len() as u64,
        truncated: false,
        trailers: None,
        budget_left: None,
    }
}

fn option(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: String::new(),
            raw_value: Bytes::copy_from_slice(value.as_bytes()),
        }),
        append: None,
        append_action: 0,
    }
}

fn setting(set_headers: Vec<HeaderValueOption>) -> CommonResponse {
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }),
        ..CommonResponse::default()
    }
}

fn replacing(status: i32, mutation: Mutation) -> CommonResponse {
    CommonResponse {
        status,
        body_mutation: Some(BodyMutation {
            mutation: Some(mutation),
        }),
        ..CommonResponse::default()
    }
}

fn to_head(response: CommonResponse) -> ProcessingResponse {
    answer(Answered::RequestHeaders(HeadersResponse {
        response: Some(response),
    }))
}

fn to_body(response: CommonResponse) -> ProcessingResponse {
    answer(Answered::RequestBody(BodyResponse {
        response: Some(response),
    }))
}

fn answer(answered: Answered) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(answered),
        ..ProcessingResponse::default()
    }
}

fn begun(method: &str, options: &ExtProcOptions) -> Progress {
    let fields = match method {
        "POST" => headers(&[("there", "1"), ("content-length", "3")]),
        _ => headers(&[("there", "1")]),
    };
    let mut progress = Progress::default();
    let event = request(method, "HTTP/1.1", &fields);
    assert_eq!(
        progress.begin(&event, told::is_empty(&event), options),
        None
    );
    progress
}

fn set(name: &str, value: &str) -> HeaderOp {
    HeaderOp::Set {
        name: name.into(),
        value: value.into(),
    }
}
