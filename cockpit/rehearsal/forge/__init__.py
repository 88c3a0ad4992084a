"""A git repository for rehearsals, written object by object: git itself need not be installed."""

from __future__ import annotations

from cockpit.rehearsal.forge.history import BASE_REF, FROM_REF, MAIN, TO_REF, Forge, make_repository
from cockpit.rehearsal.forge.objects import Author, ObjectStore

__all__ = ["BASE_REF", "FROM_REF", "MAIN", "TO_REF", "Author", "Forge", "ObjectStore", "make_repository"]
