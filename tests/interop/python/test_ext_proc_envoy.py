"""The same external processor behind Envoy and behind portcullis: what client and origin see of 40 requests is equal, or the
difference is one that docs/agents.md names."""

import http.client
import http.server
import json
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

from test_ext_authz import DEADLINE, ENVOY, HERE, PORTCULLIS, eventually, free_port

# What each proxy says of itself, agents or not.
OF_PROXIES = {
    "connection", "date", "server", "via", "x-request-id", "forwarded", "traceparent", "x-real-ip", "x-envoy-internal",
    "x-envoy-upstream-service-time", "x-envoy-expected-rq-timeout-ms", "x-forwarded-for", "x-forwarded-host",
    "x-forwarded-port", "x-forwarded-proto",
}  # fmt: skip
BODY = "a body of the client"
# Which route, what the agent does, with which method and body.
REQUESTS = (
    [("head", name, "GET", None) for name in [
        "allow", "set", "set-over", "set-value-only", "append", "append-new", "if-absent", "if-exists", "remove",
        "remove-host", "set-host", "set-method", "set-envoy", "block", "block-204", "redirect", "response-set",
        "response-remove", "response-block", "wrong-kind", "close", "broken", "slow",
    ]]
    + [("head", name, "POST", BODY) for name in ["allow", "set", "block", "response-set", "response-block"]]
    + [("head", "allow", "HEAD", None), ("head", "response-set", "HEAD", None)]
    + [("body", name, "POST", BODY) for name in ["allow", "set", "body-replace", "body-clear", "body-block", "block"]]
    + [("body", "allow", "POST", "x" * 50_000), ("body", "allow", "GET", None)]
    + [("body", name, "GET", None) for name in ["response-body-replace", "response-body-block"]]
)  # fmt: skip

