"""Series, and expressions written by hand, on which the stand-in must agree with Prometheus."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence

START_S = 1_700_000_000
SAMPLES = 81
STEP_S = 15
END_S = START_S + (SAMPLES - 1) * STEP_S

Points = Sequence[tuple[float, float]]


def series() -> Iterator[tuple[Mapping[str, str], Points]]:
    """Yield labels and (Unix seconds, value) points: counters with resets, gaps, gauges, histograms, NaN."""
    chance = random.Random(20)
    for pod, track in (("a", "stable"), ("b", "stable"), ("c", "canary"), ("d", "canary")):
        for code in ("200", "404", "500"):
            value, points = 0.0, []
            for i in range(SAMPLES):
                value += chance.randrange(0, 40 if code == "200" else 3)
                if pod == "b" and i in (30, 55):
                    value = chance.randrange(0, 5)  # the counter was reset
                if pod == "c" and 20 <= i < 31:
                    continue  # a gap
                if pod == "d" and code == "500" and i < 60:
                    continue  # began late
                points.append((START_S + i * STEP_S, value))
            yield {"__name__": "http_requests_total", "pod": pod, "track": track, "code": code}, points
        counts = [0.0] * 5
        rows: list[tuple[int, list[float]]] = []
        for i in range(SAMPLES):
            for b in range(5):
                counts[b] += chance.randrange(0, 6)
            running = [sum(counts[: b + 1]) for b in range(5)]
            rows.append((START_S + i * STEP_S, running))
        for b, le in enumerate(("0.05", "0.1", "0.25", "1", "+Inf")):
            yield (
                {"__name__": "latency_seconds_bucket", "pod": pod, "track": track, "le": le},
                [(t, running[b]) for t, running in rows],
            )
        gauge = [(START_S + i * STEP_S, round(chance.uniform(-3, 9), 3)) for i in range(SAMPLES)]
        if pod == "d":
            gauge[40:45] = [(t, math.nan) for t, _ in gauge[40:45]]
            gauge[50] = (gauge[50][0], math.inf)
        yield {"__name__": "temperature", "pod": pod, "track": track}, gauge
    yield {"__name__": "info", "pod": "a", "version": "1.0"}, [(t, 1.0) for t, _ in gauge]
    yield {"__name__": "info", "pod": "c", "version": "2.0"}, [(t, 1.0) for t, _ in gauge]
    for le, count in (("1", 5.0), ("2", 3.0), ("+Inf", 8.0)):
        yield {"__name__": "odd_bucket", "kind": "falling", "le": le}, [(END_S, count)]
    for le, count in (("1", 5.0), ("2", 7.0)):
        yield {"__name__": "odd_bucket", "kind": "open", "le": le}, [(END_S, count)]
    yield {"__name__": "odd_bucket", "kind": "single", "le": "+Inf"}, [(END_S, 4.0)]
    for le, count in (("-2", 3.0), ("-1", 6.0), ("+Inf", 6.0)):
        yield {"__name__": "odd_bucket", "kind": "negative", "le": le}, [(END_S, count)]
    for le in ("1", "+Inf"):
        yield {"__name__": "odd_bucket", "kind": "empty", "le": le}, [(END_S, 0.0)]
    for le, count in (("0.5", 2.0), ("x", 1.0), ("+Inf", 9.0)):
        yield {"__name__": "odd_bucket", "kind": "misnamed", "le": le}, [(END_S, count)]
    times = [START_S + i * STEP_S for i in range(SAMPLES)]
    near = [1e15 + chance.randrange(8) * 0.125 for _ in times]  # their differences are lost in a naive sum
    yield {"__name__": "awkward", "pod": "a", "track": "stable"}, list(zip(times, near, strict=True))
    yield {"__name__": "awkward", "pod": "b", "track": "stable"}, [(t, -1e15) for t in times]
    small = [chance.choice((0.0, -0.0, 1e-307, 1e-300, -1e-9, 0.1)) for _ in times]
    yield {"__name__": "awkward", "pod": "c", "track": "canary"}, list(zip(times, small, strict=True))
    vast = [chance.choice((1e308, 1.5e308, -1e300, 1e16)) for _ in times]
    yield {"__name__": "awkward", "pod": "d", "track": "canary"}, list(zip(times, vast, strict=True))
    ends = [chance.choice((math.inf, 1.0, 2.0, math.nan)) for _ in times]
    yield {"__name__": "awkward", "pod": "e", "track": "canary"}, list(zip(times, ends, strict=True))
    for text in ('quote"slash\\line\n', "ünï\u2028codé 日本 🚀", "a.b", "a-b", "{curly},=~"):
        yield {"__name__": "strange", "text": text}, [(t, 1.0) for t in times]
    yield {"__name__": "falling_total", "pod": "a"}, [(START_S + i * STEP_S, 50.0 - i) for i in range(40)]


PLATFORM_END_S = END_S + 200_000
"""The platform's series end here, so that they and the others are never in sight of one another."""


