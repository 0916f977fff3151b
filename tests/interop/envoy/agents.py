"""Two agents as Envoy knows them, in one server. What they do is written in the path of the request."""

import time
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2 as core
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as auth_grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc as proc_grpc
from envoy.type.v3 import http_status_pb2 as status
from google.rpc import code_pb2

# More than either proxy waits.
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


class Authorizer(auth_grpc.AuthorizationServicer):
    """Answers by the last segment of the path."""

    def Check(self, request, context):
        http = request.attributes.request.http
        name = http.path.split("?")[0].rsplit("/", 1)[-1]
        answer = auth.CheckResponse()
        ok = answer.ok_response
        denied = answer.denied_response

        def deny(code=None, body="", headers=(), rpc=code_pb2.PERMISSION_DENIED):
            answer.status.code = rpc
            if code is not None:
                denied.status.code = code
            denied.body = body
            denied.headers.extend(option(k, v, raw=False) for k, v in headers)

        if name == "deny":
            deny(403, "denied\n", [("x-why", "policy")])
        elif name == "deny-401":
            deny(401, "who are you\n", [("www-authenticate", "Basic")], code_pb2.UNAUTHENTICATED)
        elif name == "deny-plain":
            answer.status.code = code_pb2.PERMISSION_DENIED
        elif name == "deny-redirect":
            deny(302, "", [("location", "https://login.example.com/")])
        elif name == "deny-503":
            deny(503, "later\n")
        elif name == "set":
            ok.headers.append(option("x-user", "alice", raw=False))
        elif name == "set-over":
            ok.headers.append(option("x-client", "agent", raw=False))
        elif name == "append":
            ok.headers.append(option("x-client", "agent", append=True, raw=False))
        elif name == "remove":
            ok.headers_to_remove.append("x-client")
        elif name == "add-to-response":
            ok.response_headers_to_add.append(option("x-seen", "yes", raw=False))
        elif name == "set-host":
            ok.headers.append(option("host", "evil.example.com", raw=False))
        elif name == "set-method":
            ok.headers.append(option(":method", "DELETE", raw=False))
        elif name == "set-length":
            ok.headers.append(option("content-length", "7", raw=False))
        elif name == "unauthenticated":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        elif name == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        elif name == "slow":
            time.sleep(TOO_LONG)
        if answer.status.code == 0 and not answer.HasField("ok_response"):
            ok.SetInParent()
        return answer


class Processor(proc_grpc.ExternalProcessorServicer):
    """Answers by the last segment of the path of the request, in the phase that the segment begins with."""

    def Process(self, messages, context):
        name = ""
        for message in messages:
            kind = message.WhichOneof("request")
            if kind == "request_headers":
                headers = message.request_headers.headers.headers
                path = next(h.raw_value or h.value.encode() for h in headers if h.key == ":path")
                name = path.decode().split("?")[0].rsplit("/", 1)[-1]
            answer = self.answer(name, kind, message, context)
            if answer is None:
                return
            yield answer

    def answer(self, name, kind, message, context):
        made = proc.ProcessingResponse()
        if kind == "request_headers":
            return self.head(name, made, context)
        if kind == "response_headers":
            common = made.response_headers.response
            if name == "response-set":
                common.header_mutation.set_headers.append(option("x-seen", "yes"))
            elif name == "response-remove":
                common.header_mutation.remove_headers.append("x-origin")
            elif name == "response-block":
                made = immediate(451, "not here\n")
            common.SetInParent()
            return made
        if kind == "request_body":
            common = made.request_body.response
            if name == "body-replace":
                common.body_mutation.body = b"replaced by the agent"
            elif name == "body-clear":
                common.body_mutation.clear_body = True
            elif name == "body-block":
                return immediate(413, "no such body\n")
            common.SetInParent()
            return made
        if kind == "response_body":
            common = made.response_body.response
            if name == "response-body-replace":
                common.body_mutation.body = b"another body\n"
            common.SetInParent()
            return made
        return made

    def head(self, name, made, context):
        common = made.request_headers.response
        mutation = common.header_mutation
        if name == "set":
            mutation.set_headers.append(option("x-user", "alice"))
        elif name == "set-over":
            mutation.set_headers.append(option("x-client", "agent"))
        elif name == "set-value-only":
            mutation.set_headers.append(option("x-user", "alice", raw=False))
        elif name == "append":
            mutation.set_headers.append(option("x-client", "agent", append=True))
        elif name == "if-absent":
            mutation.set_headers.append(option("x-client", "agent", action=1))
        elif name == "if-exists":
            mutation.set_headers.append(option("x-user", "agent", action=3))
        elif name == "remove":
            mutation.remove_headers.append("x-client")
        elif name == "remove-host":
            mutation.remove_headers.append("host")
        elif name == "set-host":
            mutation.set_headers.append(option("host", "evil.example.com"))
        elif name == "set-method":
            mutation.set_headers.append(option(":method", "DELETE"))
        elif name == "block":
            return immediate(403, "blocked\n", [("x-why", "policy")], "blocked by test")
        elif name == "redirect":
            return immediate(302, "", [("location", "https://login.example.com/")])
        elif name == "wrong-kind":
            made.response_headers.SetInParent()
            return made
        elif name == "close":
            return None
        elif name == "broken":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        elif name == "slow":
            time.sleep(TOO_LONG)
        common.SetInParent()
        return made


def immediate(code, body, headers=(), details=""):
    made = proc.ProcessingResponse()
    answer = made.immediate_response
    answer.status.CopyFrom(status.HttpStatus(code=code))
    answer.body = body.encode()
    answer.details = details
    answer.headers.set_headers.extend(option(k, v) for k, v in headers)
    return made


def serve():
    """Starts the server; returns it with its port."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    auth_grpc.add_AuthorizationServicer_to_server(Authorizer(), server)
    proc_grpc.add_ExternalProcessorServicer_to_server(Processor(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port
