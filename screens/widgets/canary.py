"""The canary: the step, what is wanted beside what is seen, and how the analysis stands."""

from __future__ import annotations

from math import isfinite
from typing import ClassVar

from cockpit.base.text import visible
from cockpit.journal.state import CanaryView, LookView
from cockpit.screens.look import Row, Segment, clip, fit, mark, number, span, width_of
from cockpit.screens.view import View
from cockpit.screens.widgets.pane import Pane

_PARTS = " ▏▎▍▌▋▊▉"
_STEPS_DEFAULT: list[int] = []


def bar(share: float, width: int) -> tuple[str, str]:
    """Return the filled and the empty part of a bar of `width` cells for a share of 0 to 1."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    filled = "█" * full + (_PARTS[part] if part else "")
    return filled, "░" * (width - len(filled))


def weight_of(metric: str) -> tuple[int, str]:
    """Return a sort key that puts what users feel first: latency, errors, then the rest."""
    for rank, start in enumerate(("p95", "error_rate", "share")):
        if metric.startswith(start):
            return rank, metric
    return 9, metric


class Canary(Pane):
    """Steps, weights, passes, the last look and the replicas."""

    TITLE: ClassVar[str] = "Canary"

    def title(self, view: View) -> str:
        """Return the title with the step and its stage."""
        canary, steps = view.state.canary, view.state.run.steps if view.state.run else _STEPS_DEFAULT
        if not canary.step:
            return "Canary · not started"
        stage = f" · {visible(canary.stage, limit=20)}" if canary.stage else ""
        people = view.state.people
        extended = f" +{span(people.extended_s)}" if people.extended_s else ""
        paused = " PAUSED" if people.paused else ""
        return f"Canary · step {canary.step}/{len(steps)}{stage}{paused}{extended}"

    def fresh(self, view: View) -> str:
        """Return when weight or analysis was last seen."""
        canary = view.state.canary
        return max(canary.desired_at, canary.observed_at, canary.last.at if canary.last else "")

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return the rows, most important first so that a small pane loses the least."""
        canary = view.state.canary
        rows = [clip(self._steps(view), width), *self._weights(canary, width), self._counts(canary, width)]
        rows += self._last(canary.last, width)
        if canary.decision:
            sign = mark(canary.decision)
            style = sign.style(self.look)
            reason = fit(canary.reason, width - len(sign.word) - 13)
            rows.append(((f" decision {sign.icon} {sign.word} ", style), (reason, self.look.text)))
        elif canary.detail:
            rows.append(
                (
                    (f" {fit(canary.stage, 9)}", self.look.quiet),
                    (fit(canary.detail, width - 11), self.look.text),
                )
            )
        rows += self._replicas(canary, width)
        names = self._deployments(canary, width)
        return [*rows, (), *names] if len(rows) + len(names) < height else rows

    def _steps(self, view: View) -> Row:
        look, canary = self.look, view.state.canary
        out: list[Segment] = [(" ", look.text)]
        for index, weight in enumerate(view.state.run.steps if view.state.run else _STEPS_DEFAULT, 1):
            if index > 1:
                out.append((" → ", look.quiet))
            if canary.released or index < canary.step:
                out.append((f"✓ {weight} %", look.good))
            elif index == canary.step:
                style = look.bad if view.state.rollback or canary.decision == "rollback" else look.busy
                out.append((f" ▶ {weight} % ", look.block(style)))
            else:
                out.append((f"· {weight} %", look.quiet))
        if canary.released:
            out.append(("  ✓ RELEASED", look.good + look.strong))
        return tuple(out)

    def _weights(self, canary: CanaryView, width: int) -> list[Row]:
        look = self.look
        room = max(8, width - 19)
        wanted, left = bar(canary.desired / 100, room)
        rows: list[Row] = [
            (
                (" desired  ", look.quiet),
                (wanted, look.busy),
                (left, look.frame),
                (f" {canary.desired:>5} %", look.strong),
            )
        ]
        if canary.observed is None:
            rows.append(
                ((" observed ", look.quiet), ("?" + "░" * (room - 1), look.frame), (" not seen", look.warn))
            )
            return rows
        seen, left = bar(canary.observed / 100, room)
        near = abs(canary.observed - canary.desired) <= 10
        style = look.good if near else look.warn
        rows.append(
            (
                (" observed ", look.quiet),
                (seen, style),
                (left, look.frame),
                (f" {canary.observed:>5.1f} %", look.strong if near else look.warn),
            )
        )
        return rows

    def _counts(self, canary: CanaryView, width: int) -> Row:
        look = self.look
        dots: list[Segment] = []
        if 0 < canary.required <= 12:
            dots = [
                ("●" * min(canary.passes, canary.required), look.good),
                ("○" * max(0, canary.required - canary.passes), look.quiet),
                (" ", look.text),
            ]
        needed = f"/{canary.required}" if canary.required else ""
        bad = look.bad if canary.failures else look.quiet
        failures = f"✗ {canary.failures} failed" if canary.failures else "0 failed"
        return (
            (" passes   ", look.quiet),
            *dots,
            (f"{canary.passes}{needed}", look.strong),
            (f"   {failures}", bad),
            (f"   {canary.looks} looks" if width >= 46 else "", look.quiet),
        )

    def _last(self, last: LookView | None, width: int) -> list[Row]:
        look = self.look
        if last is None:
            return [((" last look", look.quiet), (" none in this step", look.quiet))]
        sign = mark(last.outcome)
        critical = " CRITICAL" if last.critical and last.outcome == "fail" else ""
        head: Row = (
            (" last look ", look.quiet),
            (f"{sign.icon} {sign.word}{critical} ", sign.style(look)),
        )
        first: Row = (*head, (fit(last.reason, width - width_of(head)), look.text))
        numbers = [f"requests {number(round(last.requests) if isfinite(last.requests) else last.requests)}"]
        shown = sorted(
            (name for name in last.metrics if not name.startswith(("requests", "burn"))), key=weight_of
        )
        numbers += [f"{visible(name, limit=24)} {number(last.metrics[name])}" for name in shown]
        return [first, ((f" {fit('  '.join(numbers), width - 1)}", look.text),)]

    def _replicas(self, canary: CanaryView, width: int) -> list[Row]:
        """Ready pods of stable and canary in sum, and by name where some are missing."""
        look = self.look
        if not canary.replicas:
            return []
        row: list[Segment] = [(" pods     ", look.quiet)]
        short: list[Segment] = []
        sums = {"stable": [0, 0], "canary": [0, 0]}
        for name, counts in sorted(canary.replicas.items()):
            desired, ready = (*counts, 0, 0)[:2]
            track = sums["canary" if name.endswith("-canary") else "stable"]
            track[0] += desired
            track[1] += ready
            if ready < desired:
                short.append((f"! {visible(name, limit=40)} {ready}/{desired}  ", look.warn))
        for track_name, (desired, ready) in sums.items():
            icon, style = ("✓", look.text) if ready >= desired else ("!", look.warn)
            row.append((f"{icon} {track_name} {ready}/{desired}   ", style))
        rows: list[Row] = [tuple(row)]
        if short:
            rows.append(clip((("          ", look.quiet), *short), width))
        return rows

    def _deployments(self, canary: CanaryView, width: int) -> list[Row]:
        """Each deployment with its pods, in columns; for a pane with room to spare."""
        look = self.look
        cells = [(visible(name, limit=40), counts) for name, counts in sorted(canary.replicas.items())]
        if not cells:
            return []
        size = max(len(name) for name, _ in cells) + 9
        across = max(1, width // size)
        rows: list[Row] = []
        for start in range(0, len(cells), across):
            row: list[Segment] = []
            for name, counts in cells[start : start + across]:
                desired, ready = (*counts, 0, 0)[:2]
                icon, style = ("✓", look.quiet) if ready >= desired else ("!", look.warn)
                row.append((fit(f" {icon} {name} {ready}/{desired}", size), style))
            rows.append(tuple(row))
        return rows
