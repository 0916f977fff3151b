"""Sends the same requests through Envoy and through portcullis, with the same agents and the same origin behind both,
and compares what clients and origin saw. Usage: compare.py ENVOY PORTCULLIS DIFFERENCES.json [--print]

DIFFERENCES.json has, for each case that differs on purpose, what each of the two does. Any other difference, and any
that is listed and gone, is an error."""

import http.client
import http.server
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

import agents
from cases import CASES

READY_WITHIN = 20.0
ANSWERED_WITHIN = 10.0
# What each proxy says of itself, agents or not.
OF_PROXIES_TO_CLIENT = {"date", "server", "x-envoy-upstream-service-time", "x-request-id", "via"}
OF_PROXIES_TO_ORIGIN = {
    "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "via", "traceparent",
    "x-envoy-expected-rq-timeout-ms", "x-envoy-attempt-count", "x-envoy-internal",
}


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked, and remembers that it was."""

    protocol_version = "HTTP/1.1"
    seen = None

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = self.chunks()
        else:
            body = self.rfile.read(length)
        headers = sorted(
            [name.lower(), value]
            for name, value in self.headers.items()
            if name.lower() not in OF_PROXIES_TO_ORIGIN
        )
        type(self).seen = {
            "method": self.command,
            "target": self.path,
            "headers": headers,
            "body": body.decode(),
        }
        said = b"said by the origin\n"
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.send_header("x-origin", "here")
        # What a request leaves behind must not meet the next one.
        self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    def chunks(self):
        body = b""
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return body

    do_GET = do_POST = do_DELETE = do_HEAD = answer

    def log_message(self, *args):
        pass


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def wait_ready(port, process):
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args[0]} ended with {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/none/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{process.args[0]} is not ready in {READY_WITHIN} s")


ANY = "type.googleapis.com/envoy."


def envoy_configuration(listen, origin, agent):
    """Like that of portcullis below: one route for each kind of agent."""
    service = {"envoy_grpc": {"cluster_name": "agent"}, "timeout": "0.5s"}
    off = {"@type": ANY + "config.route.v3.FilterConfig", "disabled": True}

    def processor(name, mode):
        return {
            "name": name,
            "typed_config": {
                "@type": ANY + "extensions.filters.http.ext_proc.v3.ExternalProcessor",
                "grpc_service": service,
                "message_timeout": "0.5s",
                "processing_mode": mode,
            },
        }

    heads = {"request_header_mode": "SEND", "response_header_mode": "SEND"}
    bodies = {**heads, "request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED"}
    filters = [
        {
            "name": "authz",
            "typed_config": {
                "@type": ANY + "extensions.filters.http.ext_authz.v3.ExtAuthz",
                "transport_api_version": "V3",
                "grpc_service": service,
            },
        },
        processor("proc", heads),
        processor("body", bodies),
    ]

    def route(prefix, *wanted):
        unwanted = [one["name"] for one in filters if one["name"] not in wanted]
        return {
            "match": {"prefix": prefix},
            "route": {"cluster": "origin", "timeout": "30s"},
            "typed_per_filter_config": {name: off for name in unwanted},
        }

    manager = {
        "@type": ANY + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        route("/authz/", "authz"),
                        route("/proc/", "proc"),
                        route("/body/", "body"),
                        route("/"),
                    ],
                }
            ]
        },
        "http_filters": filters
        + [
            {
                "name": "router",
                "typed_config": {"@type": ANY + "extensions.filters.http.router.v3.Router"},
            }
        ],
    }

    def cluster(name, port, **more):
        endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "2s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
            },
            **more,
        }

    http2 = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": ANY + "extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": listen}},
                    "filter_chains": [
                        {"filters": [{"name": "http", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [cluster("origin", origin), cluster("agent", agent, **http2)],
        }
    }


def our_configuration(listen, origin, agent):
    return f"""schema-version "1"
