"""A browser on the sample config/static.kdl, over TLS: Chromium loads the page, its style sheet and its script over HTTP/2."""

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).parents[3]
PORTCULLIS = os.environ.get("PORTCULLIS", str(ROOT / "target" / "debug" / "portcullis"))
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
DEADLINE = 60


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def certificate(folder):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )


def configuration(folder, port):
    """The sample with TLS, on a free port, and with a log."""
    text = (ROOT / "config" / "static.kdl").read_text()
    listener = 'listener "http" { address "127.0.0.1:8080"; h2c }'
    tls = f'tls {{ certificate "{folder}/cert.pem" key="{folder}/key.pem" }}'
    assert listener in text, "the sample has another listener"
    text = text.replace(listener, f'listener "https" {{ address "127.0.0.1:{port}"; {tls} }}')
    text = text.replace('static "site"', f'static "{ROOT / "config" / "site"}"')
    return text + f'\nobservability {{ access-log "{folder}/access.log" format="json" }}\n'


class Browser(unittest.TestCase):
    def setUp(self):
        self.assertIsNotNone(CHROMIUM, "chromium is missing: scripts/ensure-tools.sh chromium")
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, True)
        certificate(self.folder)
        self.port = free_port()
        (self.folder / "static.kdl").write_text(configuration(self.folder, self.port))
        self.proxy = subprocess.Popen([PORTCULLIS, "run", "-c", str(self.folder / "static.kdl")])
        self.addCleanup(self.proxy.wait)
        self.addCleanup(self.proxy.kill)
        until = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                self.assertLess(time.monotonic(), until, "the proxy does not listen")
                time.sleep(0.05)

    def load(self, path):
        page = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
             "--ignore-certificate-errors", f"--user-data-dir={self.folder}/profile", "--virtual-time-budget=5000",
             "--dump-dom", f"https://localhost:{self.port}{path}"],
            check=True, capture_output=True, text=True, timeout=DEADLINE, env={**os.environ, "HOME": str(self.folder)},
        )
        return page.stdout

    def lines(self, wanted):
        """The lines of the access log about these paths, when all are there."""
        until = time.monotonic() + DEADLINE
        while True:
            log = self.folder / "access.log"
            text = log.read_text() if log.exists() else ""
            found = {}
            for line in text.splitlines():
                if line.endswith("}"):
                    line = json.loads(line)
                    found[line["path"]] = line
            if wanted <= found.keys():
                return found
            self.assertLess(time.monotonic(), until, f"only {sorted(found)}")
            time.sleep(0.05)

    def test_the_sample_is_loaded_over_http2(self):
        # The application in the browser says where it is, so its script was loaded and run.
        page = self.load("/guide/first-steps")
        self.assertIsNotNone(re.search(r"You are at /guide/first-steps\.", page), page)
        paths = {"/guide/first-steps", "/assets/style.css", "/assets/app.js"}
        found = self.lines(paths)
        for path in paths:
            self.assertEqual((found[path]["status"], found[path]["protocol"]), (200, "HTTP/2"), path)


if __name__ == "__main__":
    unittest.main()
