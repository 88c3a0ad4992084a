"""The cockpit in the terminal: wires feed, screens, keys and the line to the conductor together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.actions import SkipAction
from textual.app import App
from textual.binding import Binding, BindingType
from textual.filter import LineFilter, Monochrome
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widgets import Input
from textual.worker import WorkerFailed

from cockpit.base.clock import Clock
from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.control.actions import ACTIONS
from cockpit.journal.blobs import BlobStore
from cockpit.screens.detail import Detail, Help
from cockpit.screens.facts import Stored, Subject, blob_of, pretty
from cockpit.screens.feed import Feed, ReplayFeed
from cockpit.screens.frame import Frame
from cockpit.screens.link import Link
from cockpit.screens.look import Look
from cockpit.screens.main import Main
from cockpit.screens.palette import Registry
from cockpit.screens.recording import firing_factors, read_recording
from cockpit.screens.stops import Stops
from cockpit.screens.themes import THEMES, Ascii, NoColour
from cockpit.screens.transport import Transport
from cockpit.screens.view import Chain, Desk, Mode, View
from cockpit.screens.widgets.agents import Agents
from cockpit.screens.widgets.burn import Burn
from cockpit.screens.widgets.canary import Canary
from cockpit.screens.widgets.gates import Gates
from cockpit.screens.widgets.keybar import KeyBar
from cockpit.screens.widgets.pane import Pane
from cockpit.screens.widgets.phases import Phases
from cockpit.screens.widgets.progress import Progress
from cockpit.screens.widgets.tabs import Tabs
from cockpit.screens.widgets.tail import JournalTail

_PAINT_EVERY = 0.1
_IDLE = 0.05
_SUBJECTS: tuple[tuple[type[Pane], str], ...] = (
    (Agents, "agent"),
    (Gates, "gate"),
    (Phases, "phase"),
    (JournalTail, "record"),
    (Canary, "canary"),
    (Burn, "canary"),
)


def _bindings() -> list[BindingType]:
    return [
        Binding(
            key, f"do({action.id!r})", action.label, id=f"{action.id}.{index}", priority=_priority(action.id)
        )
        for action in ACTIONS
        for index, key in enumerate(action.keys)
    ]


def _priority(action: str) -> bool:
    # These are heard before any dialogue; while a text field has the keys, only the last is.
    return action in ("halt", "rollback", "halt_always")


class CockpitApp(App[None], inherit_bindings=False):
    """The one app for live, follow and replay; `link` is the line to the conductor, none when read-only.

    `run_dir` is where stored payloads are read from when a detail is opened; without it none are shown.
    """

    CSS_PATH = "app.tcss"
    TITLE = "Release Cockpit"
    BINDINGS: ClassVar[list[BindingType]] = _bindings()
    COMMANDS = {Registry}
    COMMAND_PALETTE_BINDING = "ctrl+p"
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        feed: Feed,
        clock: Clock,
        *,
        link: Link | None = None,
        mode: Mode = "live",
        run_dir: Path | None = None,
        ascii: bool = False,
        theme: str = THEMES[0].name,
        load: bool = False,
    ) -> None:
        super().__init__()
        self.feed, self.clock, self.link, self.mode = feed, clock, link, mode
        self._run_dir = run_dir
        self._load = load
        self._extra: list[LineFilter] = []
        if self.no_color:
            self._extra.append(NoColour())
        self.ascii = ascii
        if ascii:
            self._extra.append(Ascii())
        for one in THEMES:
            self.register_theme(one)
        self.theme = theme if theme in {one.name for one in THEMES} else THEMES[0].name
        self.look = Look.of(self.current_theme)
        self._factors: tuple[float, ...] | None = None
        self._changed = True
        self._second = -1
        self.view = self._make_view()
        self.main = Main(self.look, replay=mode == "replay")
        self.stops = Stops(self)
        self.transport = Transport(self)

    def get_default_screen(self) -> Screen[None]:
        """Start with the main screen."""
        return self.main

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Leave out colours entirely with NO_COLOR, and what is not ASCII with `--ascii`."""
        filters = super().get_line_filters()
        if self.no_color:
            filters = [one for one in filters if not isinstance(one, Monochrome)]
        return [*filters, *self._extra]

    def on_mount(self) -> None:
        """Start reading, painting and keeping the line."""
        self.set_class(self.ascii, "ascii")
        self.set_interval(_PAINT_EVERY, self.paint, name="paint")
        self.run_worker(self._read(), name="read", group="read", exclusive=True)
        if self.link is not None:
            self.run_worker(self.link.stay_attached(), name="attach", group="attach", exclusive=True)
        if self._load and isinstance(self.feed, ReplayFeed):
            self.feed.loading = True
            self.run_worker(self._verify, name="verify", group="verify", exclusive=True, thread=True)

    # -- from events to the screen ------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            if self.feed.advance():
                self._changed = True
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(_IDLE)

    def _make_view(self) -> View:
        desk = self.link.desk() if self.link is not None else Desk(run_dir=str(self._run_dir or ""))
        return View(
            state=self.feed.fold.snapshot(),
            projection=self.feed.projection,
            now=self.feed.now,
            mode=self.mode,
            chain=self.feed.chain,
            desk=desk,
            playback=self.feed.playback,
            factors=self._factors or (),
            trouble=self.feed.trouble,
        )

    def paint(self) -> None:
        """Paint a new view, if there is anything new: an event, an answer, or another second."""
        second = int(self.feed.now)
        waiting = self.link is not None and bool(self.link.desk().sent)
        if not self._changed and second == self._second and not waiting:
            return
        self._changed, self._second = False, second
        if self.link is not None:
            self.link.settle(self.feed.fold.snapshot())
        self.view = self._make_view()
        if self._factors is None and self.view.state.run is not None:
            self._factors = ()
            digest = self.view.state.run.plan_blob
            self.run_worker(lambda: self._read_plan(digest), name="plan", group="plan", thread=True)
        for screen in self.screen_stack:
            if isinstance(screen, Frame):
                screen.show(self.view)

    def repaint(self) -> None:
        """Ask for a new view at the next turn."""
        self._changed = True

    def notice(self, text: str, *, bad: bool = False) -> None:
        """Say something in passing; never markup."""
        severity: SeverityLevel = "error" if bad else "information"
        self.notify(visible(text, limit=400), markup=False, timeout=8, severity=severity)

    # -- keys ---------------------------------------------------------------------------------------------

    def action_do(self, action: str) -> None:
        """Do what a key stands for; letters belong to a text field while it has the keys."""
        typing = isinstance(self.focused, Input)
        if typing and _priority(action) and action != "halt_always":
            raise SkipAction
        self.do(action)

    def do(self, action: str) -> None:
        """Do an action of the registry."""
        self.handlers[action]()

    @property
    def handlers(self) -> dict[str, Callable[[], object]]:
        """What each action does."""
        main, stops, transport = self.main, self.stops, self.transport
        return {
            "halt": stops.halt,
            "halt_always": stops.halt,
            "rollback": stops.rollback,
            "decide": stops.decide,
            "break_glass": stops.break_glass,
            "note": stops.note,
            "leave": stops.leave,
            **transport.handlers,
            "alerts": lambda: self.open_subject(Subject("alerts")),
            "pane_next": lambda: main.turn(1),
            "pane_previous": lambda: main.turn(-1),
            **{f"pane_{number}": partial(self._to_pane, number - 1) for number in range(1, 7)},
            "up": lambda: self._pane().move(-1),
            "down": lambda: self._pane().move(1),
            "page_up": lambda: self._pane().move(-self._pane().page),
            "page_down": lambda: self._pane().move(self._pane().page),
            "top": lambda: self._pane().move(-(10**6)),
            "bottom": lambda: self._pane().move(10**6),
            "open": lambda: self._pane().open(),
            "back": self._back,
            "filter": self._filter,
            "theme": self._next_theme,
            "palette": self.action_command_palette,
            "help": self._help,
        }

    def _pane(self) -> Pane:
        focused = self.focused
        return focused if isinstance(focused, Pane) else self.main.pane

    def _to_pane(self, index: int) -> None:
        while isinstance(self.screen, (Detail, Help)):
            self.pop_screen()
        self.main.go(index)

    def _filter(self) -> None:
        if self.screen is self.main:
            self.main.open_filter()
        else:
            self.notice("The filter belongs to the main screen: Esc goes back there.")

    def _back(self) -> None:
        if isinstance(self.screen, (Detail, Help)):
            self.pop_screen()
        elif self.screen is self.main:
            self.main.close_filter(clear=True)

    def _help(self) -> None:
        if not isinstance(self.screen, Help):
            self._push(Help(self.look))

    def _next_theme(self) -> None:
        names = [one.name for one in THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self.look = Look.of(self.current_theme)
        for screen in self.screen_stack:
            if isinstance(screen, Frame):
                screen.restyle(self.look)
        self.notice(f"Theme: {self.theme.removeprefix('cockpit-')}")

    # -- details ------------------------------------------------------------------------------------------

    def open_subject(self, subject: Subject) -> None:
        """Show all about something; what is stored in the run folder follows when it has been read."""
        detail = Detail(self.look, subject)
        if isinstance(self.screen, (Detail, Help)):
            self.pop_screen()
        self._push(detail)
        digest = blob_of(self.view, subject)
        if digest or (subject.kind == "record" and subject.key.isdigit()):
            self.run_worker(
                lambda: self._read_stored(detail, digest),
                name="stored",
                group="stored",
                exclusive=True,
                thread=True,
            )

    def _push(self, screen: Frame) -> None:
        screen.view = self.view
        self.push_screen(screen)

    def _read_stored(self, detail: Detail, digest: str) -> None:
        if digest:
            title, data = "As it came over the wire", self._blob(digest)
        else:
            title, data = "The line as it is stored", self.feed.record(int(detail.subject.key))
        text = (
            pretty(data)
            if data is not None
            else "This cannot be read: it is not in the run folder, or was redacted."
        )
        self.call_from_thread(self._show_stored, detail, Stored(title, text))

    def _show_stored(self, detail: Detail, stored: Stored) -> None:
        if detail in self.screen_stack:
            detail.add(stored)

    def _blob(self, digest: str) -> bytes | None:
        if self._run_dir is None or not digest:
            return None
        try:
            return BlobStore(self._run_dir / "blobs").get(digest)
        except CockpitError:
            return None

    def _read_plan(self, digest: str) -> None:
        data = self._blob(digest)
        if data is not None:
            self.call_from_thread(self.take_factors, firing_factors(data))

    def take_factors(self, factors: tuple[float, ...]) -> None:
        """Take the burn rates at which the alert fires."""
        self._factors = factors
        self.repaint()

    def _verify(self) -> None:
        feed, run_dir = self.feed, self._run_dir
        if isinstance(feed, ReplayFeed) and run_dir is not None:
            chain = read_recording(run_dir, lambda events: self.call_from_thread(feed.replay.extend, events))
            self.call_from_thread(self._take_chain, feed, chain)

    def _take_chain(self, feed: ReplayFeed, chain: Chain) -> None:
        feed.loading = False
        feed.judged(chain)
        self.repaint()

    # -- messages from widgets ----------------------------------------------------------------------------

    def on_pane_opened(self, message: Pane.Opened) -> None:
        """Open what was chosen."""
        kind = next((kind for cls, kind in _SUBJECTS if isinstance(message.pane, cls)), "")
        if kind == "canary" or (kind and message.key):
            self.open_subject(Subject(kind, message.key))

    def on_key_bar_chosen(self, message: KeyBar.Chosen) -> None:
        """Do what was clicked."""
        self.do(message.action)

    def on_tabs_picked(self, message: Tabs.Picked) -> None:
        """Show the tab clicked."""
        self.do(f"pane_{message.key}")

    def on_progress_sought(self, message: Progress.Sought) -> None:
        """Seek to the place clicked."""
        self.transport.seek_share(message.share)

    def _fatal_error(self) -> None:
        # A person gets a sentence, never a traceback; the release does not depend on this screen.
        self.bell()
        error = getattr(self, "_exception", None)
        if isinstance(error, WorkerFailed):
            error = error.error
        words = f"The screen failed ({type(error).__name__}: {error}). The release goes on without it."
        self._exit_renderables.append(Text(visible(words, limit=500)))
        self._close_messages_no_wait()