listeners {{ listener "http" {{ address "127.0.0.1:{listen}" }} }}
routes {{
    route "authz" {{ match {{ path-prefix "/authz" }}; filters {{ agent "authz" }}; upstream "origin" }}
    route "proc" {{ match {{ path-prefix "/proc" }}; filters {{ agent "proc" }}; upstream "origin" }}
    route "body" {{ match {{ path-prefix "/body" }}; filters {{ agent "body" }}; upstream "origin" }}
    route "rest" {{ upstream "origin" }}
}}
upstreams {{ upstream "origin" {{ target "127.0.0.1:{origin}" }} }}
agents {{
    agent "authz" {{
        grpc "http://127.0.0.1:{agent}"
        dialect "ext-authz"
        timeout "500ms"
        circuit-breaker failures=1000
        owns-headers "x-user"
    }}
    agent "proc" {{
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


def ask(port, case):
    kind, name, method, headers, body = case
    Origin.seen = None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWERED_WITHIN)
    connection.request(method, f"/{kind}/{name}", body=body, headers={"host": "example.com", **headers})
    answer = connection.getresponse()
    said = answer.read().decode()
    seen = {
        "client": {
            "status": answer.status,
            "headers": sorted(
                [name.lower(), value]
                for name, value in answer.getheaders()
                if name.lower() not in OF_PROXIES_TO_CLIENT
            ),
            "body": said,
        },
        "origin": Origin.seen,
    }
    connection.close()
    return seen


def differing(one, other):
    """The parts in which two views differ."""
    found = {}
    for side in ("client", "origin"):
        a, b = one[side], other[side]
        if a is None or b is None:
            if a is not b:
                found[side] = ["asked" if a else "not asked", "asked" if b else "not asked"]
            continue
        for part in a:
            if part == "headers":
                own = [line for line in a[part] if line not in b[part]]
                others = [line for line in b[part] if line not in a[part]]
                if own or others:
                    found[f"{side} headers"] = [own, others]
            elif a[part] != b[part]:
                found[f"{side} {part}"] = [a[part], b[part]]
    return found


def main():
    envoy, portcullis, listed = sys.argv[1:4]
    origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=origin.serve_forever, daemon=True).start()
    server, agent = agents.serve()
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ports = {name: free_port() for name in ("envoy", "portcullis")}
        places = (origin.server_port, agent)
        (folder / "envoy.json").write_text(
            json.dumps(envoy_configuration(ports["envoy"], *places))
        )
        (folder / "portcullis.kdl").write_text(our_configuration(ports["portcullis"], *places))
        commands = {
            "envoy": [envoy, "--log-level", "error", "--concurrency", "1", "--use-dynamic-base-id",
                      "-c", str(folder / "envoy.json")],
            "portcullis": [portcullis, "run", "--config", str(folder / "portcullis.kdl")],
        }
        try:
            for name, command in commands.items():
                log = (folder / f"{name}.log").open("w")
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
                wait_ready(ports[name], processes[-1])
            found = {}
            for case in CASES:
                views = [ask(ports[name], case) for name in ("envoy", "portcullis")]
                difference = differing(*views)
                if difference:
                    found[f"{case[0]} {case[2]} {case[1]}"] = difference
        finally:
            for process in processes:
                process.kill()
                process.wait()
    server.stop(None)
    return judge(found, pathlib.Path(listed))


def judge(found, listed):
    if "--print" in sys.argv:
        print(json.dumps(found, indent=1))
        return 0
    expected = json.loads(listed.read_text())
    wrong = 0
    for case in sorted(found.keys() | expected.keys()):
        want = expected.get(case, {}).get("differs")
        if found.get(case) != want:
            wrong += 1
            print(f"{case}:\n  found  {json.dumps(found.get(case))}\n  listed {json.dumps(want)}")
    print(f"{len(CASES)} requests, {len(found)} differ, {wrong} of them not as listed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
