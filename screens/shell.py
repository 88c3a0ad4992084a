"""A `cockpit` command given from the screen: shown exactly, copied, or run beside it while HALT works on.

Signing needs libraries and secrets a screen does without, so it is done by a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Button, Static

from cockpit.base.text import visible
from cockpit.screens.dialogs import Dialog
from cockpit.screens.look import wrap

_MOST_OUTPUT = 16_000
_SHOWN_LINES, _TALL = 10, 19
_WIDTH = 84
_GRACE_S = 3.0


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run the command: what the button says, and its arguments after `cockpit`."""

    label: str
    arguments: tuple[str, ...]


def shown(arguments: Sequence[str]) -> str:
    """Return a command as it is typed into a shell."""
    return shlex.join(["cockpit", *arguments])


class Shell(Dialog[int | None]):
    """Shows a command; gives its exit code when it was run and closed, nothing when it was not run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close"),
        Binding("c", "copy", "Copy"),
        *(Binding(str(number), f"run({number})", show=False) for number in range(1, 10)),
    ]

    def __init__(
        self, title: str, words: Sequence[str], variants: Sequence[Variant], *, danger: bool = False
    ) -> None:
        command = shown(variants[0].arguments)
        super().__init__(title, [*words, "", "In any shell on this machine:", f"  {command}"], danger=danger)
        self._variants = list(variants)[:9]
        self._process: asyncio.subprocess.Process | None = None
        self._output = ""
        self._code: int | None = None

    def compose(self) -> ComposeResult:
        """Put the words, a button a variant, and room for what the command says."""
        with self.box():
            yield self.words()
            for index, variant in enumerate(self._variants, 1):
                yield Button(
                    Content(f"{index}  {visible(variant.label, limit=100)}"),
                    id=f"run-{index}",
                    classes="option",
                )
            hint = f"a number runs it here · c copies it · Esc goes back · {self.key('halt')} HALT"
            yield Static(Content(hint), classes="hint", markup=False)
            yield Static(Content(""), id="output", markup=False)

    def on_mount(self) -> None:
        """Start on no button: Enter alone runs nothing."""
        self.set_focus(None)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Run the variant of the button."""
        event.stop()
        self.action_run(int((event.button.id or "run-0").removeprefix("run-")))

    def action_copy(self) -> None:
        """Copy the command by the terminal's own clipboard sequence."""
        self.app.copy_to_clipboard(shown(self._variants[0].arguments))
        self._hint("Copied, if the terminal takes it (OSC 52). Esc goes back.")

    def action_run(self, number: int) -> None:
        """Run a variant, unless one runs or has run well."""
        if not 1 <= number <= len(self._variants):
            return
        if self._process is not None:
            self._hint("It runs already: Esc ends it and goes back.")
        elif self._code == 0:
            self._hint("It is done: Esc goes back.")
        else:
            self.run_worker(
                self._run(self._variants[number - 1]), name="shell", group="shell", exclusive=True
            )

    def action_close(self) -> None:
        """Go back; a command that still runs is ended."""
        self.dismiss(self._code)

    async def _run(self, variant: Variant) -> None:
        self._output, self._code = "", None
        self._hint(f"running… · Esc ends it · {self.key('halt')} HALT")
        self._show("")
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cockpit",
                *variant.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._code = 70
            self._hint(f"It could not be started: {error}. Esc goes back.")
            return
        try:
            assert process.stdout is not None
            while data := await process.stdout.read(4096):
                self._show(data.decode("utf-8", "replace"))
            self._code = await process.wait()
        finally:
            self._process = None
            await _ended(process)
        done = "done" if self._code == 0 else f"NOT DONE (exit {self._code}), a number tries again"
        self._hint(f"{done} · Esc goes back · {self.key('halt')} HALT")

    def _show(self, text: str) -> None:
        self._output = (self._output + text)[-_MOST_OUTPUT:]
        # Broken here, not by the widget: it is the end of what was said that must be seen.
        lines = wrap(self._output.rstrip("\n"), min(_WIDTH, self.app.size.width) - 10, limit=2000)
        for output in self.query("#output").results(Static):
            output.display = bool(self._output)
            output.update(Content("\n".join(lines[-self._room() :])))
            output.scroll_visible(animate=False)

    def _room(self) -> int:
        """Return how many lines of output fit."""
        return max(3, min(_SHOWN_LINES, self.app.size.height - _TALL))

    def _hint(self, text: str) -> None:
        for hint in self.query(".hint").results(Static):
            hint.update(Content(visible(text, limit=200)))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a process and what it started, if it still runs: first kindly, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
        except TimeoutError:
            continue
