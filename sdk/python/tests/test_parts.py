"""The parts that need no connection."""

import os
import re
import stat
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Set, Tuple, Union

import pytest

from portcullis_agent import (
    Agent,
    AgentError,
    ConfigError,
    Decision,
    EventKind,
    KeyPart,
    Metrics,
    Overloaded,
    PerRequest,
    ServeOptions,
    bind_socket,
    read_config,
)


class Level(Enum):
    LOW = "low"
    HIGH = "high"


@dataclass
class Limits:
    max_depth: int
    ratio: float = 1.5


@dataclass
class Config:
    name: str
    paths: List[str] = field(default_factory=list)
    level: Level = Level.LOW
    mode: Literal["on", "off"] = "on"
    strict: bool = False
    limits: Optional[Limits] = None
    rules: Tuple[Limits, ...] = ()
    headers: Dict[str, str] = field(default_factory=dict)
    codes: Set[int] = field(default_factory=set)
    file: Path = Path("/x")
    either: Union[int, str] = 0
    anything: Any = None

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("the name is taken")


def test_a_configuration_becomes_a_dataclass():
    # As it comes from KDL: a list of one is a value.
    config = read_config(
        Config,
        {
            "name": "n",
            "paths": "/a",
            "level": "high",
            "mode": "off",
            "strict": True,
            "limits": {"max-depth": 3, "ratio": 2},
            "rules": [{"max-depth": 1}, {"max_depth": 2}],
            "headers": {"x-a": "1"},
            "codes": [1, 2, 1],
            "file": "/etc/x",
            "either": "text",
            "anything": [{"a": None}],
        },
    )
    assert config == Config(
        "n",
        ["/a"],
        Level.HIGH,
        "off",
        True,
        Limits(3, 2.0),
        (Limits(1), Limits(2)),
        {"x-a": "1"},
        {1, 2},
        Path("/etc/x"),
        "text",
        [{"a": None}],
    )
    assert read_config(Config, {"name": "n"}) == Config("n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "config.name is nothing, not text"),
        ({"name": "bad"}, "config: the name is taken"),
        ({"path": "/a"}, "config.path is not known; did you mean `paths`?"),
        ({"zzz": 1}, "config.zzz is not known; there is `name`, "),
        ({"paths": ["/a", 1]}, r"config.paths\[1\] is a whole number, not text"),
        ({"level": "medium"}, "config.level is text, not one of 'low', 'high'"),
        ({"mode": True}, "config.mode is true or false, not one of 'on', 'off'"),
        ({"strict": "yes"}, "config.strict is text, not true or false"),
        ({"strict": 1}, "config.strict is a whole number, not true or false"),
        ({"limits": {}}, "config.limits.max-depth is missing"),
        ({"limits": {"max-depth": True}}, "config.limits.max-depth is true or false, not a whole"),
        ({"limits": 3}, "config.limits is a whole number, not a block"),
        ({"rules": [{"max-depth": 1}, {}]}, r"config.rules\[1\].max-depth is missing"),
        ({"headers": {"x": 1}}, "config.headers.x is a whole number, not text"),
        ({"codes": [1.5]}, r"config.codes\[0\] is a number, not a whole number"),
        ({"either": 1.5}, "config.either is a number, not a whole number"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said_with_its_place(changes, message):
    with pytest.raises(ConfigError, match=message):
        read_config(Config, {"name": "n", **changes})


def test_all_mistakes_are_said_at_once():
    with pytest.raises(ConfigError) as raised:
        read_config(Config, {"strict": 1, "x-y": 2})
    assert [part.split(" ")[0] for part in str(raised.value).split("; ") if "config." in part] == [
        "config.strict",
        "config.x-y",
        "config.name",
    ]
    with pytest.raises(ConfigError, match="given twice"):
        read_config(Limits, {"max-depth": 1, "max_depth": 1})
    with pytest.raises(ConfigError, match="config is a list, not a block"):
        read_config(Limits, [])


def test_decisions_refuse_what_they_cannot_say():
    allow = Decision.allow
    for wrong in (
        lambda: Decision.block("403"),
        lambda: Decision.block(True),
        lambda: Decision.block(-1),
        lambda: Decision.redirect(b"/"),
        lambda: allow().set_request_header("a", 1),
        lambda: allow().add_response_header("a", None),
        lambda: allow().replace_request_body("text"),
        lambda: allow().with_body("x"),
        lambda: allow().with_param("a", "b"),
        lambda: allow().whatever_the(KeyPart.QUERY),
        lambda: allow().hold_for(-1),
        lambda: allow().confidence(2),
        lambda: allow().confidence(float("nan")),
        lambda: allow().custom("correlation_id", 1),
        lambda: allow().close_websocket(70000),
        lambda: allow().guardrail({"detected": True}),
        lambda: Overloaded(-1),
    ):
        with pytest.raises((TypeError, ValueError)):
            wrong()


def test_holding_for_no_time_takes_it_back():
    held = Decision.allow().hold_for(timedelta(seconds=1)).whatever_the(KeyPart.QUERY).hold_for(5)
    assert held.ttl.ttl == timedelta(seconds=5)
    assert held.ttl.vary_ignores == [KeyPart.QUERY]
    assert held.hold_for(0).ttl is None


def test_what_is_overridden_is_announced():
    class Both(Agent):
        def response_headers(self, event):
            return Decision.allow()

        def request_complete(self, event):
            pass

    class Named(Both):
        name = "other"
        events = (EventKind.WEBSOCKET_FRAME,)

    assert Both().wanted_events() == [EventKind.RESPONSE_HEADERS, EventKind.REQUEST_COMPLETE]
    assert Both().agent_name == "both"
    assert Named().wanted_events() == [EventKind.WEBSOCKET_FRAME]
    assert Named().agent_name == "other"
    assert Agent().wanted_events() == [EventKind.REQUEST_HEADERS]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_frame_bytes": (16 << 20) + 1},
        {"concurrency": 0},
        {"threads": 0},
        {"backlog": -1},
        {"handshake_timeout": 0},
    ],
)
def test_options_are_within_their_bounds(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ServeOptions(**wrong)


def test_state_of_requests_is_bounded_and_never_begins_in_the_middle():
    kept = PerRequest(list, max_entries=2)
    kept.begin("a").append(1)
    kept.begin("b")
    assert kept.find("a") == [1]
    # `b` was heard of longest ago.
    kept.begin("c")
    assert kept.evicted == 1
    with pytest.raises(AgentError, match="forgotten"):
        kept.find("b")
    assert kept.begin("a") == []
    assert kept.end("a") == []
    assert kept.end("a") is None
    assert len(kept) == 1


def test_metrics_become_a_report():
    metrics = Metrics(max_series=4)
    metrics.counter("asked_total", "how often", route="a").increment()
    metrics.counter("asked_total", route="a").increment(6)
    metrics.gauge("rules").set(3)
    metrics.gauge("rules").add(-1)
    seconds = metrics.histogram("seconds")
    for value in (0.001, 0.002, 7):
        seconds.observe(value)
    report = metrics.report("waf", 1, 10_000)
    assert report["counters"] == [
        {"name": "asked_total", "help": "how often", "labels": {"route": "a"}, "value": 7}
    ]
    assert report["gauges"] == [{"name": "rules", "help": "", "labels": {}, "value": 2}]
    (histogram,) = report["histograms"]
    assert (histogram["sum"], histogram["count"]) == (7.003, 3)
    assert histogram["buckets"][0] == {"le": 0.001, "count": 1}
    assert histogram["buckets"][1] == {"le": 0.005, "count": 2}
    assert histogram["buckets"][-1] == {"le": "+Inf", "count": 3}
    metrics.counter("asked_total", route="b")
    with pytest.raises(ValueError, match="4 series"):
        metrics.counter("asked_total", route="c")
    with pytest.raises(ValueError, match="is a gauge"):
        metrics.counter("rules")
    with pytest.raises(ValueError, match="no name"):
        metrics.counter("a b")
    with pytest.raises(ValueError, match="only grows"):
        metrics.counter("asked_total", route="b").increment(-1)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path):
    path = tmp_path / "agent.sock"
    first = bind_socket(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    with pytest.raises(OSError, match="another process listens"):
        bind_socket(path)
    first.close()
    bind_socket(path).close()
    assert os.listdir(tmp_path) == ["agent.sock"]
    other = tmp_path / "file"
    other.write_text("precious")
    with pytest.raises(OSError, match="is not a socket"):
        bind_socket(other)
    assert other.read_text() == "precious"
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "missing"))):
        bind_socket(tmp_path / "missing" / "agent.sock")


def test_many_threads_count_right():
    metrics = Metrics()

    def count():
        for _ in range(1000):
            metrics.counter("n_total").increment()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.report("a", 0, 0)["counters"][0]["value"] == 8000
