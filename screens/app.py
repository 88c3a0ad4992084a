"""The cockpit in the terminal: wires feed, screens, keys and the line to the conductor together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.text import Text
from textual.actions import SkipAction
from textual.app import App
from textual.binding import Binding, BindingsMap, BindingType
from textual.filter import LineFilter, Monochrome
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widgets import Input
from textual.worker import WorkerFailed

from cockpit.base.clock import Clock
from cockpit.base.text import visible
from cockpit.control.keys import Keys
from cockpit.screens.detail import Detail, Help
from cockpit.screens.feed import Feed, ReplayFeed
from cockpit.screens.frame import Frame
from cockpit.screens.link import Link
from cockpit.screens.look import Look
from cockpit.screens.main import Main
from cockpit.screens.opening import Opening, with_factors
from cockpit.screens.palette import Registry
from cockpit.screens.planned import Planned
from cockpit.screens.sheet import Subject
from cockpit.screens.signing import Signing
from cockpit.screens.stops import Stops
from cockpit.screens.themes import THEMES, Ascii, NoColour
from cockpit.screens.tools import Tools
from cockpit.screens.transport import Transport
from cockpit.screens.view import Desk, Mode, View
from cockpit.screens.waits import rings
from cockpit.screens.widgets.agents import Agents
from cockpit.screens.widgets.burn import Burn
from cockpit.screens.widgets.canary import Canary
from cockpit.screens.widgets.gates import Gates, gate_key
from cockpit.screens.widgets.keybar import KeyBar
from cockpit.screens.widgets.pane import Pane
from cockpit.screens.widgets.phases import Phases
from cockpit.screens.widgets.progress import Progress
from cockpit.screens.widgets.tabs import Tabs
from cockpit.screens.widgets.tail import JournalTail

_PAINT_EVERY = 0.1
_IDLE = 0.05
_PAGES = ("alerts", "people", "world", "contents", "preview", "fallback")
_SUBJECTS: tuple[tuple[type[Pane], str], ...] = (
    (Agents, "agent"),
    (Gates, "gate"),
    (Phases, "phase"),
    (JournalTail, "record"),
    (Canary, "canary"),
    (Burn, "canary"),
)


def _bindings(keys: Keys) -> list[BindingType]:
    return [
        Binding(key, f"do({one.id!r})", one.label, id=f"{one.id}.{index}", priority=_priority(one.id))
        for one in keys.actions
        for index, key in enumerate(one.keys)
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
        keys: Keys | None = None,
        remark: str = "",
    ) -> None:
        super().__init__()
        self.keys, self._remark = keys or Keys(), remark
        self._bindings = BindingsMap(_bindings(self.keys))
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
        self._plan: Planned | None = None
        self._caught_up = False
        self.rung: set[str] = set()
        """What the bell has rung for."""
        self._changed = True
        self._second = -1
        self.view = self._make_view()
        self.main = Main(self.look, replay=mode == "replay")
        self.opening = Opening(self, run_dir)
        self.signing = Signing(self)
        self.stops = Stops(self)
        self.tools = Tools(self)
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
        if self._remark:
            self.notice(self._remark, bad=True)
        if self.link is not None:
            self.run_worker(self.link.stay_attached(), name="attach", group="attach", exclusive=True)
        if self._load and isinstance(self.feed, ReplayFeed):
            self.feed.loading = True
            feed = self.feed
            self.run_worker(lambda: self.opening.verify(feed), name="verify", group="verify", thread=True)

    # -- from events to the screen ------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            if self.feed.advance():
                self._changed = True
                await asyncio.sleep(0)
            else:
                if not self._caught_up:
                    self._caught_up = self._changed = True
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
            plan=self._plan or Planned(),
            keys=self.keys,
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
        self._ring()
        if self._plan is None and self.view.state.run is not None:
            self._plan = Planned()
            digest = self.view.state.run.plan_blob
            self.run_worker(lambda: self._read_plan(digest), name="plan", group="plan", thread=True)
        for screen in self.screen_stack:
            if isinstance(screen, Frame):
                screen.show(self.view)

    def _ring(self) -> None:
        """Ring once for each decision that waits, and once more when it is escalated; not for the past."""
        if self.mode == "replay" or not self._caught_up:
            return
        new = rings(self.view) - self.rung
        if new:
            self.rung |= new
            self.bell()

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
        signing, tools = self.signing, self.tools
        return {
            "halt": stops.halt,
            "halt_always": stops.halt,
            "rollback": stops.rollback,
            "decide": stops.decide,
            "break_glass": signing.break_glass,
            "approve": signing.approve,
            "promote": signing.promote,
            "acknowledge": tools.acknowledge,
            "step_up": tools.step_up,
            "pause_bake": tools.pause,
            "extend_bake": tools.extend,
            "reverify": lambda: tools.reverify(self._chosen_agent()),
            "handover": tools.handover,
            "accept": tools.accept,
            "note": tools.note,
            "leave": stops.leave,
            **transport.handlers,
            **{kind: partial(self.opening.page, kind) for kind in _PAGES},
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

    def _chosen_agent(self) -> str:
        """Return the agent on the screen: the one opened, or the one chosen among agents or gates."""
        if isinstance(self.screen, Detail):
            kind, key = self.screen.subject.kind, self.screen.subject.key
        else:
            pane = self.main.pane
            kind = next((kind for cls, kind in _SUBJECTS if isinstance(pane, cls)), "")
            key = pane.chosen_key if pane.has_focus else ""
        if kind == "gate" and not key.startswith("required/"):
            return next((one.agent for one in self.view.state.gates if gate_key(one) == key), "")
        return key if kind == "agent" else ""

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
            self.push(Help(self.look))

    def _next_theme(self) -> None:
        names = [one.name for one in THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self.look = Look.of(self.current_theme)
        for screen in self.screen_stack:
            if isinstance(screen, Frame):
                screen.restyle(self.look)
        self.notice(f"Theme: {self.theme.removeprefix('cockpit-')}")

    # -- details ------------------------------------------------------------------------------------------

    def push(self, screen: Frame) -> None:
        """Put a full screen over this one, with the view of now."""
        screen.view = self.view
        self.push_screen(screen)

    def take_factors(self, factors: tuple[float, ...]) -> None:
        """Take the burn rates at which the alert fires."""
        self.take_plan(with_factors(self._plan, factors))

    def take_plan(self, plan: Planned) -> None:
        """Take the facts of the run's plan."""
        self._plan = plan
        self.repaint()

    def _read_plan(self, digest: str) -> None:
        plan = self.opening.plan(digest)
        if plan is not None:
            self.call_from_thread(self.take_plan, plan)

    # -- messages from widgets ----------------------------------------------------------------------------

    def on_pane_opened(self, message: Pane.Opened) -> None:
        """Open what was chosen."""
        kind = next((kind for cls, kind in _SUBJECTS if isinstance(message.pane, cls)), "")
        if kind == "canary" or (kind and message.key):
            self.opening.subject(Subject(kind, message.key))

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
