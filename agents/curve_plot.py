"""Child process: draws the saturation curve; JSON on standard input, PNG on standard output."""

from __future__ import annotations

import io
import json
import math
import sys
from typing import Any


def draw(request: dict[str, Any]) -> bytes:
    """Return the picture: rate of good answers and p95 over the offered rate, a line a service."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    rate, latency = figure.subplots(1, 2)
    for service, points in request["series"].items():
        offered = points["rps"]
        # NaN travels as null: an infinite latency has no point.
        p95 = [math.nan if value is None else value for value in points["p95_ms"]]
        rate.plot(offered, points["good_rps"], marker="o", label=service)
        latency.plot(offered, p95, marker="o", label=service)
        rate.plot(offered, offered, color="0.7", linestyle=":", linewidth=1)
    rate.set(xlabel="offered requests/s", ylabel="good answers/s in time", title="Throughput")
    latency.set(xlabel="offered requests/s", ylabel="p95 from intended start, ms", title="Latency")
    rate.legend()
    figure.suptitle(f"Saturation, {request['version']}")
    out = io.BytesIO()
    # No software version and no date inside: the same figures give the same picture.
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


if __name__ == "__main__":
    sys.stdout.buffer.write(draw(json.loads(sys.stdin.buffer.read())))
