"""The agents in examples/."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

from portcullis_agent import AgentError, Decision, EventKind
from portcullis_agent.testing import Proxy, body_chunks, request_headers, running, served

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Where a dataclass looks for the types that are named in it.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert names == ["body_redaction", "denylist", "header_stamp", "jwt_check"]


def test_denylist():
    agent = example("denylist").Denylist()
    config = {
        "paths": "/admin",
        "user-agents": ["SqlMap", "nikto"],
        "client-networks": ["198.51.100.0/24", "2001:db8::/32"],
        "status": 451,
    }
    with running(agent, config) as proxy:
        two = {"user-agent": ["curl", "x sqlmap/1"]}
        for event, reason in (
            (request_headers("/admin?x"), "path:/admin"),
            (request_headers(headers=two), "user-agent:sqlmap"),
            (request_headers(client_ip="198.51.100.7"), "client:198.51.100.0/24"),
            (request_headers(client_ip="2001:db8::7"), "client:2001:db8::/32"),
        ):
            assert proxy.ask(event) == Decision.block(451).reason(reason)
        assert proxy.ask(request_headers("/administrator")).is_allow
        with pytest.raises(AgentError, match="does not appear to be"):
            proxy.configure({"client-networks": "nowhere"})


def test_header_stamp():
    agent = example("header_stamp").HeaderStamp()
    config = {
        "request": {"x-edge": "eu-1"},
        "response": {"x-frame-options": "DENY"},
        "remove-from-request": "x-debug",
        "remove-from-response": ["server", "x-powered-by"],
    }
    expected = (
        Decision.allow()
        .set_request_header("x-stamped-for", "r-1")
        .remove_request_header("x-debug")
        .set_request_header("x-edge", "eu-1")
        .remove_response_header("server")
        .remove_response_header("x-powered-by")
        .set_response_header("x-frame-options", "DENY")
    )
    with running(agent, config) as proxy:
        assert proxy.ask(request_headers()) == expected


def redacted(proxy, kind, *pieces, correlation_id="c-1"):
    out = []
    for chunk in body_chunks(*pieces, correlation_id=correlation_id):
        answer = proxy.ask(chunk, kind)
        assert answer.is_allow
        changed = {
            EventKind.REQUEST_BODY_CHUNK: answer.request_body,
            EventKind.RESPONSE_BODY_CHUNK: answer.response_body,
        }[kind]
        out.append(chunk.data if changed is None else changed)
    return b"".join(out)


@pytest.mark.parametrize("kind", [EventKind.REQUEST_BODY_CHUNK, EventKind.RESPONSE_BODY_CHUNK])
def test_body_redaction_across_pieces(kind):
    agent = example("body_redaction").BodyRedaction()
    config = {"pattern": r"\b\d{16}\b", "replacement": "[card]", "max-match": 16}
    text = (
        b"pay 4111111111111111 now, not 41111111111111112 nor a4111111111111111; 1234567890123456"
    )
    expected = b"pay [card] now, not 41111111111111112 nor a4111111111111111; [card]"
    with running(agent, config) as proxy:
        assert redacted(proxy, kind, text) == expected
        # Cut into pieces everywhere, also into single bytes.
        for at in range(1, len(text)):
            assert redacted(proxy, kind, text[:at], text[at:]) == expected, at
        assert redacted(proxy, kind, *[bytes([byte]) for byte in text], b"") == expected
        assert redacted(proxy, kind, b"") == b""


def test_bodies_of_different_requests_are_apart_and_none_begins_in_the_middle():
    agent = example("body_redaction").BodyRedaction()
    with running(agent, {"pattern": "secret", "replacement": "x"}) as proxy:
        first = body_chunks(b"a sec", b"ret", correlation_id="c-1")
        second = body_chunks(b"b sec", b"ular", correlation_id="c-2")
        out = {"c-1": b"", "c-2": b""}
        for chunk in (first[0], second[0], first[1], second[1]):
            answer = proxy.ask(chunk)
            changed = answer.request_body
            out[chunk.correlation_id] += chunk.data if changed is None else changed
        assert out == {"c-1": b"a x", "c-2": b"b secular"}
        with pytest.raises(AgentError, match="forgotten"):
            proxy.ask(body_chunks(b"", b"x", correlation_id="c-3")[1])
        for bad in ({}, {"pattern": "("}, {"pattern": "a*"}, {"pattern": "a", "max-match": 0}):
            with pytest.raises(AgentError, match="config"):
                proxy.configure(bad)


def test_what_is_kept_of_a_body_is_bounded():
    module = example("body_redaction")
    config, redactor = module.Config(pattern="x{3}", max_match=8), module.Redactor()
    for _ in range(100):
        redactor.feed(config, b"xx-yz" * 50, False)
        assert len(redactor._kept) <= 10


def test_jwt_check(tmp_path):
    # Not at the top: who wants to test the library alone needs no PyJWT for that.
    import jwt

    module = example("jwt_check")
    secret = "0123456789abcdef0123456789abcdef"
    file = tmp_path / "secret"
    file.write_text(secret + "\n")
    config = {"secret-file": str(file), "issuer": "i", "audience": "shop"}
    good = {"sub": "alice", "iss": "i", "aud": "shop", "exp": time.time() + 60}

    def token(key=secret, algorithm="HS256", **changes):
        claims = {name: value for name, value in {**good, **changes}.items() if value is not None}
        return jwt.encode(claims, key, algorithm)

    def asked(*authorization):
        return proxy.ask(request_headers(headers={"authorization": list(authorization)}))

    with running(module.JwtCheck(), config) as proxy:
        allowed = Decision.allow().set_request_header("x-user", "alice")
        assert asked(f"Bearer {token()}") == allowed
        assert asked(f"bearer {token()}") == allowed
        assert proxy.ask(request_headers()) == module.refuse("Bearer", "jwt:missing")
        assert asked("Basic x") == module.refuse("Bearer", "jwt:missing")
        assert asked(f"Bearer {token()}", f"Bearer {token()}").verdict.status == 401
        for bad, reason in (
            ("x", "DecodeError"),
            (token(key=secret[::-1]), "InvalidSignatureError"),
            (token(algorithm="none", key=None), "InvalidAlgorithmError"),
            (token(algorithm="HS384", key=secret * 2), "InvalidAlgorithmError"),
            (token(exp=time.time() - 60), "ExpiredSignatureError"),
            (token(exp=None), "MissingRequiredClaimError"),
            (token(sub=None), "MissingRequiredClaimError"),
            (token(iss="j"), "InvalidIssuerError"),
            (token(aud="other"), "InvalidAudienceError"),
            (token(aud=None), "MissingRequiredClaimError"),
        ):
            answer = asked(f"Bearer {bad}")
            assert answer.verdict.status == 401
            assert answer.verdict.headers == [("www-authenticate", 'Bearer error="invalid_token"')]
            assert answer.audit.reason_codes == [f"jwt:{reason}"], bad
    with served(module.JwtCheck()) as path:
        for bad in ({"secret-file": "/no/such/file"}, {}):
            with pytest.raises(AgentError, match="secret-file"):
                Proxy.connect(path, config=bad)
        # Nobody has been let in by an agent that was never configured.
        with Proxy.connect(path) as proxy, pytest.raises(AgentError, match="no configuration"):
            proxy.ask(request_headers())
