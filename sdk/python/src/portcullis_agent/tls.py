"""How an agent and a proxy that it dials recognise each other."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import Optional, Tuple

from .sockets import StrPath


@dataclass(frozen=True)
class Tls:
    """Files in PEM, which are read each time that the agent dials, so that new
    ones are taken up."""

    #: The authorities that may have signed the certificate of the proxy;
    #: without it those of the system.
    ca: Optional[StrPath] = None
    #: The agent's certificate, its chain after it, and its key.
    certificate: Optional[StrPath] = None
    key: Optional[StrPath] = None
    #: The name that the proxy's certificate is for; without it the host that
    #: is dialled.
    server_name: Optional[str] = None

    def context(self) -> ssl.SSLContext:
        """Certificate and name of the proxy are always verified.

        :raises OSError: when a file cannot be used; an ``ssl.SSLError`` is one.
        """
        cafile = None if self.ca is None else os.fspath(self.ca)
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=cafile)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


def split_address(address: str) -> Tuple[str, int]:
    """``HOST:PORT``, an IPv6 host in brackets.

    :raises ValueError: when it is something else.
    """
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{address!r} is not an address such as 'proxy.example.com:9443'")
    return host, int(port)
