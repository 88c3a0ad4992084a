"""A Prometheus stand-in: scrapes over HTTP, stores in memory, answers PromQL over the real API.

It says in its build information that it is one. `cockpit.rehearsal.prometheus.server` holds the server.
"""
