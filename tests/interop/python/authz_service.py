"""A service of Envoy's external authorization on the published types. The path of a request says what becomes of it."""

import sys
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from envoy.type.v3 import http_status_pb2
from google.rpc import status_pb2


def header(name, value, append=None):
    option = base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value))
    if append is not None:
        option.append.value = append
    return option


def ok(**members):
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=0),
        ok_response=external_auth_pb2.OkHttpResponse(**members),
    )


def denied(status, body="", **members):
    return external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=7, message="denied"),
        denied_response=external_auth_pb2.DeniedHttpResponse(
            status=http_status_pb2.HttpStatus(code=status), body=body, **members
        ),
    )


class Service(external_auth_pb2_grpc.AuthorizationServicer):
    def Check(self, request, context):
        http = request.attributes.request.http
        path = http.path.partition("?")[0]
        if path == "/set":
            return ok(headers=[header("x-auth-user", "ann"), header("x-auth-path", http.path)])
        if path == "/told":
            told = ";".join([http.method, http.host, http.scheme, http.headers.get(":path", "-")])
            return ok(headers=[header("x-auth-told", told)])
        if path == "/context":
            extensions = sorted(request.attributes.context_extensions.items())
            return ok(headers=[header("x-auth-context", repr(extensions))])
        if path == "/body":
            body = http.body or http.raw_body.decode()
            partial = http.headers.get("x-envoy-auth-partial-body", "-")
            return ok(headers=[header("x-auth-body", f"{len(body)} {partial}")])
        if path == "/remove":
            return ok(headers_to_remove=["x-client", "authorization"])
        if path == "/set-and-remove":
            return ok(headers=[header("x-auth-user", "ann")], headers_to_remove=["x-auth-user"])
        if path == "/pseudo":
            return ok(headers=[header("x-auth-user", "ann"), header(":path", "/evil")])
        if path == "/remove-host":
            return ok(headers_to_remove=["host", ":path"])
        if path == "/response":
            return ok(response_headers_to_add=[header("x-from-service", "1", True)])
        if path == "/deny":
            return denied(403, "no\n")
        if path == "/who":
            return denied(401, "who?\n", headers=[header("www-authenticate", "Bearer")])
        if path == "/login":
            return denied(302, headers=[header("location", "/there")])
        if path == "/teapot":
            return denied(418, "short", headers=[header("x-why", "a"), header("content-type", "x/y")])
        if path == "/bare":
            return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=7))
        if path == "/call-denied":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        if path == "/call-internal":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        return ok()


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    # The end of whoever started it.
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
