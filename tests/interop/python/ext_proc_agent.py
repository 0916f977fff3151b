"""An external processor made with the published SDK `envoy-extproc-sdk`, which reads and writes `value` of headers alone, as
agents did before there was `raw_value`. The path of a request says what becomes of it."""

import asyncio
import importlib
import os
import sys
import types

os.environ.setdefault("DD_TRACE_ENABLED", "false")


def names_of_health_checks():
    """The SDK is published without the code for health checks that its image has; it is the same under another name."""
    for name in ["grpc_health_check", "grpc_health_check.v1"]:
        sys.modules[name] = types.ModuleType(name)
    for name in ["health_pb2", "health_pb2_grpc"]:
        sys.modules[f"grpc_health_check.v1.{name}"] = importlib.import_module(f"grpc_health.v1.{name}")


names_of_health_checks()

from envoy_extproc_sdk import BaseExtProcService, StopRequestProcessing  # noqa: E402
from envoy_extproc_sdk.util.envoy import (  # noqa: E402
    EnvoyExtProcServicer,
    add_ExternalProcessorServicer_to_server,
)
from grpc.aio import server as aio_server  # noqa: E402


class Processor(BaseExtProcService):
    async def process_request_headers(self, headers, context, request, response):
        path = request["path"]
        if path == "/block":
            raise StopRequestProcessing(
                self.form_immediate_response(403, {"x-why": "policy"}, b"not here\n"), "policy"
            )
        if path == "/redirect":
            raise StopRequestProcessing(
                self.form_immediate_response(302, {"location": "https://example.com/login"}, b"")
            )
        self.add_header(response, "x-agent-path", path)
        self.add_header(response, "x-agent-method", request["method"])
        self.add_header(response, "x-agent-test", self.get_header(headers, "x-test") or "unseen")
        self.remove_header(response, "x-secret")
        return response

    async def process_request_body(self, body, context, request, response):
        if request["path"] == "/replace":
            response.body_mutation.body = body.body.upper() + b" replaced"
        self.add_header(response, "x-agent-body", f"{len(body.body)} {body.end_of_stream}")
        return response

    async def process_response_headers(self, headers, context, request, response):
        self.add_header(response, "x-agent-status", self.get_header(headers, ":status") or "unseen")
        return response

    async def process_response_body(self, body, context, request, response):
        if request["path"] == "/response":
            response.body_mutation.body = b"another response"
        if request["path"] == "/clear":
            response.body_mutation.clear_body = True
        return response


async def main():
    assert issubclass(Processor, EnvoyExtProcServicer)
    server = aio_server()
    add_ExternalProcessorServicer_to_server(Processor(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    # The end of whoever started it.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
