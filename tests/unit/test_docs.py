"""The documents say what is so: commands parse, links resolve, tables are those of the code."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from cockpit.agents.roster import ROSTER
from cockpit.base.clock import SystemClock
from cockpit.cli.main import ASKING, SCENARIOS, parser
from cockpit.conductor.ending import OUTCOMES
from cockpit.control.actions import ACTIONS
from cockpit.journal.events import AnyEvent, Noted
from cockpit.journal.writer import JournalWriter
from cockpit.rehearsal.scenarios import SCENARIOS as WORLDS
from cockpit.verdicts.gates import PHASE_GATES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "runbooks").glob("*.md")])
RUNBOOKS = sorted((ROOT / "runbooks").glob("*.md"))

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"(?<!\\)\[[^\]\n]*\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    """Return a document's path within the repository."""
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    """Return a document."""
    return path.read_text(encoding="utf-8")


def prose_of(path: Path) -> str:
    """Return a document without its blocks of code."""
    return _FENCE.sub("", text_of(path))


def blocks(path: Path, language: str) -> list[str]:
    """Return the blocks of code in a language."""
    return [body for _, found, body in _FENCE.findall(text_of(path)) if found == language]


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of each `cockpit` command in a document's shell blocks."""
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("cockpit "):
                yield [word for word in shlex.split(line, comments=True)[1:] if word != "&"]


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("the command line has no commands")


