"""A proxy of another make, in raw bytes: it knows nothing of what is ours."""

import json
import socket
import struct

from portcullis_agent import Agent, Decision
from portcullis_agent.testing import served

# As other proxies write it: members in another order, `+00:00`, names in any
# case, no `supported_encodings`.
REQUEST = {
    "correlation_id": "c-1",
    "metadata": {
        "correlation_id": "c-1",
        "request_id": "r-1",
        "client_ip": "203.0.113.7",
        "client_port": 51234,
        "server_name": None,
        "protocol": "HTTP/1.1",
        "tls_version": None,
        "tls_cipher": None,
        "route_id": "api",
        "upstream_id": "backend",
        "timestamp": "2026-07-01T12:00:00.123+00:00",
    },
    "method": "GET",
    "uri": "/admin",
    "headers": {"host": ["example.com"], "Cookie": ["a=1", "b=2"]},
}


class Legacy:
    """The wire without the library."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)

    def send(self, kind, message):
        payload = json.dumps(message).encode()
        self.socket.sendall(struct.pack(">IB", len(payload) + 1, kind) + payload)

    def receive(self, wanted):
        length, kind = struct.unpack(">IB", self._exactly(5))
        assert kind == wanted
        return json.loads(self._exactly(length - 1))

    def _exactly(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            assert more, "the agent has closed"
            data += more
        return data


class Waf(Agent):
    name = "waf"
    version = "1.2.3"

    def request_headers(self, event):
        cookies = ",".join(event.headers.get_all("cookie"))
        if event.path == "/admin":
            return Decision.block(403).with_body("no").with_header("x-why", "waf").reason("path")
        return Decision.allow().set_request_header("x-cookies", cookies)

    async def request_body_chunk(self, event):
        return Decision.allow().replace_request_body(event.data[::-1])


def test_a_conversation_as_other_proxies_have_it():
    with served(Waf()) as path:
        proxy = Legacy(path)
        opening = {"supported_versions": [2], "proxy_id": "p", "proxy_version": "1", "config": None}
        proxy.send(0x01, opening)
        # Every member: other proxies have no defaults.
        assert proxy.receive(0x02) == {
            "protocol_version": 2,
            "capabilities": {
                "agent_id": "waf",
                "name": "waf",
                "version": "1.2.3",
                "supported_events": [1, 2],
                "features": {
                    "streaming_body": True,
                    "websocket": False,
                    "guardrails": False,
                    "config_push": True,
                    "metrics_export": False,
                    "concurrent_requests": 100,
                    "cancellation": True,
                    "flow_control": True,
                    "health_reporting": True,
                },
                "limits": {
                    "max_body_size": 10485760,
                    "max_concurrency": 100,
                    "preferred_chunk_size": 262144,
                },
            },
            "success": True,
            "error": None,
            "encoding": "json",
        }
        configure = {"config": {}, "config_version": None, "correlation_id": "conf-1"}
        proxy.send(0x17, configure)
        answer = proxy.receive(0x20)
        assert answer["decision"] == "allow"
        assert answer["audit"]["custom"] == {"correlation_id": "conf-1"}

        proxy.send(0x10, REQUEST)
        assert proxy.receive(0x20) == {
            "version": 2,
            "decision": {"block": {"status": 403, "body": "no", "headers": {"x-why": "waf"}}},
            "request_headers": [],
            "response_headers": [],
            "routing_metadata": {},
            "audit": {
                "tags": [],
                "rule_ids": [],
                "confidence": None,
                "reason_codes": ["path"],
                "custom": {"correlation_id": "c-1"},
            },
            "needs_more": False,
            "request_body_mutation": None,
            "response_body_mutation": None,
            "websocket_decision": None,
        }
        proxy.send(0x10, {**REQUEST, "uri": "/"})
        answer = proxy.receive(0x20)
        assert answer["request_headers"] == [{"set": {"name": "x-cookies", "value": "a=1,b=2"}}]
        chunk = {"correlation_id": "c-1", "data": "aGVsbG8=", "is_last": True, "chunk_index": 3}
        proxy.send(0x11, chunk)
        mutation = proxy.receive(0x20)["request_body_mutation"]
        assert mutation == {"data": "b2xsZWg=", "chunk_index": 3}

        proxy.send(0x41, {"sequence": 5, "timestamp_ms": 6})
        assert proxy.receive(0x42) == {"sequence": 5, "timestamp_ms": 6}

        # Never an allow without a look.
        proxy.send(0x10, {**REQUEST, "metadata": {**REQUEST["metadata"], "client_ip": "nowhere"}})
        answer = proxy.receive(0x20)
        assert answer["decision"]["block"] == {"status": 500, "body": None, "headers": {}}
        assert answer["audit"]["reason_codes"] == ["agent_error"]
        assert answer["audit"]["custom"]["correlation_id"] == "c-1"
        proxy.send(0x10, {})
        assert proxy.socket.recv(1) == b""
        proxy.socket.close()
