"""`POST /invoke` by FastAPI, with metrics as `METRICS` says: off, redis, or
prometheus. What somebody would write instead, and its best simple version."""

import os
from time import perf_counter_ns
from uuid import uuid4

from fastapi import FastAPI
from pydantic import BaseModel, Field

from primes import factorize

match os.environ["METRICS"]:
    case "off":
        import counting_nothing as metrics
    case "redis":
        import counting_with_redis as metrics
    case "prometheus":
        import counting_with_prometheus_client as metrics

app = FastAPI()
metrics.add_routes(app)


class Input(BaseModel):
    number: int = Field(ge=0, lt=2**64)


class Factor(BaseModel):
    prime: int
    exponent: int


class Result(BaseModel):
    number: int
    is_prime: bool
    factors: list[Factor]


class Metadata(BaseModel):
    algorithm: str
    version: str
    execution_time_ms: float


class Answer(BaseModel):
    request_id: str
    status: str
    result: Result
    metadata: Metadata


@app.post("/invoke")
async def invoke(request: Input) -> Answer:
    began = perf_counter_ns()
    factors = factorize(request.number)
    execution = perf_counter_ns() - began
    answer = Answer(
        request_id=str(uuid4()),
        status="success",
        result=Result(
            number=request.number,
            is_prime=len(factors) == 1 and factors[0][1] == 1,
            factors=[Factor(prime=prime, exponent=exponent) for prime, exponent in factors],
        ),
        metadata=Metadata(
            algorithm="prime-check", version="0.1.0", execution_time_ms=execution / 1e6
        ),
    )
    await metrics.count("/invoke", "prime-check", perf_counter_ns() - began, execution)
    return answer
