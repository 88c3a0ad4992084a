"""The supply side of a world: Sigstore, registry with signed images, forge, and the webhook's receiver."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from cockpit.base.errors import BackendError
from cockpit.base.threads import BoundedThreads
from cockpit.rehearsal.embedded import Embedded
from cockpit.rehearsal.forge import FROM_REF, MAIN, make_repository
from cockpit.rehearsal.issues import IssuesServer
from cockpit.rehearsal.parts import ImageStore, Parts, Policy
from cockpit.rehearsal.platform import Images
from cockpit.rehearsal.registry import BuildSigner, Image, attach, build_image, push
from cockpit.rehearsal.registry.predicates import CANDIDATE, PREVIOUS
from cockpit.rehearsal.release_plan import ImageTrust
from cockpit.rehearsal.scenarios import Scenario
from cockpit.rehearsal.sigstore.interface import Sigstore
from cockpit.rehearsal.topology import CANDIDATE_VERSION, SERVICES, STABLE_VERSION, behaviour
from cockpit.rehearsal.webhook import KINDS, WebhookReceiver

_POLICY_FILE = Path(__file__).resolve().parents[1] / "agents" / "policy" / "release" / "release.rego"

if TYPE_CHECKING:
    from sigstore.sign import SigningContext

BUILD_IDENTITY = "https://forge.rehearsal.invalid/intelgraph/platform/.ci/release@refs/heads/main"
BUILDER = "https://forge.rehearsal.invalid/builders/release"
SOURCE = "https://forge.rehearsal.invalid/intelgraph/platform"
_SIGN_SECONDS = 60.0


@dataclass(frozen=True)
class Supply:
    """What the rest of the world needs to know of its supply side."""

    images: Images
    publish: Callable[[], Coroutine[Any, Any, None]]
    """Pushes and attests the images: takes a second, so it is left to the caller when."""
    worsen: Callable[[], Coroutine[Any, Any, None]]
    """Springs the fault that is there from the moment the world is ready."""
    trust: ImageTrust
    registry_url: str
    issuer: str
    login: str
    """Where people log in, when that is not the issuer itself; else empty."""
    token_url: str
    token_secret: str
    person_secret: Callable[[str], str]
    """Gives the one with this identity a secret of their own to sign in with."""
    trust_config: str
    trusted_root: str
    repository: Path
    from_ref: str
    to_ref: str
    webhooks: Mapping[str, str]
    """Where messages of each shape are posted to."""
    webhook_secret: str
    issues_url: str
    issues_repository: str
    issues_token: str
    policy_url: str
    """An engine with the policy of the release before: this release brings its own."""
    policy_token: str


class Build:
    """Signs as the build that made the images, never as the one who releases them."""

    def __init__(self, sigstore: Sigstore, signers: int = 2) -> None:
        self._sigstore = sigstore
        self._threads = BoundedThreads("build signer", signers)
        self._context: SigningContext | None = None

    async def sign(self, statement: Mapping[str, Any]) -> bytes:
        """Return the Sigstore bundle (JSON) of an in-toto statement."""
        token, config = self._sigstore.token(BUILD_IDENTITY), self._sigstore.trust_config()

        def call() -> bytes:
            from sigstore.dsse import Statement
            from sigstore.models import ClientTrustConfig
            from sigstore.oidc import IdentityToken
            from sigstore.sign import SigningContext

            if self._context is None:
                self._context = SigningContext.from_trust_config(ClientTrustConfig.from_json(config))
            with self._context.signer(IdentityToken(token)) as signer:
                bundle = signer.sign_dsse(Statement(json.dumps(dict(statement)).encode()))
            return bundle.to_json().encode()

        return await self._threads.run(call, deadline=_SIGN_SECONDS)


def make_images(
    scenario: Scenario, stable_commit: str, candidate_commit: str
) -> dict[str, tuple[Image, Image]]:
    """Return (stable, candidate) of each service; how a pod behaves is part of its image's digest."""

    def make(service: str, version: str, commit: str, *, slow: bool = False, blind: bool = False) -> Image:
        settings = json.dumps(asdict(behaviour(service, version, slow=slow, blind=blind)), sort_keys=True)
        return build_image(
            service, version, [{f"app/{service}/settings.json": settings.encode()}], revision=commit
        )

    return {
        service: (
            make(service, STABLE_VERSION, stable_commit),
            make(
                service,
                CANDIDATE_VERSION,
                candidate_commit,
                slow=scenario.slow_candidate,
                blind=scenario.blind_candidate and service == "search",
            ),
        )
        for service in SERVICES
    }


