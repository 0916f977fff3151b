"""A service on the published types of Envoy behind portcullis, and the same service behind Envoy: what client and origin see is
equal, or the difference is one that docs/agents.md names."""

import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PORTCULLIS = os.environ.get("PORTCULLIS", str(ROOT / "target" / "debug" / "portcullis"))
ENVOY = os.environ.get("ENVOY") or shutil.which("envoy", path=str(Path(sys.executable).parent))
DEADLINE = 20

CLIENT = {"host": "shop.example", "x-client": "1", "authorization": "Basic eA==", "x-other": "own"}
SPOOFED = {**CLIENT, "x-auth-user": "root"}
# Method, target, headers, body.
REQUESTS = [
    (method, target, headers, None)
    for method, target in [
        ("GET", "/plain"),
        ("HEAD", "/plain"),
        ("DELETE", "/plain?a=b"),
        ("OPTIONS", "/plain"),
        ("GET", "/set"),
        ("GET", "/set?q=1&q=2"),
        ("GET", "/told"),
        ("PUT", "/told?x"),
        ("GET", "/context"),
        ("GET", "/remove"),
        ("GET", "/set-and-remove"),
        ("GET", "/pseudo"),
        ("GET", "/remove-host"),
        ("GET", "/response"),
        ("GET", "/deny"),
        ("GET", "/who"),
        ("GET", "/login"),
        ("GET", "/bare"),
        ("GET", "/call-denied"),
        ("GET", "/call-internal"),
    ]
    for headers in [CLIENT]
] + [
    ("GET", "/teapot", CLIENT, None),
    ("HEAD", "/deny", CLIENT, None),
    ("HEAD", "/who", CLIENT, None),
    ("POST", "/deny", CLIENT, "x=1"),
    ("GET", "/set", SPOOFED, None),
    ("GET", "/remove", SPOOFED, None),
    ("GET", "/response", {**CLIENT, "accept": "a/b"}, None),
    ("GET", "/told", {**CLIENT, "cookie": "a=1"}, None),
    ("POST", "/body", CLIENT, "hello"),
    ("POST", "/body", CLIENT, "0123456789"),
    ("POST", "/body", CLIENT, "0123456789abcdefghij"),
    ("PUT", "/body", CLIENT, ""),
    ("POST", "/set", CLIENT, "x=1"),
    ("POST", "/plain", CLIENT, "x" * 100),
    ("PATCH", "/remove", CLIENT, "x"),
    ("GET", "/%41%20b", CLIENT, None),
    ("GET", "/plain?x=%2F", CLIENT, None),
    ("GET", "/set?" + "x" * 1000, CLIENT, None),
    ("GET", "/plain", {**CLIENT, "x-long": "y" * 4000}, None),
    ("GET", "/plain", SPOOFED, None),
]

# Where both differ on purpose: which part, for which request, what each of them has. See docs/agents.md.
ON_PURPOSE = {
    # A failure is no refusal.
    "GET /call-internal": "status",
    # No agent changes where a request goes.
    "GET /pseudo": "target",
    # Only the service can speak its headers.
    "spoofed GET /plain": "x-auth-user",
    "spoofed GET /remove": "x-auth-user",
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(what, condition):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE} s: {what}")


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = []

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        if self.headers.get("transfer-encoding"):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        names = ["host", "x-client", "authorization", "x-other", "cookie", "accept", "x-long"]
        names += [name for name in self.headers if name.lower().startswith("x-auth")]
        headers = {name.lower(): self.headers.get_all(name) for name in names if name in self.headers}
        Origin.seen.append((self.command, self.path, headers, body))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.send_header("x-origin", "yes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


def ask(port, method, target, headers, body):
    """What the client gets and what the origin has seen."""
    Origin.seen.clear()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("content-length", str(len(body)))
    connection.endheaders(body.encode() if body else None)
    response = connection.getresponse()
    text = response.read()
    kept = ["x-origin", "x-from-service", "www-authenticate", "location", "x-why"]
    got = {name: response.headers.get_all(name) for name in kept if name in response.headers}
    connection.close()
    return {"status": response.status, "headers": got, "body": text, "origin": list(Origin.seen)}


PORTCULLIS_CONFIGURATION = """
schema-version "1"
listeners {{ listener "http" {{ address "127.0.0.1:{port}" }} }}
routes {{ route "all" {{ filters {{ agent "auth" }}; upstream "origin" }} }}
upstreams {{ upstream "origin" {{ target "127.0.0.1:{origin}" }} }}
agents {{
    agent "auth" {{
        grpc "http://127.0.0.1:{service}"
        dialect "ext-authz"
        timeout "5s"
        owns-headers "x-auth-*"
        inspect {{ request-headers; request-body "buffer" limit="10B" on-oversize="truncate" }}
        ext-authz {{ context {{ tenant "blue" }} }}
    }}
}}
"""


def envoy_configuration(port, origin, service):
    def cluster(name, place, http2):
        described = {
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(place)}}]}],
            },
        }
        if http2:
            described["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            }
        return described

    def address(place):
        return {"socket_address": {"address": "127.0.0.1", "port_value": place}}

    filters = "type.googleapis.com/envoy.extensions.filters"
    authz = {
        "@type": f"{filters}.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "service"}, "timeout": "5s"},
        "with_request_body": {"max_request_bytes": 10, "allow_partial_message": True},
    }
    per_route = {
        "envoy.filters.http.ext_authz": {
            "@type": f"{filters}.http.ext_authz.v3.ExtAuthzPerRoute",
            "check_settings": {"context_extensions": {"tenant": "blue"}},
        }
    }
    manager = {
        "@type": f"{filters}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "normalize_path": True,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "origin"},
                            "typed_per_filter_config": per_route,
                        }
                    ],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": authz},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{filters}.http.router.v3.Router"},
            },
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    "address": address(port),
                    "filter_chains": [
                        {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [cluster("origin", origin, False), cluster("service", service, True)],
        }
    }


