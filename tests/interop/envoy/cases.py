"""The requests that are sent to both proxies, and in what their answers differ on purpose."""

PLAIN = {"x-client": "client"}


def get(kind, name, headers=PLAIN):
    return (kind, name, "GET", headers, None)


def post(kind, name, body=b"a body of the client", headers=PLAIN):
    return (kind, name, "POST", headers, body)


# Who is asked, the last segment of the path, method, headers, body.
CASES = [
    get("authz", "allow"),
    post("authz", "allow"),
    get("authz", "allow?a=1&b=2"),
    get("authz", "deny"),
    get("authz", "deny-401"),
    get("authz", "deny-plain"),
    get("authz", "deny-redirect"),
    get("authz", "deny-503"),
    get("authz", "set"),
    get("authz", "set", {**PLAIN, "x-user": "mallory"}),
    get("authz", "set-over"),
    get("authz", "append"),
    get("authz", "remove"),
    get("authz", "add-to-response"),
    get("authz", "set-host"),
    get("authz", "set-method"),
    post("authz", "set-length"),
    get("authz", "unauthenticated"),
    get("authz", "broken"),
    get("authz", "slow"),
    get("proc", "allow"),
    post("proc", "allow"),
    get("proc", "set"),
    get("proc", "set-over"),
    get("proc", "set-value-only"),
    get("proc", "append"),
    get("proc", "if-absent"),
    get("proc", "if-exists"),
    get("proc", "remove"),
    get("proc", "remove-host"),
    get("proc", "set-host"),
    get("proc", "set-method"),
    get("proc", "block"),
    get("proc", "redirect"),
    get("proc", "response-set"),
    get("proc", "response-remove"),
    get("proc", "response-block"),
    get("proc", "wrong-kind"),
    get("proc", "close"),
    get("proc", "broken"),
    get("proc", "slow"),
    post("body", "allow"),
    post("body", "body-replace"),
    post("body", "body-clear"),
    post("body", "body-block"),
    get("body", "response-body-replace"),
]
