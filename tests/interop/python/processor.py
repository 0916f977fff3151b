"""An external processor on the types that Envoy publishes. What it does is the last segment of the request's path."""

import sys
import time
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.ext_proc.v3 import external_processor_pb2 as proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as proc_grpc
from envoy.type.v3 import http_status_pb2 as status

# Longer than either proxy waits.
TOO_LONG = 2.0


def option(name, value, append=None, action=None, raw=True):
    made = core.HeaderValueOption(header=core.HeaderValue(key=name))
    if raw:
        made.header.raw_value = value.encode()
    else:
        made.header.value = value
    if append is not None:
        made.append.value = append
    if action is not None:
        made.append_action = action
    return made


# What is set on the head of the request.
SETS = {
    "set": option("x-user", "alice"),
    "set-over": option("x-client", "agent"),
    "set-value-only": option("x-user", "alice", raw=False),
    "append": option("x-client", "agent", append=True),
    "append-new": option("x-user", "alice", append=True),
    "if-absent": option("x-client", "agent", action=1),
    "if-exists": option("x-user", "agent", action=3),
    "set-host": option("host", "evil.example.com"),
    "set-method": option(":method", "DELETE"),
    "set-envoy": option("x-envoy-agent", "yes"),
}


def immediate(code, body, headers=(), details=""):
    made = proc.ProcessingResponse()
    answer = made.immediate_response
    answer.status.CopyFrom(status.HttpStatus(code=code))
    answer.body = body.encode()
    answer.details = details
    answer.headers.set_headers.extend(option(name, value) for name, value in headers)
    return made


class Processor(proc_grpc.ExternalProcessorServicer):
    def Process(self, messages, context):
        name = ""
        for message in messages:
            kind = message.WhichOneof("request")
            if kind == "request_headers":
                headers = message.request_headers.headers.headers
                path = next(it.raw_value for it in headers if it.key == ":path")
                name = path.decode().split("?")[0].rsplit("/", 1)[-1]
            answer = getattr(self, kind)(name, context)
            if answer is None:
                return
            yield answer

    def request_headers(self, name, context):
        if name == "block":
            return immediate(403, "blocked\n", [("x-why", "policy")], "blocked by test")
        if name == "block-204":
            return immediate(204, "")
        if name == "redirect":
            return immediate(302, "", [("location", "https://login.example.com/")])
        if name == "close":
            return None
        if name == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        if name == "slow":
            time.sleep(TOO_LONG)
        made = proc.ProcessingResponse()
        if name == "wrong-kind":
            made.response_headers.SetInParent()
            return made
        common = made.request_headers.response
        common.SetInParent()
        if name in SETS:
            common.header_mutation.set_headers.append(SETS[name])
        if name in ("remove", "remove-host"):
            common.header_mutation.remove_headers.append("host" if name == "remove-host" else "x-client")
        return made

    def response_headers(self, name, _context):
        if name == "response-block":
            return immediate(451, "not here\n")
        made = proc.ProcessingResponse()
        common = made.response_headers.response
        common.SetInParent()
        if name == "response-set":
            common.header_mutation.set_headers.append(option("x-seen", "yes"))
        if name == "response-remove":
            common.header_mutation.remove_headers.append("x-origin")
        return made

    def request_body(self, name, _context):
        if name == "body-block":
            return immediate(422, "no such body\n")
        made = proc.ProcessingResponse()
        common = made.request_body.response
        common.SetInParent()
        if name == "body-replace":
            common.body_mutation.body = b"replaced by the agent"
        if name == "body-clear":
            common.body_mutation.clear_body = True
        return made

    def response_body(self, name, _context):
        if name == "response-body-block":
            return immediate(502, "no such answer\n")
        made = proc.ProcessingResponse()
        common = made.response_body.response
        common.SetInParent()
        if name == "response-body-replace":
            common.body_mutation.body = b"another body\n"
        return made


if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    proc_grpc.add_ExternalProcessorServicer_to_server(Processor(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # Until whoever started it is gone.
    sys.stdin.read()
