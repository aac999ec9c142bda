"""Figures for those who run the service, in the text format that Prometheus reads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper ends of the histogram of request times, in seconds."""


class Metrics:
    """Counts requests and their times. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. `route` is the template (`/v1/sweeps/{name}`), so that names make no new series."""
        method = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        with self._lock:
            self._requests[method, route, status] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]
            self._counts[route] += 1
            for bucket in BUCKETS:
                if seconds <= bucket:
                    self._buckets[route, bucket] += 1

    def text(self, states: Iterable[tuple[str, str, int]], streams: int) -> str:
        """The page of metrics. `states`: (what, state, how many) of the ledger; `streams`: open event streams."""
        with self._lock:
            requests, buckets = dict(self._requests), dict(self._buckets)
            seconds, counts = dict(self._seconds), dict(self._counts)
        lines = [
            "# HELP lacuna_http_requests_total Requests answered.",
            "# TYPE lacuna_http_requests_total counter",
            *(
                f'lacuna_http_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}'
                for (method, route, status), count in sorted(requests.items())
            ),
            "# HELP lacuna_http_request_seconds Time from the first byte asked to the last byte answered.",
            "# TYPE lacuna_http_request_seconds histogram",
        ]
        for route in sorted(counts):
            for bucket in BUCKETS:
                count = buckets.get((route, bucket), 0)
                lines.append(f'lacuna_http_request_seconds_bucket{{route="{route}",le="{bucket}"}} {count}')
            lines.append(f'lacuna_http_request_seconds_bucket{{route="{route}",le="+Inf"}} {counts[route]}')
            lines.append(f'lacuna_http_request_seconds_sum{{route="{route}"}} {seconds[route]:.6f}')
            lines.append(f'lacuna_http_request_seconds_count{{route="{route}"}} {counts[route]}')
        lines += [
            "# HELP lacuna_streams Open event streams.",
            "# TYPE lacuna_streams gauge",
            f"lacuna_streams {streams}",
        ]
        for what in ("sweeps", "runs", "segments"):
            lines += [f"# HELP lacuna_{what} The ledger's {what} by state.", f"# TYPE lacuna_{what} gauge"]
            lines += [
                f'lacuna_{kind}{{state="{state}"}} {count}' for kind, state, count in states if kind == what
            ]
        return "\n".join(lines) + "\n"
