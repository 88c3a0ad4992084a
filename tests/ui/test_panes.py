"""What the panes show, at every size, in every look, and whatever the text from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cockpit.base.clock import VirtualClock, parse_iso
from cockpit.control.actions import ACTIONS, BY_ID
from cockpit.journal import events as ev
from cockpit.journal.blobs import BlobStore
from cockpit.journal.events import AnyEvent
from cockpit.screens.app import CockpitApp
from cockpit.screens.themes import THEMES, to_ascii
from tests.ui import sample
from tests.ui.helpers import Source, live_app, loaded, screen_text, shows, until

pytestmark = pytest.mark.ui
GOLDEN = Path(__file__).parent / "golden"
EVENTS = sample.halfway()


def compare(name: str, text: str) -> None:
    """Compare with the golden text; `COCKPIT_GOLDEN=write` writes it anew."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("COCKPIT_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text()


@pytest.mark.parametrize(
    ("name", "events", "size"),
    [
        ("bake-80x24", sample.halfway(), (80, 24)),
        ("bake-120x40", sample.halfway(), (120, 40)),
        ("bake-200x60", sample.halfway(), (200, 60)),
        ("rolled-back-80x24", sample.rolled_back(), (80, 24)),
        ("rolled-back-120x40", sample.rolled_back(), (120, 40)),
        ("green-120x40", sample.green(), (120, 40)),
        ("too-small-60x15", sample.rolled_back(), (60, 15)),
    ],
)
async def test_the_screen_as_text(name: str, events: list[AnyEvent], size: tuple[int, int]) -> None:
    app = live_app(events, control=False)
    app.take_factors((6.0,))
    async with app.run_test(size=size) as pilot:
        await loaded(pilot, app, events)
        compare(name, screen_text(app))


async def test_a_small_terminal_has_every_pane_as_a_tab() -> None:
    app = live_app(EVENTS, control=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await loaded(pilot, app, EVENTS)
        for key, title in (
            ("3", "─ Gates"),
            ("4", "─ Agents"),
            ("5", "─ Journal"),
            ("1", "─ Canary"),
            ("2", "─ Burn"),
        ):
            await pilot.press(key)
            await shows(pilot, title, "H HALT", "R ROLLBACK")
        seen: list[str] = []
        for _ in range(6):
            await pilot.press("tab")
            seen.append(app.main.pane.id or "")
        assert seen == ["gates", "agents", "tail", "phases", "canary", "burn"]


async def test_a_growing_and_shrinking_terminal_keeps_everything() -> None:
    app = live_app(EVENTS, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, EVENTS)
        for size in ((79, 24), (80, 24), (200, 60), (20, 5), (120, 40)):
            await pilot.resize_terminal(*size)
            small = size[0] < 80 or size[1] < 24
            expected = "terminal" if small else "Canary"
            await shows(pilot, expected)
            assert ("Canary" in screen_text(app)) != small
        await shows(pilot, "Canary", "Burn rate", "Gates", "Agents", "Journal", "Phases")


async def test_text_from_outside_is_never_markup_and_its_control_characters_show() -> None:
    evil = "[bold red]x[/] \x1b[31mred\x1b]0;title\x07 [@click=app.quit]go[/] \u202egpj"
    source = Source(EVENTS)
    source.push(
        ev.AgentAnswered(
            call="c", agent="A1", phase="P6", op="VERIFY", result="fail", notes=evil, next=evil, took_ms=1.0
        ),
        ev.Noted(level="error", text=evil),
        ev.ReplicasSeen(deployments={"[b]pod[/b]\x1b": [2, 1]}),
        ev.Question(question="q", text=evil, options=["[u]yes[/u]"]),
    )
    app = live_app(EVENTS, source=source, control=False)
    async with app.run_test(size=(200, 60)) as pilot:
        await shows(pilot, "[bold red]x[/] ␛[31mred␛]0;title␇", "[b]pod[/b]␛", "[u]yes[/u]", "\\x202egpj")
        await pilot.press("4", "enter")
        await shows(pilot, "Agent A1", "[@click=app.quit]go[/]")
        assert "\x1b" not in screen_text(app)
        assert "\u202e" not in screen_text(app)


async def test_details_of_agent_gate_phase_record_and_look(tmp_path: Path) -> None:
    folder = sample.write_journal(tmp_path, EVENTS)
    blob = BlobStore(folder / "blobs").put(b'{"result":"ok","notes":"from the wire"}', salted=True)
    source = Source(EVENTS)
    source.push(
        ev.AgentAnswered(
            call="c", agent="A1", phase="P6", op="VERIFY", result="fail", notes="no", next="ask", took_ms=7.0,
            response=blob.digest,
        )
    )  # fmt: skip
    app = live_app(EVENTS, source=source, folder=folder, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.view.state.seq == EVENTS[-1].seq + 1, what="all events")
        for keys, texts in (
            (("4", "g", "enter"), ("A1 Release Conductor", "✗ FAIL", "7 ms", "from the wire")),
            (("3", "g", "enter"), ("Required gate slo", "p95_ms<=150", "92.4", "sha256:gggg")),
            (("6", "enter"), ("P0 Readiness", "✓ pass", "A15")),
            (("1", "enter"), ("Step 2, towards 50 %", "Look 3 at step 2", "burn 8s")),
            (("5", "g", "enter"), ("Record #0", "run.opened", '"prev": "0000')),
        ):
            await pilot.press(*keys)
            await shows(pilot, *texts)
            await pilot.press("enter")
            await pilot.pause(0.1)
            await shows(pilot, *texts)
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.main, what="back on the main screen")


