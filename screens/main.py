"""The main screen: all panes at once, or as tabs where the terminal is small."""

from __future__ import annotations

from collections.abc import Iterable

from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input

from cockpit.screens.frame import Frame
from cockpit.screens.look import Look
from cockpit.screens.widgets.agents import Agents
from cockpit.screens.widgets.burn import Burn
from cockpit.screens.widgets.canary import Canary
from cockpit.screens.widgets.gates import Gates
from cockpit.screens.widgets.pane import Pane
from cockpit.screens.widgets.phases import Phases
from cockpit.screens.widgets.progress import Progress
from cockpit.screens.widgets.tabs import TABS, Tabs
from cockpit.screens.widgets.tail import JournalTail

_TAB_OF = {
    "canary": "flight",
    "burn": "flight",
    "gates": "gates",
    "agents": "agents",
    "tail": "journal",
    "phases": "",
}


class Main(Frame):
    """Canary and burn rate above, gates and agents in the middle, the journal below."""

    def __init__(self, look: Look, *, replay: bool) -> None:
        super().__init__(look)
        self.panes: tuple[Pane, ...] = (
            Canary(look, id="canary"),
            Burn(look, id="burn"),
            Gates(look, id="gates"),
            Agents(look, id="agents"),
            JournalTail(look, id="tail"),
            Phases(look, id="phases"),
        )
        self.tabs = Tabs(look, id="tabs")
        self.progress = Progress(look, id="progress")
        self.progress.display = replay
        self.add_class("tab-flight")

    def body(self) -> Iterable[Widget]:
        """Return the panes."""
        canary, burn, gates, agents, tail, phases = self.panes
        yield phases
        yield self.tabs
        yield Horizontal(canary, burn, id="flight")
        yield Horizontal(gates, agents, id="lists")
        yield tail
        box = Input(
            placeholder="filter journal or agents; Enter keeps it, Esc clears it", id="filter", max_length=80
        )
        box.display = False
        yield box
        yield self.progress

    def on_mount(self) -> None:
        """Start at the canary."""
        self.panes[0].focus()

    # -- moving -----------------------------------------------------------------------------------------

    @property
    def pane(self) -> Pane:
        """The pane that has the keys."""
        return next((pane for pane in self.panes if pane.has_focus), self.panes[0])

    def go(self, index: int) -> None:
        """Give the keys to a pane, on its tab."""
        pane = self.panes[index % len(self.panes)]
        tab = _TAB_OF[pane.id or ""]
        if tab:
            self.tabs.tab = tab
            for name, _, _ in TABS:
                self.set_class(name == tab, f"tab-{name}")
        pane.focus()
        if self.view is not None:
            self.call_after_refresh(self.show, self.view)

    def turn(self, by: int) -> None:
        """Give the keys to the next or the previous pane."""
        self.go(self.panes.index(self.pane) + by)

    # -- filtering --------------------------------------------------------------------------------------

    def open_filter(self) -> None:
        """Ask for the text to filter by: for the agents when they have the keys, else for the journal."""
        self._filtered: Agents | JournalTail = self._filter_target()
        box = self.query_one("#filter", Input)
        box.value = self._filtered.filter
        box.display = True
        box.focus()

    def _filter_target(self) -> Agents | JournalTail:
        pane = self.pane
        if isinstance(pane, (Agents, JournalTail)):
            return pane
        self.go(4)
        target = self.panes[4]
        assert isinstance(target, JournalTail)
        return target

    def close_filter(self, *, clear: bool) -> bool:
        """Close the filter's field, or clear a filter in force; says whether there was anything to do."""
        box = self.query_one("#filter", Input)
        if box.display:
            if clear:
                self._filter_by("")
            box.display = False
            self._filtered.focus()
            return True
        pane = self.pane
        if clear and isinstance(pane, (Agents, JournalTail)) and pane.filter:
            self._filtered = pane
            self._filter_by("")
            return True
        return False

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while typing."""
        event.stop()
        if event.input.display:
            self._filter_by(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter."""
        event.stop()
        self.close_filter(clear=False)

    def _filter_by(self, text: str) -> None:
        self._filtered.filter = text.strip()
        if self.view is not None:
            self._filtered.show(self.view)
            self._filtered.refresh()
