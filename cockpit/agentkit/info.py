"""What the roster declares of an agent, built or not."""

from __future__ import annotations

from dataclasses import dataclass, field

OPS = ("PLAN", "APPLY", "VERIFY", "ROLLBACK", "EVIDENCE")


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """One line of the roster (seed section 4; spec of what each agent does).

    `gates` are the phase gates it owes a verdict for; `phases` may hold `canary` beside P0…P8;
    `implementation` is `module:Class`, empty while it is not built.
    """

    id: str
    name: str
    raci: str
    domain: str
    summary: str
    phases: tuple[str, ...]
    capabilities: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    mutates: bool = False
    undo: str = "–"
    implementation: str = ""
    ops: tuple[str, ...] = field(default=OPS)

    @property
    def built(self) -> bool:
        """Tell whether it does its work in this version; if not it answers `blocked`."""
        return bool(self.implementation)