async def test_filters_narrow_journal_and_agents() -> None:
    app = live_app(EVENTS, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, EVENTS)
        await pilot.press("5", "slash", *"gate.judged", "enter")
        await shows(pilot, "filter “gate.judged”", "phase_gate=perf")
        assert "canary.weight" not in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: "canary.weight" in screen_text(app), what="the filter cleared")
        await pilot.press("4", "slash", *"notary", "enter")
        await until(pilot, lambda: "Auditor" not in screen_text(app), what="the agents filtered")
        assert "Evidence" in screen_text(app)


async def test_ascii_shows_nothing_beyond_ascii() -> None:
    source = Source(EVENTS)
    source.push(ev.Noted(level="error", text="naïve 日本 ✓"))
    app = live_app(EVENTS, source=source, control=False, ascii=True)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await shows(pilot, "na?ve ???? +")
        for keys in (("t",), ("question_mark",), ("escape", "slash"), ("escape", "colon")):
            await pilot.press(*keys)
            await pilot.pause(0.2)
            text = screen_text(app)
            assert text.isascii(), sorted({char for char in text if not char.isascii()})


def test_ascii_keeps_widths() -> None:
    assert to_ascii("⣿⠁⢀ ✓日") == ":'. +??"


@pytest.mark.parametrize("made", ["sample.rolled_back()", "people.then(sample.halfway(), *people.busy())"])
def test_no_color_leaves_no_colour(made: str) -> None:
    code = (
        "import asyncio\n"
        "from tests.ui import people, sample\n"
        "from tests.ui.helpers import live_app, loaded\n"
        "async def main():\n"
        f"    events = {made}\n"
        "    app = live_app(events, control=False)\n"
        "    async with app.run_test(size=(120, 40)) as pilot:\n"
        "        await loaded(pilot, app, events)\n"
        "        await pilot.press('w')\n"
        "        await pilot.pause(0.3)\n"
        "        strips = app.screen._compositor.render_strips()\n"
        "        styles = [segment.style for strip in strips for segment in strip if segment.style]\n"
        "        assert not any(style.color or style.bgcolor for style in styles)\n"
        "        assert any(style.reverse for style in styles)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NO_COLOR": "1"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


async def test_every_theme_paints_and_the_key_cycles_through_all() -> None:
    app = live_app(EVENTS, control=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await loaded(pilot, app, EVENTS)
        seen = [app.theme]
        for _ in THEMES:
            await pilot.press("t")
            seen.append(app.theme)
            await shows(pilot, "Canary", "H HALT")
        assert seen == [*(theme.name for theme in THEMES), THEMES[0].name]


async def test_every_pane_says_how_old_its_data_is_and_the_window_runs_down() -> None:
    clock = VirtualClock(parse_iso(EVENTS[-1].at) + timedelta(seconds=2))
    app = live_app(EVENTS, control=False, clock=clock)
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, EVENTS)
        assert screen_text(app).count(" ago ") == 6
        await shows(pilot, "3:29:11 left")
        clock.advance(120.0)
        await shows(pilot, "3:27:11 left", "2m02 ago")
        clock.advance(4 * 3600.0)
        await shows(pilot, "window CLOSED")


async def test_gaps_errors_and_unknown_effects_are_in_sight() -> None:
    source = Source(EVENTS)
    shift = ev.EffectIntended(
        effect="e9", lane="forward", verb="shift", target="httproute/x", env="prod", by="conductor"
    )
    source.push(
        shift, ev.EffectUnknown(effect="e9", reason="cut off"), ev.JournalGap(reason="disk full", records=3)
    )
    app = live_app(EVENTS, source=source, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "1 GAP(S) in the journal", "1 effect(s) with UNKNOWN outcome", "disk full")
        await pilot.press("a")
        await shows(pilot, "shift httproute/x (prod): cut off", "waived: approvals", "REDUCED: ")


def test_every_action_has_keys_a_help_line_and_something_it_does() -> None:
    app = live_app(EVENTS, control=False)
    assert set(app.handlers) == set(BY_ID)
    keys = [key for action in ACTIONS for key in action.keys]
    assert len(keys) == len(set(keys)), "a key stands for two actions"
    assert not {"ctrl+a", "ctrl+b", "ctrl+s", "ctrl+j"} & set(keys)
    bound = {binding.key: binding.action for _, binding in app._bindings}
    for action in ACTIONS:
        assert action.keys and action.label and action.help.endswith(".") and action.shown
        assert all(key in bound for key in action.keys)


@pytest.mark.parametrize("mode", ["live", "replay"])
async def test_help_and_palette_name_every_action(mode: str) -> None:
    from cockpit.screens.detail import Keys
    from cockpit.screens.palette import Registry

    app = live_app(EVENTS, control=False, mode="replay" if mode == "replay" else "live")
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, EVENTS)
        await pilot.press("question_mark")
        await pilot.pause(0.2)
        shown = " ".join(text for row in app.screen.query_one(Keys)._rows for text, _ in row)
        found = [hit.text async for hit in Registry(app.screen).discover()]
        for action in (action for action in ACTIONS if action.in_mode(mode)):
            assert f"{action.label}:" in shown
            assert action.id == "palette" or f"{action.label} ({action.shown})" in found


