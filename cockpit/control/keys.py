"""Which keys stand for which actions: the registry's own, or as a person has remapped them by action id.

The file is TOML, an action id and its keys a line: `halt = ["H", "f12"]`. It is `$COCKPIT_KEYS`, else
`release-cockpit/keys.toml` below `$XDG_CONFIG_HOME` (`~/.config`). Help, key bar, palette and every hint on
the screen say the keys in force.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cockpit.base.errors import UsageError
from cockpit.base.text import visible
from cockpit.control.actions import ACTIONS, Action

_MAX_BYTES = 64 * 1024
_NAMED = frozenset(key for action in ACTIONS for key in action.keys) | {
    "backspace", "delete", "insert", "comma", "full_stop", "semicolon", "underscore", "at", "number_sign",
    "percent_sign", "ampersand", "asterisk", "dollar_sign", "tilde", "backslash", "vertical_line",
}  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z0-9]|f([1-9]|1[0-9]|2[0-4])|ctrl\+[a-z]|shift\+(tab|up|down|left|right)")
_TAKEN = {
    "y": "y confirms, and the confirming key is never an opening key",
    "ctrl+a": "terminal multiplexers take it",
    "ctrl+b": "terminal multiplexers take it",
    "ctrl+s": "terminals stop on it",
    "ctrl+j": "terminals send it for Enter",
}
_SHOWN = {
    "full_stop": ".",
    "comma": ",",
    "slash": "/",
    "colon": ":",
    "semicolon": ";",
    "plus": "+",
    "minus": "-",
    "question_mark": "?",
    "exclamation_mark": "!",
    "equals_sign": "=",
    "escape": "esc",
    "pageup": "pgup",
    "pagedown": "pgdn",
}


@dataclass(frozen=True, slots=True)
class Keys:
    """The actions with the keys in force."""

    actions: tuple[Action, ...] = ACTIONS

    def __getitem__(self, action: str) -> str:
        """Return how the first key of an action is shown."""
        return next(one.shown for one in self.actions if one.id == action)

    def bar(self, mode: str) -> list[Action]:
        """Return the actions of the key bar in a mode, most important first."""
        found = (one for one in self.actions if one.bar and one.in_mode(mode))
        return sorted(found, key=lambda one: one.bar)


def remapped(wanted: Mapping[str, object], where: str = "") -> Keys:
    """Return the registry with other keys for some actions; raises UsageError for what cannot be."""
    known = {action.id: action for action in ACTIONS}
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"there is no action {visible(name, limit=60)}",
                where=where,
                hint=f"one of {', '.join(known)}",
            )
    actions = tuple(_with(action, wanted.get(action.id), where) for action in ACTIONS)
    held: dict[str, str] = {}
    for action in actions:
        for key in action.keys:
            if key in held:
                raise UsageError(f"{key} would stand for {held[key]} and {action.id}", where=where)
            held[key] = action.id
    return Keys(actions)


def read_keys(environ: Mapping[str, str] = os.environ) -> Keys:
    """Return the keys in force for this person; raises UsageError when their file cannot be used."""
    named = environ.get("COCKPIT_KEYS", "")
    folder = environ.get("XDG_CONFIG_HOME", "") or str(
        Path(environ.get("HOME", "~")).expanduser() / ".config"
    )
    path = Path(named) if named else Path(folder) / "release-cockpit" / "keys.toml"
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise UsageError("is larger than a file of keys can be", where=str(path))
        found = tomllib.loads(raw.decode())
    except OSError as error:
        if not named and isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
            return Keys()
        raise UsageError(f"the keys cannot be read: {error.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the keys are not TOML: {visible(str(error), limit=200)}", where=str(path)
        ) from None
    return remapped(found, str(path))


def _with(action: Action, wanted: object, where: str) -> Action:
    if wanted is None:
        return action
    keys = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        raise UsageError(f"{action.id} needs one key or a list of keys", where=where)
    for key in keys:
        if key in _TAKEN:
            raise UsageError(f"{action.id} cannot be {key}: {_TAKEN[key]}", where=where)
        if key not in _NAMED and not _PLAIN.fullmatch(key):
            raise UsageError(
                f"{visible(key, limit=40)} is no key that {action.id} could have",
                where=where,
                hint="a letter, a digit, f1 to f24, ctrl+letter, or a name as in `cockpit`'s help",
            )
        if action.id == "halt_always" and not re.match(r"f\d|ctrl\+", key):
            raise UsageError(f"{action.id} works inside text fields: {key} would be typed there", where=where)
    return replace(action, keys=tuple(dict.fromkeys(keys)), shown=_shown(keys[0]))


def _shown(key: str) -> str:
    return _SHOWN.get(key) or (key.upper() if re.fullmatch(r"f\d+", key) else key)