ANSWERED = [["content-length", "19"], ["x-origin", "here"]]
# Where both differ on purpose, and in what: Envoy's first. See docs/agents.md.
ON_PURPOSE = {
    # What is in `value` arrives.
    "head set-value-only GET": {"origin headers": [[["x-user", ""]], [["x-user", "alice"]]]},
    # What an agent does wrong has a status of its own.
    "head wrong-kind GET": {"client status": [500, 502]},
    "head broken GET": {"client status": [500, 502]},
    # An agent that goes away has not allowed anything.
    "head close GET": {
        "client status": [200, 503],
        "client headers": [ANSWERED, [["retry-after", "1"]]],
        "client body": ["said by the origin\n", ""],
        "origin asked": [1, 0],
    },
    # The length of a changed body is made right.
    "body body-replace POST": {
        "client status": [500, 200],
        "client headers": [[], ANSWERED],
        "client body": ["", "said by the origin\n"],
        "origin asked": [0, 1],
    },
    "body body-clear POST": {
        "client status": [500, 200],
        "client headers": [[], ANSWERED],
        "client body": ["", "said by the origin\n"],
        "origin asked": [0, 1],
    },
    "body response-body-replace GET": {
        "client status": [500, 200],
        "client headers": [[], [["content-length", "13"], ["x-origin", "here"]]],
        "client body": ["", "another body\n"],
    },
}


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = []

    def answer(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        Origin.seen.append({
            "method": self.command,
            "target": self.path,
            "headers": kept(self.headers.items()),
            "body": body.decode(),
        })
        said = b"said by the origin\n"
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.send_header("x-origin", "here")
        # What a request leaves behind must not meet the next one.
        self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_GET = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


def kept(headers):
    return sorted([name.lower(), value] for name, value in headers if name.lower() not in OF_PROXIES)


def ask(port, route, name, method, body):
    Origin.seen.clear()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.request(method, f"/{route}/{name}", body=body, headers={"host": "shop.example", "x-client": "client"})
    response = connection.getresponse()
    text = response.read().decode()
    headers = kept(response.getheaders())
    connection.close()
    # Each proxy has texts of its own for what fails.
    if response.status >= 500 and (not text or text.startswith(f"{response.status} ")):
        text = ""
        headers = [it for it in headers if it[0] not in ("content-length", "content-type")]
    # We say of texts in which characters they are written.
    headers = [[key, value.removesuffix("; charset=utf-8")] for key, value in headers]
    client = {"status": response.status, "headers": headers, "body": text}
    return {"client": client, "origin": list(Origin.seen)}


def differences(one, other):
    """In what two views differ, by part."""
    found = {}
    for part in one["client"]:
        if one["client"][part] != other["client"][part]:
            found[f"client {part}"] = only(one["client"][part], other["client"][part])
    if len(one["origin"]) != len(other["origin"]):
        found["origin asked"] = [len(one["origin"]), len(other["origin"])]
        return found
    for theirs, ours in zip(one["origin"], other["origin"]):
        for part in theirs:
            if theirs[part] != ours[part]:
                found[f"origin {part}"] = only(theirs[part], ours[part])
    return found


def only(theirs, ours):
    if not isinstance(theirs, list):
        return [theirs, ours]
    return [[it for it in theirs if it not in ours], [it for it in ours if it not in theirs]]


PORTCULLIS_CONFIGURATION = """
schema-version "1"
listeners {{ listener "http" {{ address "127.0.0.1:{port}" }} }}
routes {{
    route "head" {{ match {{ path-prefix "/head" }}; filters {{ agent "head" }}; upstream "origin" }}
    route "body" {{ match {{ path-prefix "/body" }}; filters {{ agent "body" }}; upstream "origin" }}
    route "rest" {{ upstream "origin" }}
}}
upstreams {{ upstream "origin" {{ target "127.0.0.1:{origin}" }} }}
agents {{
    agent "head" {{
        grpc "http://127.0.0.1:{agent}"
        dialect "ext-proc"
        timeout "500ms"
        circuit-breaker failures=1000
        inspect {{ request-headers; response-headers }}
    }}
    agent "body" {{
        grpc "http://127.0.0.1:{agent}"
        dialect "ext-proc"
        timeout "500ms"
        circuit-breaker failures=1000
        inspect {{ request-headers; request-body "buffer"; response-headers; response-body "buffer" }}
    }}
}}
"""


def envoy_configuration(port, origin, agent):
    kind = "type.googleapis.com/envoy."
    heads = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
    bodies = {**heads, "request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED"}
    off = {"@type": kind + "config.route.v3.FilterConfig", "disabled": True}

    def processor(name, mode):
        return {
            "name": name,
            "typed_config": {
                "@type": kind + "extensions.filters.http.ext_proc.v3.ExternalProcessor",
                "grpc_service": {"envoy_grpc": {"cluster_name": "agent"}, "timeout": "0.5s"},
                "message_timeout": "0.5s",
                "processing_mode": mode,
            },
        }

    def route(prefix, *unwanted):
        return {
            "match": {"prefix": prefix},
            "route": {"cluster": "origin", "timeout": "30s"},
            "typed_per_filter_config": {name: off for name in unwanted},
        }

    def address(place):
        return {"socket_address": {"address": "127.0.0.1", "port_value": place}}

    def cluster(name, place, **more):
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(place)}}]}]
        assignment = {"cluster_name": name, "endpoints": endpoints}
        return {"name": name, "type": "STATIC", "load_assignment": assignment, **more}

    http2 = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": kind + "extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    routes = [route("/head/", "body"), route("/body/", "head"), route("/", "head", "body")]
    router = {"name": "router", "typed_config": {"@type": kind + "extensions.filters.http.router.v3.Router"}}
    manager = {
        "@type": kind + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [processor("head", heads), processor("body", bodies), router],
    }
    filters = [{"filters": [{"name": "http", "typed_config": manager}]}]
    listener = {"name": "http", "address": address(port), "filter_chains": filters}
    clusters = [cluster("origin", origin), cluster("agent", agent, **http2)]
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}})


class ExtProcBehindEnvoy(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        self.addCleanup(origin.server_close)
        self.addCleanup(origin.shutdown)
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        agent = subprocess.Popen(
            [sys.executable, str(HERE / "processor.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.end(agent)
        self.places = {"origin": origin.server_port, "agent": int(agent.stdout.readline())}

    def end(self, process):
        def gone():
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                pipe.close()

        self.addCleanup(gone)

    def start(self, name, text, command):
        port = free_port()
        path = self.folder / name
        path.write_text(text(port=port, **self.places))
        with open(self.folder / f"{name}.log", "w") as log:
            self.end(subprocess.Popen([*command, str(path)], stdout=log, stderr=log))
        for route in ("rest", "head", "body"):
            allowed = lambda route=route: ask(port, route, "allow", "GET", None)["client"]["status"] == 200
            eventually(f"{name} passes requests", allowed)
        return port

    @unittest.skipUnless(ENVOY, "no envoy here")
    def test_it_does_the_same_behind_envoy(self):
        self.assertEqual(len(REQUESTS), 40)
        quiet = ["--use-dynamic-base-id", "--disable-hot-restart", "--log-level", "error", "--concurrency", "1"]
        theirs = self.start("envoy.json", envoy_configuration, [ENVOY, *quiet, "-c"])
        ours = self.start("portcullis.kdl", PORTCULLIS_CONFIGURATION.format, [PORTCULLIS, "run", "-c"])
        found = {}
        for request in REQUESTS:
            difference = differences(ask(theirs, *request), ask(ours, *request))
            if difference:
                found[" ".join(request[:3])] = difference
        self.maxDiff = None
        self.assertEqual(found, ON_PURPOSE)


if __name__ == "__main__":
    unittest.main()