def platform() -> Iterator[tuple[Mapping[str, str], Points]]:
    """Yield series as the demo platform exposes them: what the plan of a rehearsal asks about."""
    chance = random.Random(7)
    times = [PLATFORM_END_S - (SAMPLES - 1 - i) * STEP_S for i in range(SAMPLES)]

    def counter(most: float, *, part: float = 1.0) -> Points:
        value, points = 0.0, []
        for t in times:
            value += chance.randrange(0, round(most) + 1) if chance.random() < part else 0
            points.append((t, value))
        return points

    for namespace in ("intelgraph", "intelgraph-stage"):
        for service in ("search", "ingest", "realtime"):
            for track, number in (("stable", 1), ("stable", 2), ("canary", 1)):
                pod = {
                    "namespace": namespace,
                    "service": service,
                    "track": track,
                    "pod": f"{service}-{track}-{number}",
                }
                for code, part in (("200", 1.0), ("500", 0.05), ("503", 0.0)):
                    labels = {**pod, "tenant": "acme", "code": code}
                    yield {"__name__": "http_requests_total", **labels}, counter(30, part=part)
                names = ["http_request_duration_seconds_bucket"]
                if service == "realtime":
                    names.append("rt_delivery_lag_seconds_bucket")
                for name in names:
                    sums = [0.0] * len(times)
                    for le in ("0.05", "0.1", "0.15", "0.3", "1.0", "+Inf"):
                        sums = [
                            total + value
                            for total, (_, value) in zip(sums, counter(9, part=0.7), strict=True)
                        ]
                        yield {"__name__": name, **pod, "le": le}, list(zip(times, sums, strict=True))
                yield {"__name__": "worker_busy_seconds_total", **pod}, counter(12)
                yield {"__name__": "worker_count", **pod}, [(t, 4.0) for t in times]
                yield {"__name__": "tenant_isolation_violations_total", **pod}, counter(1, part=0.0)
                if service == "ingest":
                    lag = [(t, round(chance.uniform(0, 9), 3)) for t in times]
                    yield {"__name__": "ingest_lag_seconds", **pod}, lag
                if service == "search":
                    yield {"__name__": "search_queries_total", **pod}, counter(20)
                    yield {"__name__": "search_results_total", **pod}, counter(90)
        for track in ("stable", "canary"):
            yield (
                {"__name__": "gateway_requests_total", "namespace": namespace, "track": track},
                counter(90 if track == "stable" else 10),
            )


_SELECTORS = """
http_requests_total
http_requests_total{pod="a"}
http_requests_total{pod!="a",code=~"4..|5.."}
http_requests_total{code!~"2.."}
http_requests_total{track=""}
http_requests_total{nothing=""}
{__name__=~"temp.*",pod=~"a|d"}
http_requests_total offset 5m
temperature offset 11s
temperature offset -1m
temperature @ 1700000300
temperature{pod="a"} @ 1700000300 offset 1m
missing
temperature[1m]
http_requests_total{pod="c",code="200"}[5m] offset 2m
42
-3.5e-7
1e21
"text"
time()
vector(7)
vector(time())
scalar(temperature{pod="a"})
scalar(temperature)
-temperature
-(1 + 2)
+temperature
falling_total
"""

