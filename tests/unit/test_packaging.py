"""What is shipped: the wheel built through the sdist, and a repository that speaks only of itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".bootstrap" / "bin" / "uv"
LINKED = ("agents", "recordings", "runbooks", "schemas", "screens")
"""Folders of the repository that are packages below `cockpit` by a symlink."""

_FOREIGN = re.compile(
    r"(?<![\w.$}])/(?:home|root|Users|work|workspace|opt|mnt)/\w"
    r"|\bpypi\.|pythonhosted\.org|registry\.npmjs|proxy\.golang"
    r"|(?<!no-emit-)(?:--(?:extra-)?index-url|--find-links|index-url\s*=)"
)


def tracked() -> list[Path]:
    """Return the files git knows; skips the test outside a checkout."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, timeout=60)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def shipped() -> set[str]:
    """Return the paths below `cockpit/` that a wheel must hold: all of the packages' tracked files."""
    names = {path.relative_to(ROOT).as_posix() for path in tracked() if path.is_file()}
    below = {name for name in names if name.startswith("cockpit/")}
    return below | {f"cockpit/{name}" for name in names if name.partition("/")[0] in LINKED}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/home/someone/project", True),
        ("see https://pypi.org/simple", True),
        ("--index-url https://host/simple", True),
        ("--no-emit-index-url", False),
        ("a path like /search/query, cockpit/home/x", False),
    ],
)
def test_what_counts_as_a_word_about_the_machine(text: str, found: bool) -> None:
    assert bool(_FOREIGN.search(text)) is found


def test_no_file_speaks_of_the_machine_it_was_made_on() -> None:
    told = []
    for path in tracked():
        if path.is_symlink() or not path.is_file() or path == Path(__file__).resolve():
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        told += [f"{path.relative_to(ROOT)}: {match.group()}" for match in _FOREIGN.finditer(text)]
    assert told == []


def test_the_folders_are_packages_by_relative_symlinks() -> None:
    for folder in LINKED:
        link = ROOT / "cockpit" / folder
        assert link.resolve() == ROOT / folder
        if link.is_symlink():  # in an unpacked sdist they are folders
            assert os.readlink(link) == f"../{folder}"
        assert (ROOT / folder / "__init__.py").is_file()


@pytest.mark.parametrize(
    "lock", ["requirements-bootstrap.lock", "requirements.lock", "requirements-dev.lock"]
)
def test_locks_pin_by_hash_and_name_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    pins = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:", line)] == []
    assert "://" not in text


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        "requirements.lock": project["dependencies"],
        "requirements-dev.lock": project["dependencies"] + project["optional-dependencies"]["dev"],
    }
    for lock, requirements in wanted.items():
        text = (ROOT / lock).read_text(encoding="utf-8").lower()
        names = [
            re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace(".", "-") for requirement in requirements
        ]
        assert [name for name in names if not re.search(rf"(?m)^{re.escape(name)}(\[.*\])?==", text)] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the sdist of a clone of what is committed."""
    if not UV.is_file():
        pytest.skip("needs the uv of `make setup`")
    place = tmp_path_factory.mktemp("packaging")
    clone = place / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT.as_uri(), str(clone)], check=True, timeout=120)
    build = [str(UV), "build", "--quiet", "--no-python-downloads", "--python", sys.executable]
    done = subprocess.run(
        [*build, "--out-dir", str(place), str(clone)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(place.glob("*.whl"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_wheel_holds_every_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert shipped() - names == set()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"cockpit"}
    assert not [name for name in names if "__pycache__" in name]
    assert any(name.endswith("admission.rego") for name in names)
    assert "cockpit/screens/app.tcss" in names
    assert "cockpit/py.typed" in names
    assert any(re.fullmatch(r"cockpit/schemas/\w+\.schema\.json", name) for name in names)
    assert any(re.fullmatch(r"cockpit/runbooks/[\w-]+\.md", name) for name in names)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_wheel_installs_and_answers_without_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "venv"
    venv.create(fresh, with_pip=False)
    python = fresh / "bin" / "python"
    install = [str(UV), "pip", "install", "--quiet", "--no-deps", "--python", str(python), str(wheel)]
    subprocess.run(install, check=True, timeout=120)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(fresh / "bin" / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=60,
            check=False,
        )

    version = run("cockpit", "--version")
    assert (version.returncode, version.stdout.split()[0]) == (0, "release-cockpit")
    assert "rehearse" in run("cockpit", "--help").stdout
    where = run("python", "-c", "import cockpit.agents, cockpit.screens; print(cockpit.agents.__file__)")
    assert where.returncode == 0, where.stderr
    assert Path(where.stdout.strip()).is_relative_to(fresh)
    assert run("python", "-c", "import agents").returncode != 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_installed_wheel_verifies_and_lists_with_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    # Its dependencies are those of this environment; the package itself is the wheel's.
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    code = (
        "import sys; from cockpit.cli.main import run; import cockpit; "
        "assert cockpit.__file__.startswith(sys.path[0]), cockpit.__file__; sys.exit(run(['agents']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r}); {code}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "A60" in done.stdout
