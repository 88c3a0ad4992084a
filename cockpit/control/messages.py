"""What front ends say to the conductor over its control socket: one JSON object a line, both ways."""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")
Kind = Literal[
    "hello", "halt", "resume", "stay", "rollback", "reason", "note", "answer", "ping",
    "acknowledge", "pause", "unpause", "extend", "reverify", "handover", "accept",
    "approve", "break-glass", "review", "step-up", "promote",
]  # fmt: skip
MAX_COMMAND_BYTES = 64 * 1024


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command. `by` is the person, `source` the front end (tui, auto, follow, shell).

    - hello: attach as a front end with control (`source` names it); closing the connection detaches.
    - halt: nothing forward goes out from now on; it acts before any reason is asked.
    - resume, stay: answers to the HALT question; resume needs a reason.
    - rollback: abort; needs a reason, which may follow by `reason`.
    - reason: the reason for access of the last halt or rollback.
    - note: a remark for the journal.
    - acknowledge: somebody attends to the decision that waits; escalation stops.
    - pause, unpause: the bake's clock stands still, or goes on; analysis goes on in both. Need a reason.
    - extend: the bake lasts `seconds` longer; needs a reason.
    - reverify: agent `agent` verifies again; needs a reason, and is counted.
    - handover: offer the run to `to`; accept: take what was offered to `by`.
    - approve: `statement` is a signed approval or rejection of request `question`, as Sigstore bundle.
    - break-glass: override phase gate `gate`; `statement` is signed by who asks. review: its review.
    - step-up: `answer` is a one-time password of `by`, for the obligation that waits.
    - promote: Promote v2 in `statement`; begins the promotion that waits for it.
    - answer: to the question `question` with the option `answer`.
    """

    id: str
    kind: Kind
    by: str
    source: str
    reason: str = ""
    question: str = ""
    answer: str = ""
    agent: str = ""
    gate: str = ""
    to: str = ""
    seconds: float = 0.0
    statement: str = ""


class Reply(msgspec.Struct, frozen=True):
    """The conductor's answer: whether the command was taken, and why not. Effects show in the journal."""

    id: str
    ok: bool
    text: str = ""


def encode(message: Command | Reply) -> bytes:
    """Return a message as one line."""
    return msgspec.json.encode(message) + b"\n"


def decode_command(line: bytes) -> Command:
    """Decode a command; raises msgspec.DecodeError (ValidationError) on anything else."""
    return _decode(line, Command)


def decode_reply(line: bytes) -> Reply:
    """Decode a reply; raises msgspec.DecodeError on anything else."""
    return _decode(line, Reply)


def _decode(line: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"not UTF-8: {error.reason}") from None
