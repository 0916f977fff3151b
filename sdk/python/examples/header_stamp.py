"""Sets and removes headers of requests and responses.

agent "stamp" {
    command "/usr/bin/python3" "/etc/portcullis/agents/header_stamp.py"
    env { PYTHONPATH "/opt/portcullis/sdk/python/src" }
    config {
        request { x-edge "eu-1" }
        response { x-frame-options "DENY" }
        remove-from-response "server" "x-powered-by"
    }
}
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Dict, List

from portcullis_agent import Agent, Decision, RequestHeaders, serve


@dataclass
class Config:
    request: Dict[str, str] = field(default_factory=dict)
    response: Dict[str, str] = field(default_factory=dict)
    remove_from_request: List[str] = field(default_factory=list)
    remove_from_response: List[str] = field(default_factory=list)


class HeaderStamp(Agent):
    name = "header-stamp"
    config_type = Config

    async def request_headers(self, event: RequestHeaders) -> Decision:
        config: Config = self.config
        decision = Decision.allow().set_request_header("x-stamped-for", event.metadata.request_id)
        for name in config.remove_from_request:
            decision.remove_request_header(name)
        for name, value in config.request.items():
            decision.set_request_header(name, value)
        # What is said of the response here waits until there is one, so that
        # the agent need not be asked again.
        for name in config.remove_from_response:
            decision.remove_response_header(name)
        for name, value in config.response.items():
            decision.set_response_header(name, value)
        return decision


if __name__ == "__main__":
    serve(HeaderStamp(), *sys.argv[1:2])
