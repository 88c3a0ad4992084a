"""The top two lines: what is released where, the badges, the clocks."""

from __future__ import annotations

from datetime import UTC, datetime

from cockpit.base.text import visible
from cockpit.screens.look import Look, Row, clock, seconds_of, spread, width_of
from cockpit.screens.view import View
from cockpit.screens.waits import escalated, glass
from cockpit.screens.widgets.line import Lines

_CHAINS = {
    "unverified": ("UNVERIFIED", "warn"),
    "verified": ("VERIFIED", "good"),
    "not closed": ("INTACT, NOT CLOSED", "warn"),
}


class Header(Lines):
    """Release and badges on the first line, window and clocks on the second."""

    def rows(self, view: View, width: int) -> list[Row]:
        """Return the two lines."""
        look, run = self.look, view.state.run
        badges = _badges(view, look)
        if run is None:
            name: Row = ((" Release Cockpit ", look.strong), ("waiting for the journal", look.quiet))
        else:
            target = ((f" {visible(run.version, limit=24)}", look.strong), (" → ", look.quiet))
            name = (*target, (visible(run.environment, limit=12), look.strong))
            repo = visible(run.repo, limit=60)
            if width - width_of(name) - width_of(badges) > len(repo) + 4:
                name = ((f" {repo}", look.quiet), *name)
        return [spread(name, badges, width), spread(_window(view, look), _now(view, look, width), width)]


def _badges(view: View, look: Look) -> Row:
    state, words = view.state, []
    if state.run is not None and state.run.rehearsal:
        words.append(("REHEARSAL", look.mark))
    if state.reduced:
        words.append(("REDUCED", look.warn))
    if view.mode == "replay":
        words.append(("REPLAY", look.mark))
    elif not view.desk.control:
        words.append(("READ-ONLY", look.warn))
    elif not view.desk.attached and state.closed is None:
        words.append(("NO CONDUCTOR", look.bad) if state.run is not None else ("STARTING", look.warn))
    if view.chain.checked == "broken":
        words.append((view.chain.verdict, look.bad))
    elif view.chain.checked in _CHAINS:
        word, role = _CHAINS[view.chain.checked]
        words.append((word, getattr(look, role)))
    if state.halt is not None and state.halt.active and state.closed is None:
        words.append(("HALTED", look.bad))
    if glass(view).overridden:
        words.append(("GLASS", look.bad))
    if escalated(view):
        words.append(("ESCALATED", look.bad))
    if state.people.paused and state.closed is None:
        words.append(("PAUSED", look.warn))
    if state.closed is not None:
        words.append(("CLOSED", look.good if state.closed.exit == 0 else look.bad))
    row: list[tuple[str, object]] = []
    for word, style in words:
        row += [(f" {word} ", look.block(style)), (" ", look.text)]
    return tuple(row)  # type: ignore[arg-type]


def _window(view: View, look: Look) -> Row:
    run = view.state.run
    if run is None:
        return ()
    start, end = seconds_of(run.window_start), seconds_of(run.window_end)
    if start is None or end is None:
        return ((" window unknown", look.warn),)
    if view.now < start:
        return ((" window opens in ", look.warn), (clock(start - view.now), look.warn))
    if view.now >= end:
        return ((" window CLOSED ", look.bad), (f"{clock(view.now - end)} ago", look.bad))
    left = end - view.now
    role = look.warn if left < 900 else look.text
    closes = datetime.fromtimestamp(end, UTC).strftime("%H:%M")
    return ((" window ", look.quiet), (f"{clock(left)} left", role), (f"  closes {closes}", look.quiet))


def _now(view: View, look: Look, width: int) -> Row:
    run = view.state.run
    who: Row = ()
    if run is not None and width >= 100:
        operator = visible(view.stands.operator, limit=24)
        who = ((f"{operator}@{visible(run.host, limit=24)}   ", look.quiet),)
    if run is not None and width >= 130:
        who = ((f"run {visible(run.run_id, limit=40)}   ", look.quiet), *who)
    now = datetime.fromtimestamp(view.now, UTC).strftime("%H:%M:%S" if width < 100 else "%Y-%m-%d %H:%M:%S")
    return (*who, (now, look.strong), (" UTC ", look.quiet))
