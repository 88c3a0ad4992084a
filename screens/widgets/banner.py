"""The banners: what must not be missed, each a full line in reversed colours."""

from __future__ import annotations

from cockpit.screens.alerts import alerts
from cockpit.screens.look import Row, fit
from cockpit.screens.view import View
from cockpit.screens.widgets.line import Lines

_MOST = 3


class Banner(Lines):
    """Up to three alerts; the rest is counted. The widget is as high as it has lines."""

    def show(self, view: View) -> None:
        """Take a new view; the height follows the number of alerts."""
        count = min(_MOST, sum(1 for alert in alerts(view) if alert.banner))
        if self.styles.height is None or self.styles.height.value != count:
            self.styles.height = count
        self.display = count > 0 and not self.screen.has_class("too-small")
        super().show(view)

    def rows(self, view: View, width: int) -> list[Row]:
        """Return a line for each alert shown."""
        shown = [alert for alert in alerts(view) if alert.banner]
        rows: list[Row] = []
        for index, alert in enumerate(shown[:_MOST]):
            text = f" {alert.text}"
            hidden = len(shown) - _MOST
            style = self.look.block(getattr(self.look, alert.role))
            if index == _MOST - 1 and hidden > 0:
                more = f"  +{hidden} more: {view.keys['alerts']} "
                rows.append(((fit(text, width - len(more)), style), (more, style)))
            else:
                rows.append(((fit(text, width), style),))
        return rows
