"""What an answer says to a peer that does not know everything."""

from __future__ import annotations

from ..capabilities import Extensions
from ..decision import Answer, Audit, Block, Decision, Failed, NotNow, ReplaceFrame


def in_words_of(extensions: Extensions, answer: Answer) -> Answer:
    """What is said to this peer. Only a peer that has agreed to it can be told
    that the agent failed or is overloaded; what it does not know is a failure
    for it, and without ``error`` a block with status 500: neither is ever an
    allow."""
    if isinstance(answer, Decision):
        # Of all that can be decided about a frame, this is ours alone.
        if extensions.event_id or not isinstance(answer.websocket, ReplaceFrame):
            return answer
        reason = "the proxy cannot replace a frame"
    elif isinstance(answer, NotNow):
        if extensions.overloaded:
            return answer
        reason = "the agent is overloaded"
    else:
        if extensions.error:
            return answer
        reason = answer.message
    if extensions.error:
        return Failed(reason)
    audit = Audit(reason_codes=["agent_error"], custom={"error": reason})
    return Decision(Block(500), audit=audit)
