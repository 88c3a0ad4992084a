"""The keys of a replay; live, each says why it does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cockpit.journal.replay import Replay
from cockpit.screens.feed import ReplayFeed

if TYPE_CHECKING:
    from cockpit.screens.app import CockpitApp

_SEEK_S = 10.0


class Transport:
    """Play, pause, step, seek."""

    def __init__(self, app: CockpitApp) -> None:
        self._app = app

    @property
    def handlers(self) -> dict[str, Callable[[], object]]:
        """What each action of the replay does."""
        return {
            "play": lambda: self._with(lambda replay: replay.pause() if replay.playing else replay.play()),
            "step_forward": lambda: self._with(lambda replay: replay.step(1)),
            "step_back": lambda: self._with(lambda replay: replay.step(-1)),
            "seek_forward": lambda: self._with(lambda replay: replay.seek_seconds(_SEEK_S)),
            "seek_back": lambda: self._with(lambda replay: replay.seek_seconds(-_SEEK_S)),
            "seek_start": lambda: self._with(lambda replay: replay.seek(0)),
            "seek_end": lambda: self._with(lambda replay: replay.seek(replay.length)),
            "faster": lambda: self._with(lambda replay: replay.faster()),
            "slower": lambda: self._with(lambda replay: replay.faster(-1)),
            "seek_break": self._seek_break,
        }

    def seek_share(self, share: float) -> None:
        """Seek to a share of the recording, from 0 to 1."""
        self._with(lambda replay: replay.seek(round(share * replay.length)))

    def _seek_break(self) -> None:
        if self._app.feed.chain.checked == "broken":
            self._with(lambda replay: replay.seek(replay.length))
        elif self._app.feed.chain.checked == "unverified":
            self._app.notice("No break is known: verification has not ended yet.")
        else:
            self._app.notice("The chain is whole: there is no break to go to.")

    def _with(self, act: Callable[[Replay], object]) -> None:
        feed = self._app.feed
        if isinstance(feed, ReplayFeed):
            act(feed.replay)
            self._app.repaint()
        else:
            self._app.notice("This key plays recordings; this is live.")
