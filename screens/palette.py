"""The command palette, fed by the action registry."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from cockpit.control.actions import Action

if TYPE_CHECKING:
    from cockpit.screens.app import CockpitApp


class Registry(Provider):
    """Finds actions by label, key and help line."""

    async def discover(self) -> Hits:
        """Offer every action of the mode."""
        for action in self._actions():
            yield DiscoveryHit(_label(action), partial(self._app.do, action.id), help=action.help)

    async def search(self, query: str) -> Hits:
        """Offer the actions that match."""
        matcher = self.matcher(query)
        for action in self._actions():
            score = max(matcher.match(_label(action)), matcher.match(action.help) / 2)
            if score > 0:
                yield Hit(
                    score,
                    matcher.highlight(_label(action)),
                    partial(self._app.do, action.id),
                    help=action.help,
                )

    @property
    def _app(self) -> CockpitApp:
        return cast("CockpitApp", self.app)

    def _actions(self) -> list[Action]:
        return [one for one in self._app.keys.actions if one.in_mode(self._app.mode) and one.id != "palette"]


def _label(action: Action) -> str:
    return f"{action.label} ({action.shown})"
