"""Metrics of prometheus_client in multiprocess mode: each worker counts in files
of its own below `PROMETHEUS_MULTIPROC_DIR`, and `/metrics` adds them up."""

from buckets import BOUNDS_SECONDS
from prometheus_client import CollectorRegistry, Counter, Histogram, make_asgi_app
from prometheus_client.multiprocess import MultiProcessCollector

REQUESTS = Counter("http_requests", "Requests.", ["method", "endpoint", "status", "code"])
DURATIONS = Histogram(
    "http_request_duration_seconds",
    "Duration of requests.",
    ["method", "endpoint"],
    buckets=BOUNDS_SECONDS,
)
EXECUTIONS = Counter("algorithm_executions", "Executions.", ["algorithm", "status"])
EXECUTION_DURATIONS = Histogram(
    "algorithm_execution_duration_seconds",
    "Duration of executions.",
    ["algorithm"],
    buckets=BOUNDS_SECONDS,
)


def add_routes(app):
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    app.mount("/metrics", make_asgi_app(registry=registry))


async def count(endpoint, algorithm, request_nanos, execution_nanos):
    REQUESTS.labels("POST", endpoint, "success", "200").inc()
    DURATIONS.labels("POST", endpoint).observe(request_nanos / 1e9)
    EXECUTIONS.labels(algorithm, "success").inc()
    EXECUTION_DURATIONS.labels(algorithm).observe(execution_nanos / 1e9)
