"""The bounds of the service's latency buckets, in seconds."""

import os

BOUNDS_SECONDS = [float(bound) for bound in os.environ["BOUNDS_SECONDS"].split(",")]
