"""What lies on this machine and in the plan itself: secrets, the window, the standby."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

from pydantic import BaseModel

from cockpit.backends.tls import certificates_of, read_authorities
from cockpit.base.clock import Clock
from cockpit.base.errors import UsageError
from cockpit.connecting import Clients
from cockpit.doctor.checks import Finding, Probe, fail, ok, unused, warn
from cockpit.plan.load import LoadedPlan
from cockpit.plan.values import SecretRef

_FOLDER_BITS = stat.S_IWGRP | stat.S_IWOTH
_FILE_BITS = stat.S_IRWXG | stat.S_IRWXO


class LocalPart:
    """The probes of what is here."""

    def __init__(self, loaded: LoadedPlan, clients: Clients, clock: Clock) -> None:
        self._loaded = loaded
        self._plan = loaded.plan
        self._clients = clients
        self._clock = clock

    def probes(self) -> Iterator[Probe]:
        """Yield the probes."""
        window = self._plan.window_utc
        named = f"{window.start:%Y-%m-%d %H:%M} → {window.end:%Y-%m-%d %H:%M} UTC"
        yield Probe("plan", "window", named, self._window, "correct `window_utc`")
        yield Probe("plan", "standby", "targets", self._standby, "waive it under `waivers`")
        for where, name in self._authorities():
            todo = f"put the certificates where `{where}` refers to, or correct it"
            yield Probe("plan", where, name, partial(self._read_authorities, name), todo)
        seen: dict[str, str] = {}
        for where, reference in secrets_of(self._plan):
            seen.setdefault(reference.ref, where)
        for ref, where in seen.items():
            todo = f"put the secret where `{where}` refers to, or correct the reference"
            yield Probe("secret", where, ref, partial(self._secret, SecretRef(ref=ref)), todo)
        token = self._plan.targets.kubernetes.token
        yield Probe("secret", "cluster token's end", token.ref, self._token_end, "make a new token")

    def _authorities(self) -> Iterator[tuple[str, str]]:
        targets = self._plan.targets
        for where, name in (
            ("targets.ca_file", targets.ca_file),
            ("targets.kubernetes.ca_file", targets.kubernetes.ca_file),
        ):
            if name:
                yield where, name

    async def _read_authorities(self, name: str) -> Finding:
        path = self._loaded.base / name
        found = certificates_of(read_authorities(path))
        now = self._clock.now()
        over = [who for who, ends in found if ends <= now]
        if len(over) == len(found):
            return fail(f"all of its {len(found)} certificates have ended", "put a new one there")
        if over:
            return warn(f"{len(over)} of {len(found)} have ended: {', '.join(over)}", "take them out")
        return ok(f"{len(found)} authorities: {', '.join(who for who, _ in found)}")

    async def _window(self) -> Finding:
        window, now = self._plan.window_utc, self._clock.now()
        if now >= window.end:
            return fail("it is over", "plan the release for a window to come")
        left = (window.start if now < window.start else window.end) - now
        minutes = int(left.total_seconds() // 60)
        return ok(
            f"{'opens' if now < window.start else 'open, ends'} in {minutes // 60} h {minutes % 60:02d} min"
        )

    async def _standby(self) -> Finding:
        waiver = next((one for one in self._plan.waivers if one.what == "standby"), None)
        if waiver is None:
            todo = "waive it under `waivers`, with owner and reason: this version has no standby conductor"
            return fail("there is none, and the plan does not waive it", todo)
        until = f"{self._plan.window_utc.end:%Y-%m-%d %H:%M} UTC"
        todo = "if this machine is lost in mid-canary, somebody must run `cockpit run PLAN --resume`"
        return warn(f"waived until {until} by {waiver.owner}: {waiver.reason}", todo, owner=waiver.owner)

    async def _secret(self, reference: SecretRef) -> Finding:
        kind, _, rest = reference.ref.partition(":")
        try:
            value = self._clients.secret(reference)
        except UsageError as error:
            raise UsageError(error.what) from None  # where it is looked for, the row says
        except UnicodeError:
            raise UsageError("it is not UTF-8 text") from None
        if not value.strip():
            raise UsageError("it is empty")
        if kind == "env":
            return ok("set in the environment")
        path = self._loaded.base / rest
        mode = stat.S_IMODE(path.stat().st_mode)
        folder = stat.S_IMODE(path.parent.stat().st_mode)
        shown = f"mode {mode:04o}"
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            return fail(f"{shown}: others may change it", f"chmod 600 {rest}", mode=f"{mode:04o}")
        if folder & _FOLDER_BITS and not folder & stat.S_ISVTX:
            parent = os.path.dirname(rest) or "."  # noqa: PTH120 - as the plan has it
            todo = f"chmod go-w {parent}"
            return fail(f"others may put another in its place: its folder is {folder:04o}", todo)
        if mode & _FILE_BITS:
            return warn(f"{shown}: others may read it", f"chmod 600 {rest}", mode=f"{mode:04o}")
        return ok(shown, mode=f"{mode:04o}")

    async def _token_end(self) -> Finding:
        expires = _expiry(self._clients.secret(self._plan.targets.kubernetes.token))
        if expires is None:
            return unused("the token does not say when it ends")
        if expires < self._clock.now():
            return fail(f"it ended at {expires:%Y-%m-%d %H:%M} UTC", "make a new token")
        said = f"it ends at {expires:%Y-%m-%d %H:%M} UTC"
        if expires < self._plan.window_utc.end:
            return fail(f"{said}, before the window", "make a token that outlives the release's window")
        return ok(said)


def secrets_of(value: object, where: str = "") -> Iterator[tuple[str, SecretRef]]:
    """Yield each secret a plan refers to, with its place in the plan, e.g. `targets.kubernetes.token`."""
    if isinstance(value, SecretRef):
        yield where, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from secrets_of(getattr(value, name), f"{where}.{name}" if where else name)
    elif isinstance(value, (tuple, list)):
        for index, inner in enumerate(value):
            yield from secrets_of(inner, f"{where}[{index}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from secrets_of(inner, f"{where}.{name}")


def _expiry(token: str) -> datetime | None:
    """Return when a service account's token ends; None for one that is no JWT or does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None
