"""`cockpit run PLAN --preview`: what the run would do and what is in the release, changing nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from cockpit.base.clock import SystemClock
from cockpit.base.text import visible
from cockpit.plan.load import LoadedPlan
from cockpit.preview import AgentRow, ContentsRow, Row, RunRow, preview

_SHOWN_COMMITS = 40


def show(loaded: LoadedPlan, form: str) -> int:
    """Print the preview as text or JSON lines; return 0 when nothing stands in the way, else 1."""
    return asyncio.run(_show(loaded, form))


async def _show(loaded: LoadedPlan, form: str) -> int:
    phase, problems, agents, blocked = "", 0, 0, 0
    async for row in preview(loaded, SystemClock()):
        if isinstance(row, AgentRow):
            agents, blocked = agents + 1, blocked + (not row.ok)
        elif isinstance(row, ContentsRow):
            problems = len(row.problems) + sum(bool(image.problem) for image in row.images)
        if form == "jsonl":
            print(msgspec.json.encode(row).decode(), flush=True)
            continue
        if isinstance(row, AgentRow) and row.phase != phase:
            phase = row.phase
            print(f"\n{phase}")
        for line in _lines(row):
            print(visible(line), flush=True)
    if form == "text":
        print(f"\n{agents - blocked} of {agents} agents could begin; nothing was changed")
    return 1 if blocked or problems else 0


def _lines(row: Row) -> Iterator[str]:
    if isinstance(row, RunRow):
        yield from _run(row)
    elif isinstance(row, ContentsRow):
        yield from _contents(row)
    else:
        yield from _agent(row)


def _run(row: RunRow) -> Iterator[str]:
    yield f"{row.version} to {row.environment}, plan sha256:{row.plan_sha256}"
    yield f"window     {row.window_start} to {row.window_end}"
    yield f"phases     {' '.join(row.phases)}; gates {', '.join(row.required_gates)}"
    if row.stages:
        yield f"stages     {', '.join(row.stages)}"
    steps = ", ".join(f"{step} %" for step in row.steps)
    begins = "the gates" if row.promote_on == "gates" else "the gates and a Promote v2"
    yield f"promotion  {steps}, each baked {row.bake_s:g} s; begun by {begins}"
    for reason in row.reduced:
        yield f"REDUCED    {reason}"
    for approval in row.approvals:
        yield f"approval   {approval}"
    for waiver in row.waivers:
        yield f"waived     {waiver}"


def _contents(row: ContentsRow) -> Iterator[str]:
    yield ""
    yield "In this release"
    for problem in row.problems:
        yield f"  not known  {problem}"
    for commit in row.commits[:_SHOWN_COMMITS]:
        pull = f" (#{commit.pull_request})" if commit.pull_request else ""
        text = commit.text.removesuffix(pull)
        yield f"  commit     {commit.sha[:12]} {commit.kind}{'!' if commit.breaking else ''}: {text}{pull}"
    more = row.left_out + max(0, len(row.commits) - _SHOWN_COMMITS)
    if more:
        yield f"  commit     and {more} more"
    yield f"  PRs        {', '.join(row.pull_requests) or 'none named by a commit'}"
    for image in row.images:
        now = image.now or f"unknown ({image.problem})"
        same = " (as it is)" if image.now == image.then else ""
        yield f"  image      {image.service}: {now} → {image.then}{same}"
    for flag in row.flags:
        yield f"  flag       {flag}"
    for path in row.migrations or ["none"]:
        yield f"  migration  {path}"


def _agent(row: AgentRow) -> Iterator[str]:
    whose = ", external" if row.external else ""
    word = "would change" if row.changes else "would measure"
    state = word if row.ok else row.answered
    yield f"  {row.agent:4} {row.name}{whose}: {' → '.join(row.ops)}: {state}"
    for line in row.notes.splitlines():
        yield f"         {line}"
    if not row.ok and row.next:
        yield f"         next: {row.next}"
