"""Metrics in Redis: one pipeline of six commands a request, over connections
that are kept. The request is answered when Redis has counted it."""

import os
from bisect import bisect_left

from buckets import BOUNDS_SECONDS
from redis.asyncio import Redis

PREFIX = os.environ["METRICS_PREFIX"]
REDIS = Redis(port=int(os.environ["REDIS_PORT"]))

BOUNDS_NANOS = [round(bound * 1e9) for bound in BOUNDS_SECONDS]
BUCKETS = [f"{bound:g}" for bound in BOUNDS_SECONDS] + ["+Inf"]


def add_routes(app):
    pass


async def count(endpoint, algorithm, request_nanos, execution_nanos):
    # Without MULTI, which would be two more commands.
    async with REDIS.pipeline(transaction=False) as pipeline:
        labels = f'code="200",endpoint="{endpoint}",method="POST",status="success"'
        pipeline.hincrby(f"{PREFIX}request_counter", labels, 1)
        observe(pipeline, "request_latency", f'endpoint="{endpoint}",method="POST"', request_nanos)
        labels = f'algorithm="{algorithm}",status="success"'
        pipeline.hincrby(f"{PREFIX}algorithm_counter", labels, 1)
        observe(pipeline, "algorithm_latency", f'algorithm="{algorithm}"', execution_nanos)
        await pipeline.execute()


def observe(pipeline, key, labels, nanos):
    bucket = BUCKETS[bisect_left(BOUNDS_NANOS, nanos)]
    pipeline.hincrby(f"{PREFIX}{key}", f"{labels}|{bucket}", 1)
    pipeline.hincrby(f"{PREFIX}{key}", f"{labels}|sum", nanos)
