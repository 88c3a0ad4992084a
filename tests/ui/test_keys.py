"""Keys remapped by action id: what is taken, what is refused, and that the screen says the keys in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from cockpit.base.clock import VirtualClock, parse_iso
from cockpit.base.errors import UsageError
from cockpit.control.actions import ACTIONS
from cockpit.control.keys import Keys, read_keys, remapped
from cockpit.screens.app import CockpitApp
from cockpit.screens.feed import LiveFeed
from cockpit.screens.link import Link
from tests.ui import people, sample
from tests.ui.helpers import Conductor, Source, loaded, says, screen_text, serving, shows, until


def test_keys_come_from_a_file_and_without_one_are_the_registrys(tmp_path: Path) -> None:
    assert read_keys({"HOME": str(tmp_path)}) == Keys()
    for environ, path in (
        ({"HOME": str(tmp_path)}, tmp_path / ".config" / "release-cockpit" / "keys.toml"),
        ({"XDG_CONFIG_HOME": str(tmp_path / "x")}, tmp_path / "x" / "release-cockpit" / "keys.toml"),
        ({"COCKPIT_KEYS": str(tmp_path / "mine")}, tmp_path / "mine"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('note = "N"\nhalt = ["f8", "H"]\n')
        keys = read_keys(environ)
        assert (keys["note"], keys["halt"], keys["rollback"]) == ("N", "F8", "R")
        assert next(one.keys for one in keys.actions if one.id == "halt") == ("f8", "H")
    assert [one.id for one in keys.actions] == [one.id for one in ACTIONS]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"nothing": "x"}, "there is no action nothing"),
        ({"note": "H"}, "H would stand for"),
        ({"note": "y"}, "y confirms"),
        ({"note": "ctrl+b"}, "multiplexers"),
        ({"note": []}, "needs one key"),
        ({"note": 7}, "needs one key"),
        ({"note": "\x1b[31m"}, "is no key"),
        ({"halt_always": "h"}, "works inside text fields"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(wanted: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        remapped(wanted)


def test_a_file_that_is_no_toml_or_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not TOML"):
        read_keys({"COCKPIT_KEYS": str(tmp_path / "keys")})
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys({"COCKPIT_KEYS": str(tmp_path / "none")})


@pytest.mark.ui
async def test_the_screen_hears_and_says_the_keys_in_force(tmp_path: Path) -> None:
    events = people.then(sample.halfway(), people.asked())
    clock = VirtualClock(parse_iso(people.later(2)))
    keys = remapped({"halt": "f8", "approve": "S", "note": "N", "help": "f2"})
    app = CockpitApp(
        LiveFeed(Source(events), clock),
        clock,
        link=Link(tmp_path, clock),
        run_dir=tmp_path,
        keys=keys,
        remark="Your keys are odd",
    )
    async with (
        serving(tmp_path, Conductor()) as conductor,
        app.run_test(size=(120, 60), notifications=True) as pilot,
    ):
        await loaded(pilot, app, events)
        await says(pilot, "Your keys are odd")
        await shows(pilot, " F8 HALT", "(S signs)", "F2 Help")
        await pilot.press("f2")
        await shows(pilot, "F8", "HALT: Stop at once")
        await pilot.press("escape", "H", "s")
        await pilot.pause(0.2)
        assert conductor.kinds == []
        assert app.screen is app.main
        await pilot.press("f8")
        await until(pilot, lambda: conductor.kinds == ["halt"], what="halt on the wire")
        assert "F9 HALT" in screen_text(app)
