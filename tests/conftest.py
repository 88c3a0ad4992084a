"""Fixtures every part may use: the real servers that are started once a session."""

from __future__ import annotations

from tests.real.control_plane_fixtures import control_plane_of_session as control_plane_of_session