async def test_clicks_do_what_keys_do() -> None:
    app = live_app(EVENTS, control=False)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await loaded(pilot, app, EVENTS)
        await pilot.click("#keybar", offset=(2, 0))
        await shows(pilot, "HALT is not possible")
        await pilot.click("#tabs", offset=(24, 0))
        await until(pilot, lambda: app.main.pane.id == "gates", what="the gates' tab")
        await pilot.click("#gates", offset=(5, 2))
        assert app.main.pane.cursor == 1


def test_the_screens_load_no_back_end_no_conductor_and_no_agent() -> None:
    code = (
        "import sys, cockpit.screens.entry\n"
        "bad = ('cockpit.backends', 'cockpit.conductor', 'cockpit.agents', 'cockpit.agentkit',\n"
        "       'kubernetes', 'sigstore', 'httpx', 'aiohttp', 'prometheus_api_client', 'asyncssh',\n"
        "       'pydantic', 'matplotlib', 'cryptography')\n"
        "print([name for name in sys.modules if name.startswith(bad)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_firing_factor_comes_from_the_stored_plan(tmp_path: Path) -> None:
    plan = {
        "canary": {
            "burn": {
                "windows": [{"long": 30, "short": 8, "factor": 14.4}, {"long": 60, "short": 5, "factor": 6}]
            }
        }
    }
    text = "# a plan\n" + msgspec.json.encode(plan).decode()
    blob = BlobStore(tmp_path / "blobs").put(text.encode(), salted=True)
    events = [sample.opened(plan_blob=blob.digest, seq=0, at=EVENTS[0].at), *EVENTS[1:]]
    app: CockpitApp = live_app(events, folder=tmp_path, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "fires above 6×")
