"""A Sigstore on loopback for rehearsals: token issuer, CA with CT log, transparency log, time-stamps.

Real protocols with keys made at start-up. Who runs this process can forge anything it signs: it shows that
formats and bindings hold, never that log, CA or clock are independent. Its trusted root says so in each
operator field.
"""

from __future__ import annotations

from cockpit.rehearsal.sigstore.build import BuildSigning
from cockpit.rehearsal.sigstore.interface import SERVICES, Service, Sigstore
from cockpit.rehearsal.sigstore.server import FAULTS, Fault, SigstoreServer
from cockpit.rehearsal.sigstore.trust import OPERATOR

__all__ = ["FAULTS", "OPERATOR", "SERVICES", "BuildSigning", "Fault", "Service", "Sigstore", "SigstoreServer"]
