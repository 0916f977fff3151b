//! What is asserted of one cell of the table.

use super::{Bench, Client, Fault, Got, order};
use crate::harness::{http2::HeadersAlone, origin::Recorded};
use serde_json::Value;

/// One cell of the table.
pub(super) struct Cell<'a> {
    pub(super) bench: &'a Bench,
    pub(super) fault: &'a Fault,
    pub(super) mode: &'static str,
    pub(super) client: Client,
    pub(super) path: String,
}

impl Cell<'_> {
    pub(super) fn applied(&self) -> f64 {
        let (agent, mode) = (self.fault.agent, self.mode);
        self.bench.proxy.metric(&format!(
            r#"portcullis_agent_failures_applied_total{{agent="{agent}",policy="{mode}"}}"#
        ))
    }

    pub(super) fn assert_refused(&self, got: Got) {
        let fault = self.fault;
        match got {
            Got::Http1(response) => {
                assert_eq!(response.status, fault.status);
                assert_eq!(response.header("retry-after"), fault.retry_after);
                assert_eq!(response.header("x-order"), None);
                assert!(response.complete);
                assert!(!response.text().contains("order="), "{}", response.text());
            }
            Got::Grpc(answer) => {
                let answer = answer.unwrap();
                let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap());
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.extensions().get(), Some(&HeadersAlone(true)));
                assert_eq!(header("grpc-status"), Some(fault.grpc));
                assert_eq!(header("grpc-message"), Some(fault.name));
                assert_eq!(header("retry-after"), fault.retry_after);
                assert_eq!(header("content-type"), Some("application/grpc"));
                assert_eq!(header("x-order"), None);
            }
        }
        let line = self.assert_line();
        assert_eq!(line["blocked_by"], fault.agent, "{line}");
        assert_eq!(line["reason"], fault.name, "{line}");
        let (status, grpc) = match self.client {
            Client::Http1 => (fault.status, Value::Null),
            Client::Grpc => (200, fault.grpc.parse::<u8>().unwrap().into()),
        };
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["grpc_status"], grpc, "{line}");
        assert_eq!(line["aborted"], Value::Null, "{line}");
        self.assert_unseen();
    }

    /// The head has gone: what follows must not look as if it were all.
    pub(super) fn assert_cut(&self, got: Got) {
        match got {
            Got::Http1(response) => {
                assert_eq!(response.status, 200);
                assert_eq!(response.header("transfer-encoding"), Some("chunked"));
                assert!(!response.complete);
                assert_eq!(response.text(), "");
            }
            Got::Grpc(answer) => {
                let error = answer.unwrap_err();
                assert!(error.is_reset(), "{error}");
            }
        }
        let line = self.assert_line();
        assert_eq!(line["blocked_by"], self.fault.agent, "{line}");
        assert_eq!(line["reason"], self.fault.name, "{line}");
        assert_eq!(line["status"], 200, "{line}");
        assert_eq!(line["aborted"], true, "{line}");
    }

    pub(super) fn assert_went_on(&self, got: Got) {
        let (status, body) = match got {
            Got::Http1(response) => {
                assert!(response.complete);
                (response.status, response.body)
            }
            Got::Grpc(answer) => {
                let answer = answer.unwrap();
                (answer.status().as_u16(), answer.body().to_vec())
            }
        };
        let body = String::from_utf8(body).unwrap();
        assert_eq!((status, body), (200, order(self.fault.order)));
        let seen = self.bench.origin.saw(|seen| seen.target() == self.path);
        assert_eq!(seen.body, order(self.fault.order).as_bytes());
        assert!(seen.complete);
        let line = self.assert_line();
        for name in ["blocked_by", "reason", "aborted", "grpc_status"] {
            assert_eq!(line[name], Value::Null, "{line}");
        }
    }

    /// The one line about the request and in it the one record of the agent.
    fn assert_line(&self) -> Value {
        let line = self.bench.proxy.access_line_of(&self.path);
        let records = line["agents"].as_array().unwrap();
        assert_eq!(records.len(), 1, "{line}");
        for (name, expected) in [
            ("name", self.fault.agent),
            ("phase", self.bench.place.name),
            ("verdict", "failed"),
            ("failure", self.fault.name),
            ("failure_mode", self.mode),
        ] {
            assert_eq!(records[0][name], expected, "{line}");
        }
        let lines = self.bench.proxy.access_lines();
        let about = lines.iter().filter(|line| line["path"] == *self.path);
        assert_eq!(about.count(), 1);
        line
    }

    /// Nothing of a request that was refused has come to the origin as a whole.
    fn assert_unseen(&self) {
        let place = self.bench.place;
        let about = |seen: &&Recorded| seen.target() == self.path;
        let seen = self.bench.origin.requests();
        let seen: Vec<&Recorded> = seen.iter().filter(about).collect();
        let is_response = place.name.starts_with("response");
        if place.first {
            assert!(seen.is_empty(), "{seen:?}");
        } else if !is_response {
            assert!(seen.iter().all(|seen| !seen.complete), "{seen:?}");
        }
    }
}
