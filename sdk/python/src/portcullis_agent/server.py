"""Serving an agent: over a socket that proxies connect to, or over connections
that it makes to a proxy."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from typing import Any, Callable, Coroutine, Dict, List, Optional, Tuple

from .agent import Agent
from .host import Host, ServeOptions, logger
from .session import ReverseSession, Session
from .sockets import SOCKET_VARIABLE, StrPath, bind_socket, socket_from_env
from .tls import Tls, split_address

#: Seconds between two attempts to dial, at most.
_REDIAL = 0.25
#: Seconds after which an agent asks again that was refused.
_REFUSED_PAUSE = 5.0

#: Makes a connection to a proxy.
_Make = Callable[[], Coroutine[Any, Any, ReverseSession]]


def serve(
    agent: Agent,
    socket_path: Optional[StrPath] = None,
    *,
    options: Optional[ServeOptions] = None,
) -> None:
    """Serves an agent until the process gets SIGTERM or SIGINT. Then it accepts
    nothing more, tells the proxies that it drains, finishes the events at hand,
    and returns. To be called from the main thread, where signals are.

    :param socket_path: where to listen; without it the environment says so, in
        ``PORTCULLIS_AGENT_SOCKET``, as a proxy does that starts the agent.
    :raises OSError: when it cannot listen there.
    """
    _run(lambda stop: serve_async(agent, socket_path, options=options, stop=stop))


async def serve_async(
    agent: Agent,
    socket_path: Optional[StrPath] = None,
    *,
    options: Optional[ServeOptions] = None,
    stop: Optional[asyncio.Event] = None,
    ready: Optional[Callable[[], None]] = None,
) -> None:
    """The same for a program that has a loop of its own.

    :param stop: ends it; without one it serves until it is cancelled.
    :param ready: called when proxies can connect.
    """
    path = socket_path if socket_path is not None else socket_from_env()
    if path is None:
        raise ValueError(f"no socket: give a path or set {SOCKET_VARIABLE}")
    host = Host(agent, options or ServeOptions())
    await host.begin()
    listener = bind_socket(path)
    server = await host.loop.create_unix_server(lambda: Session(host), sock=listener)
    logger.info("%s listens at %s", host.capabilities.name, path)
    try:
        if ready is not None:
            ready()
        await (stop or asyncio.Event()).wait()
    finally:
        server.close()
        await host.drain()


def serve_reverse(
    agent: Agent,
    proxy: StrPath,
    *,
    options: Optional[ServeOptions] = None,
    agent_id: Optional[str] = None,
    token: Optional[str] = None,
    metadata: Optional[Dict[str, Any]] = None,
    connections: int = 1,
    tls: Optional[Tls] = None,
) -> None:
    """Serves an agent over connections that it makes to a proxy, until the
    process gets SIGTERM or SIGINT. One that is lost is made again, for ever.

    :param proxy: where the proxy takes agents: the path of its socket, or with
        ``tls`` the address, as in ``"proxy.example.com:9443"``.
    :param agent_id: who the agent says it is; without it its name.
    :param token: by which the proxy knows it, if it asks for one.
    :param metadata: anything that the proxy shall know.
    :param connections: how many there are at a time.
    :param tls: how both ends recognise each other at an address.
    :raises ValueError: when ``proxy`` is no address although there is ``tls``.
    """
    _run(
        lambda stop: serve_reverse_async(
            agent,
            proxy,
            options=options,
            agent_id=agent_id,
            token=token,
            metadata=metadata,
            connections=connections,
            tls=tls,
            stop=stop,
        )
    )


async def serve_reverse_async(
    agent: Agent,
    proxy: StrPath,
    *,
    options: Optional[ServeOptions] = None,
    agent_id: Optional[str] = None,
    token: Optional[str] = None,
    metadata: Optional[Dict[str, Any]] = None,
    connections: int = 1,
    tls: Optional[Tls] = None,
    stop: Optional[asyncio.Event] = None,
) -> None:
    """The same for a program that has a loop of its own."""
    host = Host(agent, options or ServeOptions())
    await host.begin()
    name = agent_id or host.capabilities.name

    def session() -> ReverseSession:
        return ReverseSession(host, name, token, metadata)

    place = os.fspath(proxy)
    make = _over_socket(host, place, session)
    if tls is not None:
        make = _over_tls(host, split_address(place), tls, session)
    dialling = [asyncio.ensure_future(_dial(host, place, make)) for _ in range(connections)]
    try:
        await (stop or asyncio.Event()).wait()
    finally:
        for task in dialling:
            task.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)
        await host.drain()


def _over_socket(host: Host, path: str, session: Callable[[], ReverseSession]) -> _Make:
    async def make() -> ReverseSession:
        return (await host.loop.create_unix_connection(session, path))[1]

    return make


def _over_tls(
    host: Host, address: Tuple[str, int], tls: Tls, session: Callable[[], ReverseSession]
) -> _Make:
    async def make() -> ReverseSession:
        context = await host.loop.run_in_executor(None, tls.context)
        transport, made = await host.loop.create_connection(
            session, *address, ssl=context, server_hostname=tls.server_name or address[0]
        )
        _keep_alive(transport.get_extra_info("socket"))
        return made

    return make


def _keep_alive(connection: Any) -> None:
    """A proxy that is silently gone is noticed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    for name, value in seconds.items():
        # Not every system has all of them.
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _dial(host: Host, place: str, make: _Make) -> None:
    was_there = True
    while True:
        pause = _REDIAL
        try:
            made = await _connect(host, make)
        except OSError as error:
            if was_there:
                logger.warning("the proxy cannot be reached at %s: %s", place, error)
            was_there = False
        else:
            was_there = True
            await asyncio.shield(made.ended)
            if made.refusal is not None:
                logger.error("the proxy at %s refuses the agent: %s", place, made.refusal)
                pause = _REFUSED_PAUSE
            elif made.accepted:
                logger.warning("the connection to the proxy at %s has ended", place)
        # Not all at once after the proxy was away.
        await asyncio.sleep(pause * random.uniform(0.2, 1.0))


# Not `wait_for`, which forgets that it was cancelled when what it waits for is
# done at the same moment (before Python 3.12).
async def _connect(host: Host, make: _Make) -> ReverseSession:
    connecting = host.loop.create_task(make())
    try:
        await asyncio.wait([connecting], timeout=host.options.handshake_timeout)
        if not connecting.done():
            raise TimeoutError("it does not take the connection")
        return connecting.result()
    finally:
        connecting.cancel()


def _run(serving: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    async def until_signal() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        signals: List[int] = [signal.SIGTERM, signal.SIGINT]
        for number in signals:
            loop.add_signal_handler(number, stop.set)
        try:
            await serving(stop)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    asyncio.run(until_signal())
