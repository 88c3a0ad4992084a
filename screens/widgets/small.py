"""What is shown when the terminal is too small: how small, what would do, and what matters most."""

from __future__ import annotations

from cockpit.base.text import visible
from cockpit.screens.alerts import alerts
from cockpit.screens.look import Row, fit, wrap
from cockpit.screens.view import View
from cockpit.screens.widgets.line import Lines


class TooSmall(Lines):
    """A few plain lines; HALT and ROLLBACK keep working and say so."""

    def rows(self, view: View, width: int) -> list[Row]:
        """Return the lines that fit best in very little room."""
        look, size = self.look, self.app.size
        rows: list[Row] = [
            ((fit(f"terminal too small (now {size.width}×{size.height}, needs 80×24)", width), look.warn),),
            ((fit(_keys(view), width), look.block(look.bad)),),
        ]
        canary, run = view.state.canary, view.state.run
        if run is not None:
            observed = "?" if canary.observed is None else f"{canary.observed:.0f}"
            weights = f"canary {canary.desired} %, seen {observed} %"
            text = f"{visible(run.version, limit=20)} {view.state.mode}: {weights}"
            rows += [((line, look.strong),) for line in wrap(text, max(10, width))]
        for alert in alerts(view):
            if alert.banner:
                style = look.block(getattr(look, alert.role))
                rows += [((line, style),) for line in wrap(alert.text, max(10, width))]
        return rows


def _keys(view: View) -> str:
    keys = view.keys
    return f" {keys['halt']} HALT  {keys['rollback']} ROLLBACK  {keys['leave']} leave "
