"""The error tree: each error says what happened, where, and what to do next.

CockpitError
├── UsageError            bad flags, unreadable files (exit 64)
│   └── PlanError         a release plan that is wrong (exit 64)
├── MessageInvalid        an Agent RPC v2 message that fails its schema
├── BackendError          a back end that did not answer as it must
│   ├── BackendUnreachable    no connection, time-out, cut
│   ├── BackendRefused        4xx: it understood and said no
│   ├── BackendGarbage        an answer that is not what the protocol promises
│   └── Conflict              409: the object changed since it was read
├── AnswerLate            an agent that is not ours did not answer in its time
├── EffectRefused         the effects gate said no
├── JournalError          the journal cannot be written or read
│   └── ChainBroken       a link of the chain does not match
├── EvidenceError         a pack that cannot be built or read
└── LockHeld              another conductor holds the release
"""

from __future__ import annotations


class CockpitError(Exception):
    """Base of all errors this project raises on purpose.

    `what` happened, `where` (file:line, URL or object) and what to do next (`hint`).
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(CockpitError):
    """Bad flags or unreadable input; the command exits 64."""


class PlanError(UsageError):
    """A release plan that is wrong; `problems` holds every one found."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.problems = problems


class MessageInvalid(CockpitError):
    """An Agent RPC v2 message that fails its schema, or is too large to check."""


class BackendError(CockpitError):
    """A back end did not answer as it must."""


class BackendUnreachable(BackendError):
    """No connection, a time-out or a cut."""


class BackendRefused(BackendError):
    """The back end understood and said no; `status` is its HTTP status."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", status: int = 0) -> None:
        super().__init__(what, where=where, hint=hint)
        self.status = status


class BackendGarbage(BackendError):
    """The answer is not what the protocol promises."""


class Conflict(BackendError):
    """The object has changed since it was read (HTTP 409)."""


class AnswerLate(CockpitError):
    """An agent that is not ours did not answer within the time the plan gives it."""


class EffectRefused(CockpitError):
    """The effects gate refused a mutation.

    `reason` is one word: halt, fence, env, window, approval, journal, capability.
    """

    def __init__(self, what: str, *, reason: str, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.reason = reason


class JournalError(CockpitError):
    """The journal cannot be written or read."""


class ChainBroken(JournalError):
    """A link of the chain does not match; `seq` is the first record that cannot be trusted."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", seq: int = -1) -> None:
        super().__init__(what, where=where, hint=hint)
        self.seq = seq


class EvidenceError(CockpitError):
    """A pack that cannot be built or read."""


class LockHeld(CockpitError):
    """Another conductor holds the release."""