_RANGES = """
rate(http_requests_total[1m])
rate(http_requests_total[5m])
rate(http_requests_total[17m])
rate(http_requests_total[1h])
rate(http_requests_total[10s])
rate(http_requests_total{pod="c"}[20m])
rate(http_requests_total[5m] offset 7m)
rate(http_requests_total[100s])
increase(http_requests_total[5m])
increase(http_requests_total[19m])
irate(http_requests_total[5m])
idelta(temperature[5m])
delta(temperature[5m])
rate(falling_total[20m])
increase(falling_total[15m])
delta(falling_total[15m])
sum_over_time(temperature[5m])
avg_over_time(temperature[5m])
min_over_time(temperature[15m])
max_over_time(temperature[15m])
min_over_time(temperature[9m] offset 9m)
count_over_time(temperature[3m])
last_over_time(temperature[5m])
last_over_time(http_requests_total{pod="a"}[1m])
present_over_time(temperature[5m])
stddev_over_time(temperature{pod!="d"}[5m])
stdvar_over_time(temperature{pod!="d"}[5m])
quantile_over_time(0.5, temperature[5m])
quantile_over_time(0.95, temperature[15m])
quantile_over_time(0, temperature[15m])
quantile_over_time(1.1, temperature[5m])
quantile_over_time(-1, temperature[5m])
changes(temperature[15m])
resets(http_requests_total[20m])
resets(temperature{pod!="d"}[15m])
absent_over_time(missing[5m])
absent_over_time(missing{pod="a",code=~"x"}[5m])
absent_over_time(temperature[5m])
max_over_time(rate(http_requests_total[1m])[5m:30s])
avg_over_time(sum(rate(http_requests_total[1m]))[10m:1m])
sum_over_time(temperature{pod="a"}[5m:20s] offset 1m)
last_over_time(temperature[30s:])
count_over_time(vector(1)[5m:15s])
max_over_time((temperature{pod="a"})[5m:20s])
"""

_AGGREGATIONS = """
sum(http_requests_total)
sum by (track) (rate(http_requests_total[5m]))
sum by (track, code) (increase(http_requests_total[5m]))
sum without (pod, code) (http_requests_total)
sum by (nothing) (http_requests_total)
sum by () (http_requests_total)
avg by (track) (temperature)
avg(temperature)
min by (track) (temperature)
max by (track) (temperature)
count by (code) (http_requests_total)
count(missing)
sum(missing)
group by (track) (temperature)
stddev by (track) (temperature{pod!="d"})
stdvar(temperature{pod!="d"})
topk(2, rate(latency_seconds_bucket{le="+Inf"}[11m]))
topk by (track) (1, temperature)
bottomk(3, temperature)
bottomk without (pod, code) (1, temperature)
topk(0, http_requests_total)
topk(100, temperature)
quantile(0.9, temperature)
quantile by (track) (0.5, temperature)
quantile(2, temperature)
sum by (__name__) ({__name__=~"http.*|temp.*"})
count({__name__=~".+"})
sum(temperature offset 8m30s)
max(temperature offset 9m)
min by (pod) (temperature offset 9m)
"""

_HISTOGRAMS = """
histogram_quantile(0.95, sum by (le) (rate(latency_seconds_bucket[5m])))
histogram_quantile(0.95, sum by (le, track) (rate(latency_seconds_bucket[5m])))
histogram_quantile(0.5, latency_seconds_bucket)
histogram_quantile(0.99, rate(latency_seconds_bucket[10m]))
histogram_quantile(0, latency_seconds_bucket)
histogram_quantile(1, latency_seconds_bucket)
histogram_quantile(1.5, latency_seconds_bucket)
histogram_quantile(-1, latency_seconds_bucket)
histogram_quantile(0.9, temperature)
histogram_quantile(0.1, odd_bucket)
histogram_quantile(0.5, odd_bucket)
histogram_quantile(0.7, odd_bucket)
histogram_quantile(-0.5, odd_bucket)
histogram_quantile(2, odd_bucket)
histogram_quantile(0.9, sum by (le) (odd_bucket))
histogram_quantile(scalar(missing), odd_bucket)
"""

