"""Metrics of an agent, which its proxies are told at regular times."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from typing import Any, Dict, List, Sequence, Tuple, Union

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
#: In seconds.
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)

_Key = Tuple[str, Tuple[Tuple[str, str], ...]]


class _Series:
    def __init__(self, name: str, help: str, labels: Dict[str, str], lock: threading.Lock) -> None:
        self._head = {"name": name, "help": help, "labels": labels}
        self._lock = lock


class Counter(_Series):
    """A number that grows."""

    _value = 0

    def increment(self, by: int = 1) -> None:
        """Adds so many."""
        if by < 0:
            raise ValueError("a counter only grows")
        with self._lock:
            self._value += by

    def _message(self) -> Dict[str, Any]:
        return {**self._head, "value": self._value}


class Gauge(_Series):
    """A number that goes up and down."""

    _value = 0.0

    def set(self, value: float) -> None:
        """Takes the place of what it was."""
        with self._lock:
            self._value = value

    def add(self, by: float) -> None:
        """Adds so much, which may be negative."""
        with self._lock:
            self._value += by

    def _message(self) -> Dict[str, Any]:
        return {**self._head, "value": self._value}


class Histogram(_Series):
    """How often values were within bounds."""

    def __init__(
        self,
        name: str,
        help: str,
        labels: Dict[str, str],
        lock: threading.Lock,
        buckets: Sequence[float] = _BUCKETS,
    ) -> None:
        super().__init__(name, help, labels, lock)
        self._bounds = sorted(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Adds a value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def _message(self) -> Dict[str, Any]:
        buckets: List[Dict[str, Any]] = []
        so_far = 0
        for bound, count in zip([*self._bounds, "+Inf"], self._counts):
            so_far += count
            buckets.append({"le": bound, "count": so_far})
        return {**self._head, "sum": self._sum, "count": so_far, "buckets": buckets}


class Metrics:
    """The metrics of an agent. The same name and labels give the same series.

    :param max_series: so many at most. More raise a ValueError, because labels
        that come from requests would otherwise grow for ever.
    """

    def __init__(self, max_series: int = 200) -> None:
        self._max_series = max_series
        self._series: Dict[_Key, Union[Counter, Gauge, Histogram]] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help: str = "", **labels: str) -> Counter:
        """A series that counts; its name ends in ``_total`` by custom."""
        series = self._of(Counter, name, help, labels)
        assert isinstance(series, Counter)
        return series

    def gauge(self, name: str, help: str = "", **labels: str) -> Gauge:
        """A series that goes up and down."""
        series = self._of(Gauge, name, help, labels)
        assert isinstance(series, Gauge)
        return series

    def histogram(
        self, name: str, help: str = "", buckets: Sequence[float] = _BUCKETS, **labels: str
    ) -> Histogram:
        """A series with these bounds; without them 1 ms to 1 s, for values in
        seconds."""
        series = self._of(Histogram, name, help, labels, buckets)
        assert isinstance(series, Histogram)
        return series

    def _of(self, kind: Any, name: str, help: str, labels: Dict[str, str], *more: Any) -> Any:
        if not _NAME.match(name):
            raise ValueError(f"{name!r} is no name of a metric")
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            series = self._series.get(key)
            if series is None:
                if len(self._series) >= self._max_series:
                    raise ValueError(f"there are {self._max_series} series already")
                series = kind(name, help, labels, self._lock, *more)
                self._series[key] = series
        if type(series) is not kind:
            raise ValueError(f"{name} is a {type(series).__name__.lower()}")
        return series

    def report(self, agent_id: str, timestamp_ms: int, interval_ms: int) -> Dict[str, Any]:
        """The message that proxies get."""
        with self._lock:
            said = [(type(it), it._message()) for it in self._series.values()]
        return {
            "agent_id": agent_id,
            "timestamp_ms": timestamp_ms,
            "interval_ms": interval_ms,
            "counters": [it for kind, it in said if kind is Counter],
            "gauges": [it for kind, it in said if kind is Gauge],
            "histograms": [it for kind, it in said if kind is Histogram],
        }
