"""Lets only requests with a valid JSON Web Token pass, and tells the server who
it is from. Needs PyJWT: ``pip install PyJWT`` (Debian: ``python3-jwt``).

    agent "jwt" {
        command "/usr/bin/python3" "/etc/portcullis/agents/jwt_check.py"
        env { PYTHONPATH "/opt/portcullis/sdk/python/src" }
        owns-headers "x-user"
        config {
            secret-file "/run/secrets/jwt"
            issuer "https://login.example.com"
            audience "shop"
        }
    }
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

import jwt
from portcullis_agent import Agent, Decision, RequestHeaders, serve


@dataclass
class Config:
    #: The secret of HS256, in a file that others cannot read. White space at
    #: its ends does not belong to it.
    secret_file: Path
    #: Who may have made the token; without it anybody who knows the secret.
    issuer: Optional[str] = None
    #: For whom it has to be made; without it for nobody in particular.
    audience: Optional[str] = None
    #: Where the server finds the subject of the token. The proxy has to own it
    #: for the agent, or clients could send it to routes without the agent.
    user_header: str = "x-user"
    #: Seconds by which clocks may differ.
    leeway: int = 30

    def __post_init__(self) -> None:
        try:
            self.secret = self.secret_file.read_bytes().strip()
        except OSError as error:
            raise ValueError(f"secret-file: {error}") from None
        if len(self.secret) < 32:
            raise ValueError("secret-file: a secret of HS256 has at least 32 bytes")


class JwtCheck(Agent):
    name = "jwt-check"
    config_type = Config

    async def request_headers(self, event: RequestHeaders) -> Decision:
        config: Config = self.config
        fields = event.headers.get_all("authorization")
        scheme, _, token = fields[0].partition(" ") if fields else ("", "", "")
        # Of two nobody knows which one the server believes.
        if len(fields) != 1 or scheme.lower() != "bearer":
            return refuse("Bearer", "jwt:missing")
        try:
            claims: Dict[str, Any] = jwt.decode(
                token.strip(),
                config.secret,
                # The token must not choose.
                algorithms=["HS256"],
                issuer=config.issuer,
                audience=config.audience,
                leeway=config.leeway,
                options={"require": ["exp", "sub"]},
            )
        except jwt.InvalidTokenError as error:
            return refuse('Bearer error="invalid_token"', f"jwt:{type(error).__name__}")
        return Decision.allow().set_request_header(config.user_header, str(claims["sub"]))


def refuse(challenge: str, reason: str) -> Decision:
    return Decision.block(401).with_header("www-authenticate", challenge).reason(reason)


if __name__ == "__main__":
    serve(JwtCheck(), *sys.argv[1:2])
