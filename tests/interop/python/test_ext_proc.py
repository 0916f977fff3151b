"""An external processor made with a published SDK, unchanged, behind portcullis."""

import http.client
import http.server
import os
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
DEADLINE = 20

CONFIGURATION = """
schema-version "1"
system {{ worker-threads 1 }}
listeners {{ listener "http" {{ address "127.0.0.1:{port}" }} }}
probes {{ address "127.0.0.1:{probes}" }}
routes {{ route "all" {{ filters {{ agent "sdk" }}; upstream "origin" }} }}
upstreams {{ upstream "origin" {{ target "127.0.0.1:{origin}" }} }}
agents {{
    agent "sdk" {{
        grpc "http://127.0.0.1:{agent}"
        dialect "ext-proc"
        timeout "5s"
        inspect {{
            request-headers
            request-body "buffer"
            response-headers
            response-body "buffer"
        }}
        ext-proc {{ header-encoding "string" }}
    }}
}}
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = []

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        Origin.seen.append((self.headers, body))
        self.send_response(200)
        self.send_header("content-length", "8")
        self.end_headers()
        self.wfile.write(b"original")

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # Many connect at once.
    request_queue_size = 128


class ExtProc(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.origin = Server(("127.0.0.1", 0), Origin)
        threading.Thread(target=cls.origin.serve_forever, daemon=True).start()
        cls.processes = []
        agent = cls.start([sys.executable, str(HERE / "ext_proc_agent.py")])
        cls.port, cls.probes = free_port(), free_port()
        configuration = CONFIGURATION.format(
            port=cls.port,
            probes=cls.probes,
            origin=cls.origin.server_port,
            agent=int(agent.stdout.readline()),
        )
        path = Path(cls.folder.name) / "portcullis.kdl"
        path.write_text(configuration)
        with open(Path(cls.folder.name) / "log", "w") as log:
            cls.start([PORTCULLIS, "run", "-c", str(path)], log)
        cls.wait_ready()

    @classmethod
    def start(cls, command, output=subprocess.PIPE):
        errors = None if output is subprocess.PIPE else output
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors, text=True)
        cls.processes.append(process)
        return process

    @classmethod
    def wait_ready(cls):
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                if cls.get(cls.probes, "/readyz").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError("not ready")

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

    @staticmethod
    def get(port, path, headers=None, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        connection.request("POST" if body is not None else "GET", path, body, headers or {})
        response = connection.getresponse()
        response.text = response.read()
        connection.close()
        return response

    def ask(self, path, headers=None, body=None):
        Origin.seen.clear()
        return self.get(self.port, path, headers, body)

    def test_headers(self):
        response = self.ask("/headers?q=1", {"X-Test": "Value", "X-Secret": "s"})
        self.assertEqual((response.status, response.text), (200, b"original"))
        self.assertEqual(response.headers["x-agent-status"], "200")
        (headers, _), = Origin.seen
        self.assertEqual(headers["x-agent-path"], "/headers?q=1")
        self.assertEqual(headers["x-agent-method"], "GET")
        self.assertEqual(headers["x-agent-test"], "Value")
        self.assertNotIn("x-secret", headers)
        self.assertNotIn("x-agent-body", headers)

    def test_a_body_that_is_buffered_and_passes(self):
        text = b"x" * 200_000
        self.assertEqual(self.ask("/pass", body=text).status, 200)
        (headers, body), = Origin.seen
        self.assertEqual(body, text)
        self.assertEqual(headers["x-agent-body"], "200000 True")

    def test_a_body_that_is_replaced(self):
        self.assertEqual(self.ask("/replace", body=b"words").status, 200)
        (headers, body), = Origin.seen
        self.assertEqual(body, b"WORDS replaced")
        self.assertEqual(headers["content-length"], str(len(body)))

    def test_a_body_of_a_response_that_is_replaced(self):
        response = self.ask("/response")
        self.assertEqual((response.status, response.text), (200, b"another response"))
        self.assertEqual(self.ask("/clear").text, b"")

    def test_a_block(self):
        response = self.ask("/block")
        self.assertEqual((response.status, response.text), (403, b"not here\n"))
        self.assertEqual(response.headers["x-why"], "policy")
        self.assertEqual(Origin.seen, [])

    def test_a_redirect(self):
        response = self.ask("/redirect")
        self.assertEqual(response.status, 302)
        self.assertEqual(response.headers["location"], "https://example.com/login")
        self.assertEqual(Origin.seen, [])

    def test_nothing_is_left_of_many_requests(self):
        statuses = []
        ask = lambda: statuses.append(self.get(self.port, "/many", body=b"x").status)
        threads = [threading.Thread(target=ask) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(statuses, [200] * 50)
        gauge = 'portcullis_agent_streams{agent="sdk"} 0'
        end = time.monotonic() + DEADLINE
        while gauge not in self.get(self.probes, "/metrics").text.decode():
            self.assertLess(time.monotonic(), end, "streams are left")
            time.sleep(0.02)


if __name__ == "__main__":
    unittest.main()
