"""Servers that several contract suites share; each starts once a session, when the first test asks for it."""

from tests.contract.prometheus_fixtures import any_prometheus as any_prometheus
from tests.contract.prometheus_fixtures import prom as prom
from tests.contract.prometheus_fixtures import prometheus_real as prometheus_real
from tests.contract.prometheus_fixtures import prometheus_standin as prometheus_standin
