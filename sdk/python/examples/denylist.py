"""Blocks requests by path, user agent and address of the client.

agent "denylist" {
    command "/usr/bin/python3" "/etc/portcullis/agents/denylist.py"
    env { PYTHONPATH "/opt/portcullis/sdk/python/src" }
    config {
        paths "/admin" "/.git/config"
        user-agents "sqlmap" "nikto"
        client-networks "198.51.100.0/24"
    }
}
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import List

from portcullis_agent import Agent, Decision, RequestHeaders, serve


@dataclass
class Config:
    #: Whole paths, as the proxy writes them.
    paths: List[str] = field(default_factory=list)
    #: Parts of user agents, in any case.
    user_agents: List[str] = field(default_factory=list)
    #: As in ``198.51.100.0/24``.
    client_networks: List[str] = field(default_factory=list)
    #: Of the refusal.
    status: int = 403

    def __post_init__(self) -> None:
        # What is wrong here is an error of the configuration.
        self.networks = [ip_network(network) for network in self.client_networks]
        self.user_agents = [part.lower() for part in self.user_agents]


class Denylist(Agent):
    name = "denylist"
    config_type = Config

    async def request_headers(self, event: RequestHeaders) -> Decision:
        # Once, because another configuration can come at any time.
        config: Config = self.config
        if event.path in config.paths:
            return Decision.block(config.status).reason(f"path:{event.path}")
        # All of them: a second one must not hide the first.
        for user_agent in event.headers.get_all("user-agent"):
            for part in config.user_agents:
                if part in user_agent.lower():
                    return Decision.block(config.status).reason(f"user-agent:{part}")
        for network in config.networks:
            if event.metadata.client_ip in network:
                return Decision.block(config.status).reason(f"client:{network}")
        return Decision.allow()


if __name__ == "__main__":
    serve(Denylist(), *sys.argv[1:2])
