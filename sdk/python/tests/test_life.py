"""Agents as processes: how they begin and how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from portcullis_agent import Decision
from portcullis_agent.codec.frame import MessageType
from portcullis_agent.testing import Proxy, request_headers

SOURCES = Path(__file__).resolve().parents[1] / "src"

PROGRAM = """
import asyncio, sys, time
from portcullis_agent import Agent, Decision, serve

class Slow(Agent):
    KIND request_headers(self, event):
        SLEEP
        return Decision.allow().tag("late")

serve(Slow(), *sys.argv[1:])
"""
IN_A_THREAD = PROGRAM.replace("KIND", "def").replace("SLEEP", "time.sleep(float(event.query))")
ON_THE_LOOP = PROGRAM.replace("KIND", "async def").replace(
    "SLEEP", "await asyncio.sleep(float(event.query))"
)
PROGRAMS = pytest.mark.parametrize("program", [IN_A_THREAD, ON_THE_LOOP], ids=["thread", "loop"])


@pytest.fixture
def start(tmp_path, eventually):
    """Starts a program as a proxy does: its environment names the socket."""
    started = []

    def begin(program, *arguments):
        path = tmp_path / "agent.sock"
        environment = {"PYTHONPATH": str(SOURCES), "PORTCULLIS_AGENT_SOCKET": str(path)}
        command = [sys.executable, "-c", program, *arguments]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        started.append(process)
        eventually(lambda: path.exists() or process.poll() is not None)
        return process, path

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


@PROGRAMS
def test_sigterm_answers_what_is_under_way_and_then_ends(start, program):
    process, path = start(program)
    with Proxy.connect(path) as proxy:
        number = proxy.begin(request_headers("/?0.5"))
        proxy.send(MessageType.PING, b'{"sequence":1}')
        proxy.receive(MessageType.PONG)
        process.send_signal(signal.SIGTERM)
        # It says that it drains, and still takes what was on its way.
        assert json.loads(proxy.receive(MessageType.HEALTH_STATUS))["state"] == 3
        other = proxy.begin(request_headers("/?0"))
        late = Decision.allow().tag("late")
        assert [proxy.answer() for _ in range(2)] == [(other, late), (number, late)]
        with pytest.raises(ConnectionError):
            proxy.receive_any()
    assert process.wait(10) == 0
    assert process.stderr.read() == b""
    with socket.socket(socket.AF_UNIX) as late_proxy, pytest.raises(ConnectionRefusedError):
        late_proxy.connect(str(path))


def test_sigint_ends_it_too(start):
    process, _ = start(ON_THE_LOOP)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


@PROGRAMS
def test_a_handler_that_never_returns_does_not_keep_it(start, program):
    options = "options=ServeOptions(drain_timeout=0.3)"
    program = program.replace("*sys.argv[1:]", options).replace(
        "import Agent", "import ServeOptions, Agent"
    )
    process, path = start(program)
    with Proxy.connect(path) as proxy:
        proxy.begin(request_headers("/?3600"))
        proxy.send(MessageType.PING, b'{"sequence":1}')
        proxy.receive(MessageType.PONG)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert b"did not finish" in process.stderr.read()
        # No answer, and above all no allow.
        proxy.receive(MessageType.HEALTH_STATUS)
        with pytest.raises(ConnectionError):
            proxy.receive_any()


def test_without_a_socket_it_says_what_to_do():
    program = ON_THE_LOOP
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCES)}, stderr=subprocess.PIPE
    )
    assert done.returncode != 0
    assert b"give a path or set PORTCULLIS_AGENT_SOCKET" in done.stderr


def test_a_path_goes_before_the_environment(start, tmp_path, eventually):
    other = tmp_path / "other.sock"
    program = ON_THE_LOOP.replace("*sys.argv[1:]", repr(os.fspath(other)))
    # The fixture waits for this one.
    named = os.fspath(tmp_path / "agent.sock")
    _, path = start(f"open({named!r}, 'w').close()\n{program}")
    eventually(other.is_socket)
    assert path.is_file()
    Proxy.connect(other).close()


def test_an_open_connection_does_not_keep_it(start):
    process, path = start(ON_THE_LOOP)
    # One that has shaken hands and one that has not.
    with Proxy.connect(path), socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
