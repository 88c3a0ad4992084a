"""A Prometheus stand-in: scrapes over HTTP, stores in memory, answers PromQL over the real API.

It says in its build information that it is one. `cockpit.rehearsal.prometheus.server` holds the server.
What it follows is Prometheus 2.42, in its answers and in what it refuses: ranges and the lookback are closed
at both ends. Since Prometheus 3 they are open on the left, so that there `x[1m]` of samples 15 s apart holds
four where it may hold five here; rates over a window hardly differ, counts over one do.
"""
