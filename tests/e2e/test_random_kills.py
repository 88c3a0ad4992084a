"""A release interrupted at random moments in random ways: whatever happens, the invariants hold.

A seed says the scenario, the blows and their moments; how far the release is by then is the machine's.
`KILL_SEEDS="17 4711" make test-long` strikes again as those seeds say.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.blows import ANY, KEEP, Act, Blow, Kind, Struck, draw, fresh, seeds, undergo
from tests.e2e.rehearsals import Again, Running

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(900)]

BASE = {"green": 0, "slo-breach-50": 20, "operator-lost": 0}
"""The exit of each scenario that nobody interrupts."""


def _freeze(part: str) -> Act:
    def act(struck: Struck, blow: Blow) -> bool:
        return struck.freeze(struck.world()[part], blow.seconds)

    return act


ACTS = {
    **ANY,
    # All its servers are one process: the API server, Prometheus, Sigstore, registry.
    "freeze the world": (Kind(frozenset({10, 11, 20, 50, 60}), (1, 12)), _freeze("world")),
    "freeze the application": (Kind(frozenset({10, 11, 20}), (1, 8)), _freeze("app")),
}


@pytest.mark.parametrize("given", seeds(5), ids=lambda seed: str(seed) if seed is not None else "drawn")
def test_whatever_interrupts_a_release_the_invariants_hold(
    start: Callable[..., Running], again: Again, given: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = fresh() if given is None else given
    ordeal = draw(seed, {name: kind for name, (kind, _) in ACTS.items()}, list(BASE))
    with capsys.disabled():
        print(f"\nKILL_SEEDS={seed}: {ordeal}", flush=True)

    def attempt(_: int) -> Struck:
        running = start(ordeal.scenario, "--keep", KEEP)
        return undergo(running, ordeal, ACTS, BASE[ordeal.scenario])

    struck = again.once(f"seed {seed}", attempt)
    with capsys.disabled():
        code = (struck.folder / "exit").read_text()
        print(f"  {len(struck.fell)} of {len(ordeal.blows)} blows fell; it ended with {code}", flush=True)
