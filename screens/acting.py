"""What every flow behind a key needs: the line to the conductor, and why something cannot be done here."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from cockpit.control.messages import Kind
from cockpit.journal.state import ReleaseState
from cockpit.screens.view import View

if TYPE_CHECKING:
    from cockpit.screens.app import CockpitApp


class Acting:
    """The base of the flows; every refusal says why."""

    def __init__(self, app: CockpitApp) -> None:
        self._app = app

    @property
    def _view(self) -> View:
        return self._app.view

    @property
    def _state(self) -> ReleaseState:
        return self._app.view.state

    def _start(self, name: str, flow: Coroutine[Any, Any, None]) -> None:
        """Run a flow of dialogues; another of the same name takes its place."""
        self._app.run_worker(flow, name=name, group=name, exclusive=True, exit_on_error=False)

    async def _send(
        self,
        kind: Kind,
        *,
        reason: str = "",
        question: str = "",
        answer: str = "",
        agent: str = "",
        to: str = "",
        seconds: float = 0.0,
    ) -> bool:
        """Send a command; says whether it was taken, and says loudly when it was not."""
        link = self._app.link
        if link is None:
            return False
        taken = await link.send(
            kind,
            self._state,
            reason=reason,
            question=question,
            answer=answer,
            agent=agent,
            to=to,
            seconds=seconds,
        )
        self._app.repaint()
        if not taken:
            trouble = next((sent.trouble for sent in link.desk().sent if sent.kind == kind), "")
            self._app.notice(f"{kind.upper()} NOT DELIVERED: {trouble}", bad=True)
        return taken

    def _blocked(self, what: str) -> bool:
        """Say why something cannot be done here; says whether it cannot."""
        view = self._view
        if view.mode == "replay":
            self._app.notice(f"{what} is not possible: this is a recording, there is nothing to act on.")
        elif self._app.link is None:
            how = f"cockpit follow --control --run {view.desk.run_dir or 'DIR'}"
            self._app.notice(f"{what} is not possible: {view.desk.reason}. With control: {how}")
        elif view.state.closed is not None:
            self._app.notice(f"{what} is not possible: the run has ended ({view.state.closed.outcome}).")
        else:
            return False
        return True
