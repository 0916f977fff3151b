r"""Replaces in bodies what a regular expression matches, also where a match lies
across the border of two pieces.

    agent "redact" {
        command "/usr/bin/python3" "/etc/portcullis/agents/body_redaction.py"
        env { PYTHONPATH "/opt/portcullis/sdk/python/src" }
        inspect { response-body "stream" }
        config {
            pattern #"\b\d{16}\b"#
            replacement "[card]"
        }
    }

Of a body is held back what the beginning of a match could be, at most
``max-match`` bytes and one more. A match that is longer than that may be
replaced in part.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from portcullis_agent import Agent, BodyChunk, ConfigError, Decision, PerRequest, serve


@dataclass
class Config:
    #: On bytes: ``\w`` and ``\b`` know ASCII.
    pattern: str
    replacement: str = ""
    #: The longest match, in bytes.
    max_match: int = 256

    def __post_init__(self) -> None:
        try:
            self.expression = re.compile(self.pattern.encode())
        except re.error as error:
            raise ConfigError(f"config.pattern: {error}") from None
        if self.expression.search(b""):
            raise ConfigError("config.pattern matches where nothing is")
        if not 1 <= self.max_match <= 65536:
            raise ConfigError("config.max-match is not within 1 and 65536")


class Redactor:
    """What is kept of one body between its pieces."""

    def __init__(self) -> None:
        self._kept = b""
        #: How many bytes at its beginning have gone on already. They are there
        #: because whether a word begins depends on what is before it.
        self._passed = 0

    def feed(self, config: Config, data: bytes, is_last: bool) -> bytes:
        """What goes on in the place of this piece."""
        text = self._kept + data
        # What begins before here can be seen whole, and what follows it.
        certain = len(text) if is_last else max(len(text) - config.max_match - 1, self._passed)
        out, at = [], self._passed
        for match in config.expression.finditer(text, at):
            if match.start() >= certain:
                break
            out += [text[at : match.start()], config.replacement.encode()]
            at = match.end()
        if at < certain:
            out.append(text[at:certain])
            at = certain
        self._passed = min(at, 1)
        self._kept = text[at - self._passed :]
        return b"".join(out)


class BodyRedaction(Agent):
    name = "body-redaction"
    config_type = Config

    def __init__(self) -> None:
        self._requests = PerRequest(Redactor)
        self._responses = PerRequest(Redactor)

    async def request_body_chunk(self, event: BodyChunk) -> Decision:
        data = self._redact(self._requests, event)
        return (
            Decision.allow() if data == event.data else Decision.allow().replace_request_body(data)
        )

    async def response_body_chunk(self, event: BodyChunk) -> Decision:
        data = self._redact(self._responses, event)
        return (
            Decision.allow() if data == event.data else Decision.allow().replace_response_body(data)
        )

    def _redact(self, bodies: PerRequest[Redactor], event: BodyChunk) -> bytes:
        # Not the beginning of a body whose first pieces went elsewhere.
        find = bodies.begin if event.index == 0 else bodies.find
        data = find(event.correlation_id).feed(self.config, event.data, event.is_last)
        if event.is_last:
            bodies.end(event.correlation_id)
        return data


if __name__ == "__main__":
    serve(BodyRedaction(), *sys.argv[1:2])
