"""What a metrics back end answered: typed samples, read strictly from the raw bytes.

Reading is pure and needs no back end, so that stored answers can be judged again offline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import msgspec

from cockpit.base.errors import BackendGarbage
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.base.text import visible

ResultType = Literal["vector", "matrix", "scalar"]

_VALUE = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|NaN|[+-]?Inf", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one series; `value` may be NaN or infinite, `timestamp` is Unix seconds."""

    labels: Mapping[str, str]
    value: float
    timestamp: float


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """The content of a successful answer; a matrix is flattened, series by series, oldest sample first."""

    result_type: ResultType
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetricAnswer:
    """One answered query with all that is needed to judge it again.

    `evaluated_at`: Unix seconds by the back end's clock. `asked_at`: RFC 3339, by ours.
    `clock_offset_s`: back end's clock minus ours, None when it could not be measured.
    `raw`: the answer's bytes as received. `warnings`: what the back end said it left out; a partial answer
    has at least one.
    """

    query: str
    evaluated_at: float
    asked_at: str
    clock_offset_s: float | None
    raw: bytes
    result_type: ResultType
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...]


class _Series(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] | None = None


class _Data(msgspec.Struct):
    result: msgspec.Raw
    result_type: str = msgspec.field(name="resultType")


class _Envelope(msgspec.Struct):
    status: str
    data: _Data | None = None
    error_type: str = msgspec.field(name="errorType", default="")
    error: str = ""
    warnings: list[str] | None = None


class _ErrorEnvelope(msgspec.Struct):
    status: Literal["error"]
    error_type: str = msgspec.field(name="errorType")
    error: str


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ERROR = msgspec.json.Decoder(_ErrorEnvelope)
_SERIES = msgspec.json.Decoder(list[_Series])
_SCALAR = msgspec.json.Decoder(tuple[float, str])


def parse_answer(raw: bytes) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """Return samples and warnings of a query answer (Prometheus HTTP API v1); raises BackendGarbage."""
    parsed = read_answer(raw)
    return parsed.samples, parsed.warnings


def read_answer(raw: bytes) -> ParsedAnswer:
    """Read a successful query answer (Prometheus HTTP API v1); raise BackendGarbage for anything else."""
    if len(raw) > MAX_ANSWER_BYTES:
        raise BackendGarbage(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    try:
        envelope = _ENVELOPE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendGarbage(
            f"the answer is no Prometheus answer: {visible(str(error), limit=200)}"
        ) from None
    if envelope.status != "success":
        said = visible(f"{envelope.error_type}: {envelope.error}", limit=300)
        status = visible(envelope.status, limit=40)
        raise BackendGarbage(f"the answer is not a success: status {status!r}, {said}")
    if envelope.data is None:
        raise BackendGarbage("the answer says success and carries no data")
    data = envelope.data
    warnings = tuple(envelope.warnings or ())
    try:
        if data.result_type == "vector":
            return ParsedAnswer("vector", _vector(_SERIES.decode(data.result)), warnings)
        if data.result_type == "matrix":
            return ParsedAnswer("matrix", _matrix(_SERIES.decode(data.result)), warnings)
        if data.result_type == "scalar":
            return ParsedAnswer("scalar", (_sample({}, _SCALAR.decode(data.result)),), warnings)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackendGarbage(f"the result is malformed: {visible(str(error), limit=200)}") from None
    raise BackendGarbage(f"a result of type {visible(data.result_type, limit=40)!r} is no measurement")


def read_error(raw: bytes) -> tuple[str, str] | None:
    """Return (errorType, error) of an error answer, made safe to show, or None when it is not one."""
    try:
        envelope = _ERROR.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return visible(envelope.error_type, limit=40), visible(envelope.error, limit=400)


def _vector(series: list[_Series]) -> tuple[Sample, ...]:
    samples = []
    for one in series:
        # A native histogram has no `value`; leaving it out would be a silently smaller answer.
        if one.value is None or one.values is not None:
            raise BackendGarbage("an element of the vector has not exactly one float value")
        samples.append(_sample(one.metric, one.value))
    _distinct(series)
    return tuple(samples)


def _matrix(series: list[_Series]) -> tuple[Sample, ...]:
    samples: list[Sample] = []
    for one in series:
        if one.values is None or one.value is not None:
            raise BackendGarbage("a series of the matrix has no float values")
        own = [_sample(one.metric, pair) for pair in one.values]
        if any(later.timestamp <= earlier.timestamp for earlier, later in pairwise(own)):
            raise BackendGarbage("the samples of a series are not in order of time")
        samples += own
    _distinct(series)
    return tuple(samples)


def _distinct(series: list[_Series]) -> None:
    if len({frozenset(one.metric.items()) for one in series}) != len(series):
        raise BackendGarbage("the same series occurs twice in one answer")


def _sample(labels: dict[str, str], pair: tuple[float, str]) -> Sample:
    timestamp, text = pair
    if not math.isfinite(timestamp) or timestamp < 0:
        raise BackendGarbage("a sample's timestamp is no time")
    if _VALUE.fullmatch(text) is None:
        raise BackendGarbage(f"a sample's value is no number: {visible(text, limit=40)!r}")
    return Sample(MappingProxyType(labels), float(text), timestamp)