class ExtAuthz(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.processes = []
        cls.origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        threading.Thread(target=cls.origin.serve_forever, daemon=True).start()
        service = subprocess.Popen(
            [sys.executable, str(HERE / "authz_service.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        cls.processes.append(service)
        cls.service = int(service.stdout.readline())

    @classmethod
    def tearDownClass(cls):
        for process in reversed(cls.processes):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        cls.origin.shutdown()
        cls.origin.server_close()
        cls.folder.cleanup()

    @classmethod
    def start(cls, name, text, arguments):
        port = free_port()
        path = Path(cls.folder.name) / name
        path.write_text(text(port))
        log = open(Path(cls.folder.name) / f"{name}.log", "w")
        process = subprocess.Popen(arguments(str(path)), stdout=log, stderr=log)
        log.close()
        cls.processes.append(process)
        eventually(f"{name} passes requests", lambda: ask(port, "GET", "/plain", CLIENT, None)["status"] == 200)
        return port

    @classmethod
    def portcullis(cls):
        places = {"origin": cls.origin.server_port, "service": cls.service}
        return cls.start(
            "portcullis.kdl",
            lambda port: PORTCULLIS_CONFIGURATION.format(port=port, **places),
            lambda path: [PORTCULLIS, "run", "-c", path],
        )

    @classmethod
    def envoy(cls):
        described = lambda port: json.dumps(envoy_configuration(port, cls.origin.server_port, cls.service))
        return cls.start(
            "envoy.json",
            described,
            lambda path: [ENVOY, "--use-dynamic-base-id", "--disable-hot-restart", "--log-level", "error", "-c", path],
        )

    def test_the_service_decides(self):
        port = self.portcullis()
        got = lambda *request: ask(port, *request)
        allowed = got("GET", "/set?q=1", SPOOFED, None)
        self.assertEqual(allowed["status"], 200)
        self.assertEqual(allowed["origin"][0][2]["x-auth-user"], ["ann"])
        self.assertEqual(allowed["origin"][0][2]["x-auth-path"], ["/set?q=1"])
        self.assertNotIn("x-auth-user", got("GET", "/plain", SPOOFED, None)["origin"][0][2])
        self.assertNotIn("authorization", got("GET", "/remove", CLIENT, None)["origin"][0][2])
        body = got("POST", "/body", CLIENT, "0123456789abc")["origin"][0]
        self.assertEqual(body[2]["x-auth-body"], ["10 true"])
        self.assertEqual(body[3], b"0123456789abc")
        who = got("GET", "/who", CLIENT, None)
        self.assertEqual((who["status"], who["body"], who["origin"]), (401, b"who?\n", []))
        self.assertEqual(who["headers"]["www-authenticate"], ["Bearer"])
        login = got("GET", "/login", CLIENT, None)
        self.assertEqual((login["status"], login["headers"]["location"]), (302, ["/there"]))
        self.assertEqual(got("GET", "/call-denied", CLIENT, None)["status"], 403)
        self.assertEqual(got("GET", "/call-internal", CLIENT, None)["status"], 502)

    @unittest.skipUnless(ENVOY, "no envoy here")
    def test_it_decides_the_same_behind_envoy(self):
        ours, theirs = self.portcullis(), self.envoy()
        self.assertEqual(len(REQUESTS), 40)
        differences = {}
        for request in REQUESTS:
            one, other = (plain(ask(port, *request)) for port in (ours, theirs))
            if one != other:
                name = ("spoofed " if request[2] is SPOOFED else "") + f"{request[0]} {request[1]}"
                differences[name] = (one, other)
        for name in list(differences):
            one, other = differences[name]
            expected = ON_PURPOSE.get(name)
            if expected and differs_in(expected, one, other):
                del differences[name]
            elif expected:
                self.fail(f"{name} differs in more than {expected}: {one} {other}")
        self.assertEqual(differences, {})


def plain(seen):
    """Without what is each proxy's own way of saying the same."""
    # Envoy has no text of its own for a bare refusal.
    if seen["status"] in (403, 502) and not seen["origin"] and not re.match(b"no\n", seen["body"]):
        seen["body"] = b""
    return seen


def differs_in(what, one, other):
    if what == "status":
        return one["status"] != other["status"] and one["origin"] == other["origin"]
    if what == "target":
        (_, target, *rest), (_, changed, *others) = one["origin"][0], other["origin"][0]
        return (target, changed) == ("/pseudo", "/evil") and rest == others
    ours, theirs = one["origin"][0][2], dict(other["origin"][0][2])
    return what not in ours and theirs.pop(what, None) is not None and ours == theirs


if __name__ == "__main__":
    unittest.main()
