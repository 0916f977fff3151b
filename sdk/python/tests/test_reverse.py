"""Agents that dial the proxy."""

import asyncio
import contextlib
import json
import pathlib
import socket
import ssl
import threading

import pytest

from portcullis_agent import Agent, Decision, Extensions, ServeOptions, Tls, bind_socket
from portcullis_agent import serve_reverse_async as serve
from portcullis_agent.codec.frame import MessageType
from portcullis_agent.testing import Proxy, request_headers


class Echo(Agent):
    def request_headers(self, event):
        return Decision.allow().tag(event.path)


@contextlib.contextmanager
def dialling(path, **arguments):
    """The agent dials this path, in a thread."""
    started = threading.Event()
    state = {}

    async def run():
        state.update(loop=asyncio.get_running_loop(), stop=asyncio.Event())
        started.set()
        await serve(Echo(), path, stop=state["stop"], **arguments)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(10)

    def stop():
        # The loop may have ended by itself in this moment.
        with contextlib.suppress(RuntimeError):
            state["loop"].call_soon_threadsafe(state["stop"].set)

    try:
        yield stop
    finally:
        stop()
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "proxy.sock"


@pytest.fixture
def listener(path):
    with bind_socket(path) as listener:
        listener.settimeout(10)
        yield listener


def accept(listener, agreed=None, **answer):
    connection, _ = listener.accept()
    connection.settimeout(10)
    proxy = Proxy(connection, agreed or Extensions.none())
    registration = json.loads(proxy.receive(MessageType.HANDSHAKE_REQUEST))
    whole = {
        "success": True,
        "error": None,
        "proxy_id": "p",
        "proxy_version": "1",
        "connection_id": "waf-1-1",
        **answer,
    }
    proxy.send(MessageType.HANDSHAKE_RESPONSE, json.dumps(whole).encode())
    return proxy, registration


def test_it_registers_and_is_asked(listener, path):
    with dialling(path, agent_id="waf-1", token="secret", metadata={"zone": "a"}) as stop:
        proxy, registration = accept(listener)
        capabilities = registration.pop("capabilities")
        assert capabilities["agent_id"] == "echo"
        assert capabilities["supported_events"] == [1]
        assert registration == {
            "protocol_version": 2,
            "agent_id": "waf-1",
            "auth_token": "secret",
            "metadata": {"zone": "a"},
            "extensions": Extensions.all().names,
        }
        with proxy:
            assert proxy.ask(request_headers("/a")) == Decision.allow().tag("/a")
            proxy.configure({})
            stop()
            assert json.loads(proxy.receive(MessageType.HEALTH_STATUS))["state"] == 3
            with pytest.raises(ConnectionError):
                proxy.receive_any()


def test_extensions_are_chosen_by_the_proxy(listener, path):
    for chosen in (Extensions.all(), Extensions(event_id=True)):
        with dialling(path):
            proxy, _ = accept(listener, chosen, extensions=chosen.names)
            with proxy:
                assert proxy.ask(request_headers("/a")) == Decision.allow().tag("/a")
    with dialling(path, options=ServeOptions(extensions=Extensions(error=True))):
        proxy, _ = accept(listener, extensions=["binary"])
        # What was not offered.
        with proxy, pytest.raises(ConnectionError):
            proxy.receive_any()


def test_it_dials_again_when_the_connection_is_lost_and_when_nobody_was_there(path):
    with dialling(path):
        for _ in range(2):
            with bind_socket(path) as listener:
                listener.settimeout(10)
                for _ in range(2):
                    proxy, _ = accept(listener)
                    with proxy:
                        assert proxy.ask(request_headers("/a")).is_allow


def test_several_connections(listener, path):
    with dialling(path, connections=3):
        proxies = [accept(listener)[0] for _ in range(3)]
        for proxy in proxies:
            assert proxy.ask(request_headers("/a")).is_allow
        for proxy in proxies:
            proxy.close()


def test_a_refusal_is_not_used_and_said(listener, path, caplog, eventually):
    with dialling(path):
        proxy, _ = accept(listener, success=False, error="unknown token")
        with proxy, pytest.raises(ConnectionError):
            proxy.receive_any()
        eventually(lambda: "unknown token" in caplog.text)


def test_events_before_the_answer_end_the_connection(listener, path):
    with dialling(path):
        connection, _ = listener.accept()
        connection.settimeout(10)
        with Proxy(connection, Extensions.none()) as proxy:
            proxy.receive(MessageType.HANDSHAKE_REQUEST)
            proxy.begin(request_headers("/"))
            with pytest.raises(ConnectionError):
                proxy.receive_any()


FILES = pathlib.Path(__file__).parents[3] / "tests" / "fixtures" / "tls"
SHOWN = Tls(
    ca=FILES / "ca.pem",
    certificate=FILES / "agent.pem",
    key=FILES / "agent.key",
    server_name="proxy.test",
)


@pytest.fixture
def tls_listener():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FILES / "proxy.pem", FILES / "proxy.key")
    context.load_verify_locations(FILES / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        with context.wrap_socket(listener, server_side=True) as listener:
            yield listener


def at(listener):
    return "127.0.0.1:%d" % listener.getsockname()[1]


def test_it_registers_over_tls_and_comes_back(tls_listener):
    # By a name that it is told, and by the address.
    for tls in (SHOWN, Tls(SHOWN.ca, SHOWN.certificate, SHOWN.key)):
        with dialling(at(tls_listener), agent_id="waf-1", token="secret", tls=tls):
            for _ in range(2):
                proxy, registration = accept(tls_listener)
                assert registration["auth_token"] == "secret"
                with proxy:
                    assert proxy.ask(request_headers("/a")) == Decision.allow().tag("/a")
                    long = "/" + "x" * (2 << 20)
                    assert proxy.ask(request_headers(long)) == Decision.allow().tag(long)


def test_it_shows_nothing_to_a_proxy_of_another_name(tls_listener, caplog, eventually):
    for tls in (
        Tls(SHOWN.ca, SHOWN.certificate, SHOWN.key, server_name="another.test"),
        Tls(FILES / "other-ca.pem", SHOWN.certificate, SHOWN.key, server_name="proxy.test"),
    ):
        caplog.clear()
        with dialling(at(tls_listener), tls=tls):
            with pytest.raises(ssl.SSLError):
                tls_listener.accept()
            eventually(lambda: "cannot be reached" in caplog.text)


def test_what_is_no_address_or_no_file_is_said(path):
    with pytest.raises(ValueError, match="not an address"):
        asyncio.run(serve(Echo(), path, tls=SHOWN))
    with pytest.raises(OSError):
        Tls(ca=path).context()
