"""The dialogues: a text, a confirmation, a choice. HALT works over each; the opening key never confirms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from cockpit.base.limits import MAX_TEXT
from cockpit.base.text import visible
from cockpit.control.keys import Keys

T = TypeVar("T")

_LOOSE = 5
"""Options up to which there is a line between each."""


class Dialog(ModalScreen[T]):
    """A titled box over the screen; its words are never markup."""

    # What has the keys is said by each dialogue: a button that had them by itself would answer to Enter.
    AUTO_FOCUS = ""

    def __init__(self, title: str, words: Sequence[str], *, danger: bool = False) -> None:
        super().__init__()
        self._title = title
        self._words = "\n".join(visible(line, limit=MAX_TEXT) for line in words)
        self._danger = danger

    def key(self, action: str) -> str:
        """Return the key in force for an action, as it is shown."""
        keys = getattr(self.app, "keys", None) or Keys()
        shown: str = keys[action]
        return shown

    def box(self) -> VerticalScroll:
        """Return the box the parts go into."""
        box = VerticalScroll(id="box", classes="danger" if self._danger else "", can_focus=False)
        box.border_title = Content(self._title)
        return box

    def words(self) -> Static:
        """Return the words."""
        return Static(Content(self._words), classes="words", markup=False)

    def on_key(self, event: events.Key) -> None:
        """Say that the keys of the screen below wait: a key is never silently without effect."""
        mine = isinstance(self.focused, Input) or event.key in self._bindings.key_to_bindings
        if event.is_printable and not mine:
            event.stop()
            name = event.character if event.character and event.character != " " else event.key
            self.notify(
                f"{visible(name, limit=12)} waits until this is answered: Esc goes back.", markup=False
            )


class Line(Input):
    """A field for one line; control characters that were pasted are seen, and never reach a terminal."""

    def replace(self, text: str, start: int, end: int) -> None:
        """Put text in place of a part."""
        super().replace(visible(text, limit=MAX_TEXT), start, end)


class Ask(Dialog[str | None]):
    """Asks for a line of text; Escape skips it and gives nothing.

    `refuse` says why a text will not do, or nothing; `go` is what Enter does, in a word.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "skip", "Skip")]

    def __init__(
        self,
        title: str,
        words: Sequence[str],
        *,
        needed: bool = False,
        danger: bool = False,
        hidden: bool = False,
        go: str = "sends",
        refuse: Callable[[str], str] = lambda text: "",
    ) -> None:
        super().__init__(title, words, danger=danger)
        self._needed = needed
        self._hidden = hidden
        self._refuse = refuse
        self._go = go

    def compose(self) -> ComposeResult:
        """Put the words and the field."""
        with self.box():
            yield self.words()
            yield Line(max_length=500, id="text", password=self._hidden)
            skip = "Esc goes back" if self._needed else "Esc skips"
            hint = f"Enter {self._go} · {skip} · {self.key('halt_always')} HALT"
            yield Static(Content(hint), classes="hint", markup=False)

    def on_mount(self) -> None:
        """Start in the field."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give the text; an empty one only where it may be skipped."""
        event.stop()
        text = event.value.strip()
        problem = self._refuse(text) if text else "Something has to be typed here." if self._needed else ""
        if problem:
            self.app.bell()
            self.query_one(".hint", Static).update(Content(visible(f"{problem} Esc goes back.", limit=200)))
        else:
            self.dismiss(text or None)

    def action_skip(self) -> None:
        """Leave without a text."""
        self.dismiss(None)


class Confirm(Dialog[bool]):
    """Asks for a yes by `y`; Cancel has the focus, and the key that opened it does nothing but say so."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "Cancel"),
    ]

    def __init__(
        self,
        title: str,
        words: Sequence[str],
        yes: str,
        *,
        danger: bool = False,
        hint: str = "y confirms · Esc cancels",
        opener: str = "",
    ) -> None:
        """`opener` is the action whose key opened it, where that key is heard over dialogues."""
        super().__init__(title, words, danger=danger)
        self.opener = opener
        self._yes = yes
        self._hint = hint

    def compose(self) -> ComposeResult:
        """Put the words and the buttons."""
        with self.box():
            yield self.words()
            with Horizontal(classes="buttons"):
                yield Button(Content("Cancel (Esc)"), id="cancel")
                yield Button(
                    Content(f"{self._yes} (y)"), id="yes", variant="error" if self._danger else "primary"
                )
            yield Static(Content(self._hint), classes="hint", markup=False)

    def on_mount(self) -> None:
        """Start on Cancel."""
        self.query_one("#cancel", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Give the answer of the button."""
        event.stop()
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Give the answer of the key."""
        self.dismiss(yes)

    def opened_again(self) -> None:
        """Say that the opening key does not confirm."""
        self.query_one(".hint", Static).update(
            Content("This key does not confirm: press y, or Esc to cancel.")
        )


class Choose(Dialog[str | None]):
    """Asks for one of a few options by number; Escape leaves the question open."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Later"),
        *(Binding(str(number), f"pick({number})", show=False) for number in range(1, 10)),
    ]

    def __init__(self, title: str, words: Sequence[str], options: Sequence[tuple[str, str]]) -> None:
        super().__init__(title, words)
        self._options = list(options)[:9]

    def compose(self) -> ComposeResult:
        """Put the words and a button for each option."""
        with self.box():
            yield self.words()
            for index, (_, label) in enumerate(self._options, 1):
                yield Button(
                    Content(f"{index}  {visible(label, limit=100)}"),
                    id=f"option-{index}",
                    classes="option tight" if len(self._options) > _LOOSE else "option",
                )
            yield Static(
                Content(f"a number chooses · Esc decides later · {self.key('halt')} HALT"),
                classes="hint",
                markup=False,
            )

    def on_mount(self) -> None:
        """Start on no option: Enter alone decides nothing."""
        self.set_focus(None)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Give the option of the button."""
        event.stop()
        self.action_pick(int((event.button.id or "option-0").removeprefix("option-")))

    def action_pick(self, number: int) -> None:
        """Give the option of a number."""
        if 1 <= number <= len(self._options):
            self.dismiss(self._options[number - 1][0])

    def action_leave(self) -> None:
        """Leave the question open."""
        self.dismiss(None)