def references(host: str, images: Mapping[str, tuple[Image, Image]]) -> Images:
    """Return how the images are referred to at the registry `host`."""

    def named(image: Image, reference: str) -> str:
        return f"{host}/{image.repository}{reference}"

    return Images(
        {service: named(stable, f"@{stable.digest}") for service, (stable, _) in images.items()},
        {service: named(image, f"@{image.digest}") for service, (_, image) in images.items()},
        {service: named(image, f":{image.version}") for service, (_, image) in images.items()},
    )


async def publish(
    registry: ImageStore,
    images: Mapping[str, tuple[Image, Image]],
    signer: BuildSigner,
    scenario: Scenario,
    commits: tuple[str, str],
) -> None:
    """Push every image and attach what its build attested; `commits` are those of stable and candidate."""
    async with asyncio.TaskGroup() as tasks:
        for service, pair in images.items():
            for image, contents, commit in zip(pair, (PREVIOUS, CANDIDATE), commits, strict=True):
                repository = registry.repository(image.repository)
                push(repository, image)
                unsigned = image is pair[1] and service == scenario.unsigned_service
                tasks.create_task(
                    # Side by side: a real log takes about a second for each entry.
                    attach(
                        repository,
                        image,
                        signer,
                        contents=contents,
                        builder=BUILDER,
                        source=SOURCE,
                        commit=commit,
                        ref=f"refs/heads/{MAIN}" if image is pair[1] else f"refs/tags/{image.version}",
                        signature=not unsigned,
                    )
                )
    await registry.publish()


async def _worsen(sigstore: Sigstore, scenario: Scenario) -> None:
    if scenario.signing_outage:
        await sigstore.fault("fulcio", "refuse")
        await sigstore.fault("rekor", "refuse")


async def _in_force(policy: Policy) -> None:
    """Put the policy of the release before into the engine: people are asked before P3 brings this one's.

    Raises BackendError when the engine does not take it.
    """
    text = _POLICY_FILE.read_text(encoding="utf-8") + "\n# As the release before brought it.\n"
    package = next(line.split()[1] for line in text.splitlines() if line.startswith("package "))
    url = f"{policy.url}/v1/policies/{package}.{_POLICY_FILE.stem}"
    headers = {"Authorization": f"Bearer {policy.token}", "Content-Type": "text/plain"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
        session.put(url, data=text.encode(), headers=headers) as answer,
    ):
        if answer.status != HTTPStatus.OK:
            raise BackendError(f"the policy engine answered {answer.status} to its first policy", where=url)


@asynccontextmanager
async def supplying(place: Path, scenario: Scenario, parts: Parts | None = None) -> AsyncIterator[Supply]:
    """Run the supply side on stand-ins or on other `parts`, its files below `place`.

    Everything ends with the context. Forge, receivers of messages and issue tracker are always stand-ins.
    """
    servers = parts or Embedded()
    forge = make_repository(place / "repository", released=False)
    webhook_secret, policy_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    async with (
        servers.signing(place) as sigstore,
        servers.registry(place) as registry,
        WebhookReceiver(place / "webhooks.jsonl", secret=webhook_secret) as webhook,
        IssuesServer(record=place / "issues.jsonl") as issues,
        servers.policy(place, token=policy_token) as policy,
    ):
        await _in_force(policy)
        commits = (forge.stable, forge.candidate)
        made = make_images(scenario, *commits)
        yield Supply(
            images=references(registry.host, made),
            publish=partial(publish, registry, made, Build(sigstore, servers.signers), scenario, commits),
            worsen=partial(_worsen, sigstore, scenario),
            trust=ImageTrust(BUILD_IDENTITY, sigstore.issuer, BUILDER, SOURCE),
            registry_url=registry.url,
            issuer=sigstore.issuer,
            login=sigstore.login if sigstore.login != sigstore.issuer else "",
            token_url=sigstore.token_url,
            token_secret=sigstore.token_secret,
            person_secret=sigstore.enrol,
            trust_config=sigstore.trust_config(),
            trusted_root=sigstore.trusted_root(),
            repository=forge.path,
            from_ref=FROM_REF,
            to_ref=MAIN,
            webhooks={kind: webhook.url_of(kind) for kind in KINDS},
            webhook_secret=webhook_secret,
            issues_url=issues.url,
            issues_repository=issues.repository,
            issues_token=issues.token,
            policy_url=policy.url,
            policy_token=policy_token,
        )