_BINARY = """
1 + 2 * 3 ^ 2 - 4 / 5 % 3
2 ^ 3 ^ 2
-2 ^ 2
7 % -3
-7 % 3
1 / 0
-1 / 0
0 / 0
1 % 0
0 ^ -1
(-8) ^ (1/3)
10 ^ 400
1 > bool 2
2 == bool 2
NaN == bool NaN
NaN != bool NaN
temperature + 1
temperature * 0
1 - temperature
temperature / 0
temperature % 2
temperature ^ 2
temperature > 3
3 < temperature
temperature > bool 3
temperature == 1
temperature != 1
temperature >= temperature
temperature == bool temperature
http_requests_total / 100 > 3
http_requests_total - http_requests_total offset 1m
rate(http_requests_total{code="500"}[5m]) / ignoring(code) rate(http_requests_total{code="200"}[5m])
rate(http_requests_total{code="500"}[5m]) / on(pod) rate(http_requests_total{code="200"}[5m])
http_requests_total{code="404"} < on(pod) http_requests_total{code="200"}
http_requests_total{code="404"} < ignoring(code) http_requests_total{code="200"}
http_requests_total{code="404"} < bool on(pod) http_requests_total{code="200"}
http_requests_total / on(pod) http_requests_total{code="200"}
http_requests_total{code="200"} / on(track) http_requests_total{code="404"}
http_requests_total / on(pod) group_left http_requests_total{code="200"}
http_requests_total / on(pod) group_left(version) info
info * on(pod) group_right(version) http_requests_total
http_requests_total > on(pod) group_left(version) info
info > on(pod) group_right http_requests_total
http_requests_total * on(track) group_left temperature
sum by (track) (rate(http_requests_total{code=~"5.."}[5m])) / sum by (track) (rate(http_requests_total[5m]))
temperature and http_requests_total
temperature and on(pod) http_requests_total{code="500"}
temperature and on(pod) (temperature > 2)
temperature and ignoring(track) temperature
temperature unless on(pod) info
temperature unless temperature
temperature or info
temperature or on(pod) info
info or on(pod) temperature
temperature{pod="a"} or on() vector(0)
missing or vector(0)
vector(1) and on() missing
temperature{pod="a"} + on() group_left vector(3)
temperature + missing
missing > 1
"""

_FUNCTIONS = """
abs(temperature)
ceil(temperature)
floor(temperature)
round(temperature)
round(temperature, 0.5)
round(temperature, 10)
clamp(temperature, 0, 4)
clamp(temperature, 4, 0)
clamp_min(temperature, 2)
clamp_max(temperature, 2)
sqrt(temperature)
ln(temperature)
log2(temperature)
log10(temperature)
exp(temperature)
exp(vector(1000))
sgn(temperature)
sort(temperature)
sort_desc(temperature)
absent(missing)
absent(missing{pod="a",code!="x"})
absent(missing{pod="a",pod="b"})
absent(temperature)
absent(sum(missing))
timestamp(temperature)
timestamp(temperature + 0)
timestamp(http_requests_total{pod="a"} offset 1m)
label_replace(temperature, "node", "n-$1", "pod", "(.*)")
label_replace(temperature, "node", "$2", "pod", "(a)|(b)")
label_replace(temperature, "pod", "", "pod", "a")
label_replace(temperature, "x", "${1}y$$", "track", "(can).*")
label_replace(temperature, "pod", "same", "pod", ".*")
label_replace(temperature, "x", "y", "pod", "zzz")
abs({__name__=~"temperature|info",pod="a"})
clamp_min(sum(rate(http_requests_total{code="500"}[5m])) or vector(0), 0.001)
"""

_REFUSED = r"""
sum(
rate(temperature)
rate(temperature[5m]
foo(temperature)
{pod=""}
{}
temperature{pod=~"["}
temperature{pod=~"a**"}
temperature{pod=~"(?=a)a"}
temperature{pod=~"(a)\\1"}
temperature{pod=~"a{1001}"}
temperature{pod=~"(?<name>a)"}
temperature{pod=~"\\u0061"}
temperature{pod=~"*"}
temperature{pod=~")"}
temperature{pod="a"
temperature{pod=a}
temperature{"pod"="a"}
{"temperature"}
temperature{pod="a" or pod="b"}
temperature{pod="\q"}
1 > 2
1 and 2
sum(temperature, temperature)
topk(temperature)
topk(temperature, temperature)
temperature[0s]
temperature[5]
temperature[5m:60]
temperature[300y]
temperature[5m] + 1
temperature offset 300
temperature offset 1m offset 1m
temperature and 1
temperature and bool info
temperature + bool info
temperature or on(pod) group_left info
temperature + on(pod) group_left(pod) info
temperature * 5m
5m
1e309
"a" + "b"
+"a"
sum by ("pod") (temperature)
vector(temperature)
scalar(1)
label_replace(temperature, "a", "b", "c")
limitk(1, temperature)
sort_by_label(temperature, "pod")
mad_over_time(temperature[5m])
double_exponential_smoothing(temperature[5m], 0.5, 0.5)
info(temperature)
temperature fill(0) + temperature
start()
1_000
(1
1)
()
größe
"""

