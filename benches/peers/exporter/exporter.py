"""The exporter as one would write it in Python: a collector of prometheus_client
that reads the registered families from Redis at each scrape.

It serves the same series as functional-scaffold-exporter and lacks all else:
leases, what Redis lost, what cannot be decoded, page by page reading.
"""

import argparse
import json
import re
import time

import redis
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def labels_of(text):
    """Names and values of a label set. Here no value has an escape."""
    pairs = LABEL.findall(text)
    return tuple(name for name, _ in pairs), tuple(value for _, value in pairs)


class RedisCollector:
    def __init__(self, port):
        self.redis = redis.Redis(port=port, decode_responses=True)

    def collect(self):
        registered = self.redis.hgetall("metrics:families")
        families = [(name, json.loads(text)) for name, text in registered.items()]
        # One round trip for all of them: the fastest that redis-py has.
        pipeline = self.redis.pipeline(transaction=False)
        for _, family in families:
            pipeline.hgetall(family["key"])
        for (name, family), cells in zip(families, pipeline.execute()):
            make = counter if family["type"] == "counter" else histogram
            yield make(name, family, cells)


def counter(name, family, cells):
    names = labels_of(next(iter(cells), ""))[0]
    metric = CounterMetricFamily(name, family["help"], labels=names)
    for labels, value in cells.items():
        metric.add_metric(labels_of(labels)[1], int(value))
    return metric


def histogram(name, family, cells):
    series = {}
    for field, value in cells.items():
        labels, _, part = field.rpartition("|")
        series.setdefault(labels, {})[part] = int(value)
    names = labels_of(next(iter(series), ""))[0]
    metric = HistogramMetricFamily(name, family["help"], labels=names)
    # Redis has bounds without an exponent, the exposition has Go's form.
    bounds = [(f"{bound:f}".rstrip("0").rstrip("."), floatToGoString(bound)) for bound in family["bounds"]]
    bounds.append(("+Inf", "+Inf"))
    for labels, parts in series.items():
        count, buckets = 0, []
        for stored, shown in bounds:
            count += parts.get(stored, 0)
            buckets.append((shown, count))
        metric.add_metric(labels_of(labels)[1], buckets, parts.get("sum", 0) / family["scale"])
    return metric


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis-port", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    # Without what prometheus_client says of the process.
    registry = CollectorRegistry(auto_describe=False)
    collector = RedisCollector(options.redis_port)
    registry.register(collector)
    start_http_server(options.port, addr="127.0.0.1", registry=registry)
    while True:
        time.sleep(3600)


main()
