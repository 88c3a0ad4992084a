"""From build to verification: images seeded with signed statements, read and judged by the real parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from cockpit.backends.registry import OciRegistry
from cockpit.evidence.checks import passed
from cockpit.evidence.signatures import verify_statement
from cockpit.rehearsal.registry import Image, attach, build_image, predicates, push, referrer
from cockpit.rehearsal.sigstore import BuildSigning, SigstoreServer
from tests.contract.registry_support import Place, docker, place, registry_kind

__all__ = ["docker", "place", "registry_kind"]
pytestmark = pytest.mark.contract
BUILD = "https://forge.rehearsal.invalid/intelgraph/platform/.github/workflows/release.yml@refs/tags/v3.0.0"
SOURCE = "https://forge.rehearsal.invalid/intelgraph/platform"
COMMIT = "c0ffee" * 6 + "c0ff"
FACTS: dict[str, Any] = {
    "contents": predicates.CANDIDATE,
    "builder": BUILD,
    "source": SOURCE,
    "commit": COMMIT,
    "ref": "refs/tags/v3.0.0",
}


@pytest_asyncio.fixture
async def sigstore() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer() as running:
        yield running


async def statements(
    place: Place, sigstore: SigstoreServer, image: Image, identity: str = BUILD
) -> dict[str, dict[str, Any]]:
    """Return what is attested of an image, by predicate type, to a verifier that trusts `identity`."""
    client = OciRegistry(place.url)
    found = {}
    try:
        for bundle in await client.bundles(place.name, image.digest):
            statement, checks = verify_statement(
                bundle,
                trusted_root_json=sigstore.trusted_root().encode(),
                identity=identity,
                issuer=sigstore.issuer,
                canonical=False,  # made by another client, which writes out what the log left out
                subject_sha256=image.digest.partition(":")[2],
            )
            if passed(checks):
                found[statement["predicateType"]] = statement["predicate"]
    finally:
        await client.close()
    return found


async def test_a_build_leaves_everything_a_verifier_needs(place: Place, sigstore: SigstoreServer) -> None:
    image = build_image("web", "v3.0.0", revision=COMMIT)
    repository = place.repository()
    push(repository, image)
    attached = await attach(repository, image, BuildSigning(sigstore, BUILD), **FACTS)
    await place.publish()
    found = await statements(place, sigstore, image)
    assert found.keys() == attached.referrers.keys()
    assert found.keys() == {
        predicates.SIGNATURE,
        predicates.SBOM,
        predicates.PROVENANCE,
        predicates.VULNERABILITIES,
    }
    provenance = found[predicates.PROVENANCE]
    assert provenance["runDetails"]["builder"]["id"] == BUILD
    [source] = provenance["buildDefinition"]["resolvedDependencies"]
    assert source["digest"]["gitCommit"] == COMMIT
    sbom = found[predicates.SBOM]
    assert sbom["spdxVersion"] == "SPDX-2.3"
    assert {package["name"] for package in sbom["packages"]} >= {"python", "demo-search"}
    result = found[predicates.VULNERABILITIES]["scanner"]["result"]
    assert [one["severity"] for one in result["vulnerabilities"]] == ["low", "low"]
    assert await statements(place, sigstore, image, identity=f"{SOURCE}/other.yml") == {}


async def test_an_unsigned_image_has_all_but_the_signature(place: Place, sigstore: SigstoreServer) -> None:
    image = build_image("search", "v3.0.0")
    repository = place.repository()
    push(repository, image)
    await attach(repository, image, BuildSigning(sigstore, BUILD), **FACTS, signature=False)
    await place.publish()
    assert predicates.SIGNATURE not in await statements(place, sigstore, image)


async def test_a_signature_of_another_image_does_not_count(place: Place, sigstore: SigstoreServer) -> None:
    image, other = build_image("web", "v3.0.0"), build_image("web", "v3.0.1")
    repository = place.repository()
    push(repository, image)
    bundle = await BuildSigning(sigstore, BUILD).sign(predicates.statement(other, predicates.SIGNATURE, {}))
    referrer(repository, image, bundle, predicates.SIGNATURE)
    await place.publish()
    assert await statements(place, sigstore, image) == {}


def test_the_candidate_adds_no_grave_vulnerability() -> None:
    before = {found.id for found in predicates.PREVIOUS.vulnerabilities}
    added = [found for found in predicates.CANDIDATE.vulnerabilities if found.id not in before]
    assert [found.severity for found in added] == ["low"]
