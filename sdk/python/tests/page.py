"""The examples in docs/protocol.md, as bytes."""

from pathlib import Path
from typing import Dict

PAGE = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"


def vectors() -> Dict[str, bytes]:
    """All examples by name. A block ```` ```json vector=NAME ```` holds JSON
    that is broken into lines between its tokens, ```` ```text vector=NAME ````
    holds hexadecimal digits with blanks, and comments behind semicolons."""
    found: Dict[str, bytes] = {}
    lines = iter(PAGE.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if not line.startswith("```"):
            continue
        body = []
        for inner in lines:
            if inner == "```":
                break
            body.append(inner)
        kind, _, name = line[3:].partition(" vector=")
        if not name:
            continue
        assert name not in found, f"{name} appears twice"
        if kind == "json":
            found[name] = "".join(part.strip() for part in body).encode()
        else:
            found[name] = bytes.fromhex("".join(part.split(";")[0] for part in body))
    assert len(found) > 10, "the page is not understood"
    return found
