"""The action registry: what a person can do, by which key. Keys, key bar, palette and help come from it.

`keys.py` remaps the keys by action id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["live", "replay", "both"]
Group = Literal["stop", "decide", "release", "look", "move", "replay", "screen"]


@dataclass(frozen=True, slots=True)
class Action:
    """Something a person can do.

    `keys` are names as Textual knows them; the first is shown as `shown`. `danger` marks what changes the
    release. `bar` orders the key bar: 1 comes first and stays longest when space is short, 0 is not on it.
    """

    id: str
    keys: tuple[str, ...]
    shown: str
    label: str
    help: str
    scope: Scope = "both"
    group: Group = "screen"
    danger: bool = False
    bar: int = 0
    everywhere: bool = False
    """Whether the keys also work over a dialogue."""

    def in_mode(self, mode: str) -> bool:
        """Tell whether the action belongs to a mode (live, follow or replay)."""
        return self.scope == "both" or (self.scope == "replay") == (mode == "replay")


ACTIONS: tuple[Action, ...] = (
    Action(
        "halt",
        ("H",),
        "H",
        "HALT",
        "Stop at once: nothing forward goes out, traffic stays. One key press; the reason is asked after.",
        group="stop",
        danger=True,
        bar=1,
        everywhere=True,
    ),
    Action(
        "halt_always",
        ("f9",),
        "F9",
        "HALT while typing",
        "The same as H, and it works inside text fields too.",
        group="stop",
        danger=True,
    ),
    Action(
        "rollback",
        ("R",),
        "R",
        "ROLLBACK",
        "Take the release back: shows consequence and feasibility; y confirms; the reason is asked after.",
        group="stop",
        danger=True,
        bar=2,
        everywhere=True,
    ),
    Action(
        "decide",
        ("d",),
        "d",
        "Decide",
        "Answer what waits: after a HALT roll back, resume or stay; a question; an approval; a hand-over.",
        scope="live",
        group="decide",
        bar=3,
    ),
    Action(
        "approve",
        ("s",),
        "s",
        "Sign",
        "Approve or reject what people are asked, or review a break-glass; signed by the command beside it.",
        scope="live",
        group="decide",
        bar=9,
    ),
    Action(
        "acknowledge",
        ("A",),
        "A",
        "Acknowledge",
        "Say that you attend to what waits: nobody else is called for it.",
        scope="live",
        group="decide",
        bar=10,
    ),
    Action(
        "step_up",
        ("u",),
        "u",
        "Second factor",
        "Show a one-time password, where an approval needs one.",
        scope="live",
        group="decide",
    ),
    Action(
        "promote",
        ("P",),
        "P",
        "Promote",
        "Send the Promote v2 a run waits for (promote_on: request); y confirms.",
        scope="live",
        group="decide",
    ),
    Action(
        "break_glass",
        ("B",),
        "B",
        "Break-glass",
        "Override a failed gate: scope, reason, release name, y, and a signature. Its verdict stays.",
        group="decide",
        danger=True,
        bar=15,
    ),
    Action(
        "pause_bake",
        ("p",),
        "p",
        "Pause bake",
        "Stop the bake's clock, or let it go on; the analysis goes on in both. Needs a reason.",
        scope="live",
        group="release",
        danger=True,
        bar=11,
    ),
    Action(
        "extend_bake",
        ("e",),
        "e",
        "Extend bake",
        "Make the bake of this step longer: seconds, 10m or 1h, and a reason.",
        scope="live",
        group="release",
        danger=True,
        bar=14,
    ),
    Action(
        "reverify",
        ("v",),
        "v",
        "Verify again",
        "Have one agent verify again, the one chosen among agents or gates; counted, and needs a reason.",
        scope="live",
        group="release",
        danger=True,
        bar=12,
    ),
    Action(
        "handover",
        ("o",),
        "o",
        "Hand over",
        "Offer the run to the next operator; you stay its operator until they take it.",
        scope="live",
        group="release",
    ),
    Action(
        "accept",
        ("O",),
        "O",
        "Take over",
        "Take a run over that was offered to you.",
        scope="live",
        group="release",
    ),
    Action(
        "note",
        ("n",),
        "n",
        "Note",
        "Write a remark into the journal.",
        scope="live",
        group="release",
        bar=13,
    ),
    Action(
        "people",
        ("w",),
        "w",
        "Waits",
        "Who decides and what waits: approvals, broken glass, hand-over, escalation, policy, soak, times.",
        group="look",
        bar=4,
    ),
    Action(
        "alerts",
        ("a", "exclamation_mark"),
        "a",
        "Alerts",
        "Everything that needs attention: errors, gaps, unknown effects, fallback commands, waivers.",
        group="look",
        bar=8,
    ),
    Action(
        "world",
        ("i",),
        "i",
        "In the world",
        "Stages before prod, hard stop, incidents, issues, flags, KPIs, drills, tags, messages.",
        group="look",
        bar=16,
    ),
    Action(
        "contents",
        ("c",),
        "c",
        "Contents",
        "What is in this release: commits, pull requests, images, flags, migrations.",
        group="look",
        bar=17,
    ),
    Action(
        "preview",
        ("l",),
        "l",
        "PLAN",
        "What this run does by its plan, and what its agents answered to PLAN.",
        group="look",
        bar=18,
    ),
    Action(
        "fallback",
        ("F",),
        "F",
        "By hand",
        "The exact kubectl commands that abort this run, for when the cockpit itself is the problem.",
        group="look",
        bar=11,
    ),
    Action(
        "play",
        ("space",),
        "space",
        "Play/pause",
        "Play or pause the recording.",
        scope="replay",
        group="replay",
        bar=3,
    ),
    Action(
        "step_forward",
        ("full_stop",),
        ".",
        "Step",
        "One record forward.",
        scope="replay",
        group="replay",
        bar=4,
    ),
    Action(
        "step_back",
        ("comma",),
        ",",
        "Back",
        "One record back.",
        scope="replay",
        group="replay",
        bar=5,
    ),
    Action(
        "seek_forward", ("right",), "→", "10 s on", "Ten seconds forward.", scope="replay", group="replay"
    ),
    Action("seek_back", ("left",), "←", "10 s back", "Ten seconds back.", scope="replay", group="replay"),
    Action("seek_start", ("home",), "home", "Start", "To the first record.", scope="replay", group="replay"),
    Action("seek_end", ("end",), "end", "End", "To the last record.", scope="replay", group="replay"),
    Action(
        "faster",
        ("plus", "equals_sign"),
        "+",
        "Faster",
        "Play faster, up to max.",
        scope="replay",
        group="replay",
        bar=9,
    ),
    Action(
        "slower",
        ("minus",),
        "-",
        "Slower",
        "Play slower, down to ½×.",
        scope="replay",
        group="replay",
        bar=10,
    ),
    Action(
        "seek_break",
        ("x",),
        "x",
        "To the break",
        "Where the chain is broken, if verification found a break.",
        scope="replay",
        group="replay",
        bar=11,
    ),
    Action("pane_next", ("tab",), "tab", "Next pane", "Move to the next pane.", group="move"),
    Action(
        "pane_previous", ("shift+tab",), "⇧tab", "Previous pane", "Move to the previous pane.", group="move"
    ),
    Action(
        "pane_1", ("1",), "1", "Canary", "To the canary (in a small terminal: the flight tab).", group="move"
    ),
    Action("pane_2", ("2",), "2", "Burn rate", "To the burn rate.", group="move"),
    Action("pane_3", ("3",), "3", "Gates", "To the gates.", group="move"),
    Action("pane_4", ("4",), "4", "Agents", "To the agents.", group="move"),
    Action("pane_5", ("5",), "5", "Journal", "To the journal's tail.", group="move"),
    Action("pane_6", ("6",), "6", "Phases", "To the phases.", group="move"),
    Action("up", ("up", "k"), "↑", "Up", "One row up.", group="move"),
    Action("down", ("down", "j"), "↓", "Down", "One row down.", group="move"),
    Action("page_up", ("pageup",), "pgup", "Page up", "One page up.", group="move"),
    Action("page_down", ("pagedown",), "pgdn", "Page down", "One page down.", group="move"),
    Action("top", ("g",), "g", "First", "To the first row.", group="move"),
    Action(
        "bottom", ("G",), "G", "Last", "To the last row; in the journal: follow what comes.", group="move"
    ),
    Action("open", ("enter",), "enter", "Open", "Show all about the selected row.", group="move", bar=7),
    Action("back", ("escape",), "esc", "Back", "Leave a view, or clear the filter.", group="move"),
    Action(
        "filter",
        ("slash",),
        "/",
        "Filter",
        "Show only rows of the journal or the agents that contain a text.",
        bar=8,
    ),
    Action(
        "theme", ("t",), "t", "Theme", "Next theme: dark, light, colour-blind safe, high contrast.", bar=19
    ),
    Action("palette", ("colon", "ctrl+p"), ":", "Palette", "Find any of these actions by name.", bar=12),
    Action("help", ("question_mark", "f1"), "?", "Help", "Show this list.", bar=5),
    Action("leave", ("q", "ctrl+q", "ctrl+c"), "q", "Leave", "Leave the screen. The release goes on.", bar=6),
)

BY_ID: dict[str, Action] = {action.id: action for action in ACTIONS}
