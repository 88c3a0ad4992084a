"""What imports what: the layers of docs/architecture.md, and what a process must not load."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "aiohttp",
    "asyncssh",
    "httpx",
    "kubernetes",
    "matplotlib",
    "prometheus_api_client",
    "regopy",
    "requests",
    "sigstore",
)
"""What only back ends, agents and the rehearsal's world need."""
SOURCES = ("agents", "cockpit", "recordings", "runbooks", "schemas", "screens")


def loaded_by(code: str) -> set[str]:
    """Return the top-level names of every module a fresh interpreter has loaded after running `code`."""
    script = f"{code}\nimport sys\nprint('LOADED', *sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    return set(lines[-1].split()[1:])


@pytest.mark.parametrize(
    "module",
    ["cockpit", "cockpit.cli", "cockpit.cli.main", "cockpit.control.client", "cockpit.journal.fold"],
)
def test_the_core_loads_no_back_end_and_no_screen(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint({*HEAVY, "textual"})


@pytest.mark.parametrize("module", ["cockpit.screens.app", "cockpit.screens.entry"])
def test_the_screens_load_no_back_end(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert "textual" in loaded
    assert loaded.isdisjoint({*HEAVY, "pydantic"})


@pytest.mark.parametrize("command", ["--help", "--version", "rehearse --help", "evidence verify --help"])
def test_asking_for_help_loads_almost_nothing(command: str) -> None:
    code = f"""
import sys
from cockpit.cli.main import run
assert run({command.split()!r}) == 0
"""
    heavy = {*HEAVY, "cryptography", "jsonschema", "msgspec", "opentelemetry", "pydantic", "rich", "textual"}
    assert loaded_by(code).isdisjoint(heavy)


def test_a_headless_release_loads_no_screen() -> None:
    assert "textual" not in loaded_by("import cockpit.cli.auto, cockpit.process, cockpit.cli.conduct")


def test_the_supervisor_stands_on_the_standard_library_alone() -> None:
    tree = ast.parse((ROOT / "cockpit" / "supervisor.py").read_text(encoding="utf-8"))
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            named.add((node.module or "").partition(".")[0])
    assert named <= sys.stdlib_module_names

    loaded = loaded_by("import cockpit.supervisor")
    assert {name for name in loaded if not name.startswith("_")} <= {
        *sys.stdlib_module_names,
        "cockpit",
        *loaded_by("pass"),
    }


def test_no_module_is_imported_by_the_name_of_its_folder() -> None:
    folders = set(SOURCES) - {"cockpit"}
    strays = []
    for folder in (*SOURCES, "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                strays += [f"{path}: {name}" for name in names if name.partition(".")[0] in folders]
    assert strays == []


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over a checkout."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tree), "NO_COLOR": "1"},
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the sources, symlinks and all."""
    tree = tmp_path_factory.mktemp("checkout")
    for folder in SOURCES:
        shutil.copytree(
            ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def test_the_layers_hold(checkout: Path) -> None:
    done = lint(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("cockpit/journal/chain.py", "cockpit.conductor.effects"),
        ("agents/risk.py", "cockpit.conductor.people"),
        ("screens/view.py", "cockpit.backends.cluster"),
        ("cockpit/rehearsal/traffic.py", "cockpit.journal.fold"),
        ("cockpit/verdicts/gates.py", "httpx"),
    ],
)
def test_a_planted_import_is_found(checkout: Path, where: str, what: str) -> None:
    path = checkout / where
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\nimport {what}\n", encoding="utf-8")
    try:
        done = lint(checkout)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert what.partition(".")[0] in done.stdout