def table_after(path: Path, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, cells stripped."""
    below = text_of(path).partition(f"\n{heading}\n")[2]
    assert below, f"{name_of(path)} has no {heading!r}"
    rows = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert rows
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows[0].splitlines()]
    return [[cell.strip("| ") for cell in row] for row in cells[2:]]


def anchor(heading: str) -> str:
    """Return the anchor of a heading as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


# -- commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_in_blocks_parse(path: Path) -> None:
    for words in commands(path):
        assert parser().parse_args(words).module, words


def test_the_quick_start_shows_commands() -> None:
    assert {words[0] for words in commands(ROOT / "README.md")} >= {
        "evidence",
        "follow",
        "halt",
        "journal",
        "rehearse",
        "replay",
        "rollback",
        "status",
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_in_sentences_exist(path: Path) -> None:
    known = subcommands()
    for span in _SPAN.findall(prose_of(path)):
        if not span.startswith("cockpit "):
            continue
        words = span.split()[1:]
        if words[0].startswith("-"):
            assert words[0] in ("--help", "--version"), span
            continue
        assert words[0] in known, span
        grammar = known[words[0]].format_help()
        for inner in known[words[0]]._actions:
            if isinstance(inner, argparse._SubParsersAction):
                grammar += "".join(one.format_help() for one in inner.choices.values())
        assert [word for word in words if word.startswith("--") and word not in grammar] == [], span


def test_every_command_is_documented() -> None:
    said = "\n".join(text_of(path) for path in DOCUMENTS)
    # A command without a help text is for the cockpit's own processes.
    shown = [line.split()[0] for line in parser().format_help().splitlines() if re.match(r"    [a-z]", line)]
    assert shown
    assert [name for name in shown if f"cockpit {name}" not in said] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_make_targets_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`)make ([a-z-]+)", text_of(path), re.MULTILINE)
    assert [target for target in named if not re.search(rf"(?m)^{target}:", makefile)] == []


# -- links and references -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_resolve(path: Path) -> None:
    broken = []
    for target in _LINK.findall(prose_of(path)) + re.findall(r"(?m)^\[[^\]]+\]: (\S+)", prose_of(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or not place.is_relative_to(ROOT):
            broken.append(target)
        elif fragment:
            headings = re.findall(r"(?m)^#+ (.+)$", place.read_text(encoding="utf-8"))
            if fragment not in map(anchor, headings):
                broken.append(target)
    assert broken == []


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name != "agents.md"], ids=name_of
)  # agents.md names paths in a pack
def test_files_named_in_sentences_exist(path: Path) -> None:
    tops = ("agents/", "benchmarks/", "cockpit/", "docs/", "schemas/", "screens/", "tests/")
    spans = [span for span in _SPAN.findall(prose_of(path)) if span.startswith(tops)]
    assert [span for span in spans if not (ROOT / span).exists()] == []


def sources() -> Iterator[tuple[Path, str]]:
    """Yield the project's own code."""
    for folder in ("agents", "cockpit", "screens"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("reference", "document", "entry"),
    [
        (r"[Ss]eed sections? (\d+)", "docs/brief.md", r"(?m)^## Seed section (\d+):"),
        (r"\(seed (\d+)\)", "docs/brief.md", r"(?m)^## Seed section (\d+):"),
        (r"gates\.md, reading (\d+)", "docs/gates.md", r"(?m)^(\d+)\. "),
        (r"design decision (\d+)", "docs/architecture.md", r"(?m)^(\d+)\. \*\*"),
    ],
)
def test_what_comments_refer_to_can_be_found(reference: str, document: str, entry: str) -> None:
    there = set(re.findall(entry, text_of(ROOT / document)))
    referred = {number for _, text in sources() for number in re.findall(reference, text)}
    assert referred, reference
    assert referred - there == set()


# -- tables -------------------------------------------------------------------------------------------


def test_the_brief_has_every_section() -> None:
    found = re.findall(r"(?m)^## Seed section (\d+):", text_of(ROOT / "docs" / "brief.md"))
    assert found == [str(number) for number in range(21)]


def test_scenarios_are_those_there_are() -> None:
    rows = table_after(ROOT / "README.md", "## Scenarios")
    assert {row[0].strip("`") for row in rows} == set(WORLDS)
    assert set(SCENARIOS) == set(WORLDS)
    assert set(ASKING) == {name for name, world in WORLDS.items() if world.people is not None}
    assert {int(row[-1]) for row in rows} <= set(OUTCOMES)


def test_exit_codes_are_those_of_the_code() -> None:
    rows = table_after(ROOT / "README.md", "## Exit codes")
    said = {int(code): meaning for code, meaning in rows}
    assert said.keys() == OUTCOMES.keys()
    # Both documents and the command's help say the same words; the code's own may be shorter.
    assert table_after(ROOT / "docs" / "architecture.md", "## Exit codes") == rows
    assert {code: said[code].replace("a gate or approval", "gate") for code in said} == OUTCOMES


def test_keys_are_bound() -> None:
    bound = {action.shown for action in ACTIONS} | {key for action in ACTIONS for key in action.keys}
    rows = table_after(ROOT / "README.md", "## Keys")
    named = {key for row in rows for key in _SPAN.findall(row[0])}
    assert named
    assert {key for key in named if key not in bound} == set()


def test_built_agents_are_counted_right() -> None:
    built = [info.id for info in ROSTER if info.built]
    said = text_of(ROOT / "README.md")
    assert f"{len(built)} of the {len(ROSTER)} agents" in said
    assert f"{', '.join(built[:-1])} and {built[-1]} (" in said
    left = len(ROSTER) - len(built)
    assert f"- {left} of the {len(ROSTER)} agents" in text_of(ROOT / "docs" / "architecture.md")


def test_required_gates_are_made_of_what_the_code_says() -> None:
    rows = table_after(ROOT / "docs" / "gates.md", "## From phase gates to required gates")
    said = {row[0]: tuple(row[1].split(", ")) for row in rows if row[0] in PHASE_GATES}
    assert said == PHASE_GATES


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_events_named_exist(path: Path) -> None:
    tags = {event.__struct_config__.tag for event in get_args(AnyEvent)}
    named = re.findall(r"`([a-z_]+\.[a-z_]+\.v\d+)`", text_of(path))
    assert set(named) - {"area.verb.v1"} <= tags


# -- runbooks and the format --------------------------------------------------------------------------


@pytest.mark.parametrize("path", RUNBOOKS, ids=name_of)
def test_a_runbook_says_what_it_must(path: Path) -> None:
    _, front, body = text_of(path).split("---\n", 2)
    said = YAML(typ="safe").load(front)
    assert set(said) == {"owner", "trigger", "steps", "rollback", "last_drill", "mtta", "mttr"}
    assert said["steps"] == len(re.findall(r"(?m)^\d+\. ", body))
    assert said["last_drill"] == "none" or re.fullmatch(r"\d{4}-\d{2}-\d{2}", str(said["last_drill"]))
    assert str(said["owner"]).startswith("@")


def test_there_are_runbooks() -> None:
    assert {path.stem for path in RUNBOOKS} >= {"canary-rollback", "cockpit-is-the-problem"}


async def test_a_journal_verifies_by_the_lines_in_its_description(tmp_path: Path) -> None:
    async with JournalWriter.open(tmp_path, clock=SystemClock()) as writer:
        for number in range(3):
            await writer.append(Noted(level="info", text=f"remark {number}"))
    (program,) = blocks(ROOT / "docs" / "journal-format.md", "python")

    def verify() -> int:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode

    assert verify() == 0
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"remark 1", b"remark 7"))
    assert verify() == 1