_NOT_KNOWN = r"""
count_values("value", info)
temperature atan2 temperature
pi()
minute()
hour(temperature)
month(vector(0))
year(vector(0))
day_of_month()
day_of_week()
day_of_year()
days_in_month()
deriv(temperature[5m])
predict_linear(temperature[5m], 60)
holt_winters(temperature[5m], 0.5, 0.5)
label_join(temperature, "both", "-", "pod", "track")
sin(temperature)
cos(temperature)
tan(temperature)
asin(temperature)
acos(temperature)
atan(temperature)
sinh(temperature)
cosh(temperature)
tanh(temperature)
asinh(temperature)
acosh(temperature)
atanh(temperature)
deg(temperature)
rad(temperature)
histogram_count(temperature)
histogram_sum(temperature)
histogram_fraction(0, 1, temperature)
rate(http_requests_total @ end() [5m])
temperature @ -1
info{pod=~"\\pL"}
info{pod=~"\\Qa\\E"}
info{pod=~"\\101"}
info{pod=~"(?U)a+"}
info{pod=~"(?m)^a$"}
info{pod=~"[[:^alpha:]]"}
info{pod=~"[[a]"}
"""

EXPRESSIONS = tuple(
    line
    for block in (_SELECTORS, _RANGES, _AGGREGATIONS, _HISTOGRAMS, _BINARY, _FUNCTIONS)
    for line in block.split("\n")
    if line.strip()
)
"""Expressions with an answer (or an execution error) that must be the same on both."""

REFUSED = tuple(line for line in _REFUSED.split("\n") if line.strip())
"""What is no PromQL of Prometheus 2.42, though some is of later versions: 400 and bad_data on both."""

NOT_KNOWN = tuple(line for line in _NOT_KNOWN.split("\n") if line.strip())
"""All that Prometheus 2.42 answers and the stand-in does not: it says so, and refuses nothing else."""

MOMENTS = (END_S, END_S - 7, END_S - 150, START_S + 457, END_S + 240, END_S + 310)
"""Evaluation times, Unix seconds: at the end, between samples, in the gap, past the end and the lookback."""

PATTERNS = (
    ("[[:alpha:]_]+", "a_B", "a1"),
    ("a$", "a", "a\n"),
    (r"a\z", "a", "a\n"),
    ("a(?i)b|c", "aB", "Ab"),
    ("a(?i)b|c", "C", "AB"),
    ("(?i:a)b", "Ab", "AB"),
    ("(x(?i)y)z", "xYz", "xyZ"),
    ("a{,2}", "a{,2}", "aa"),
    ("a{2,3}?", "aaa", "a"),
    (r"\x{1F680}|\x41", "🚀", "B"),
    (r"\101[\141-c]", "Ab", "Ad"),
    (r"[^]a]", "b", "]"),
    (r"[a\-z]", "-", "b"),
    (r"[\d-z]", "-", "y"),
    (r"\s", "\t", "\v"),
    (r"\w+", "a_1", "ü"),
    (".", "x", "\n"),
    ("(?s).", "\n", ""),
    ("^*a", "a", "b"),
    ("a||b", "", "c"),
    (r"\.\_\@", "._@", "a_@"),
    ("ü+", "üü", "u"),
)
"""Regular expressions, with a text each matches as a whole and one it does not."""

BAD_PATTERNS = tuple(
    r"""(?=a) (?!a) (?<=a) (?<n>a) (?>a) (?#a) (?x)a (?P=n) (a)\1 a** a*+ a{2}{2} * (*) a|+ ( ) [ [z-a]
    [[:nope:]] a{1001} a{2,1} \ \y \u0041 a\Z (?L)a (?Pa) (?i-)a \x{110000} \xg (?a)a (?-)a""".split()  # noqa: SIM905
)
"""Regular expressions that are none."""
