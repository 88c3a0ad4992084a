"""Who may decide what: people and their groups, approvals, break-glass (design decision 7; gates.md, 16)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cockpit.plan.values import PositiveSeconds, Seconds, SecretRef, Strict

Asked = Literal["promote", "flip", "break-glass", "exception", "irreversible"]
"""What an approval can be asked for."""

OVERRIDABLE = frozenset(
    {
        "slo",
        "product_slos",
        "ingest_lag",
        "perf",
        "migrations",
        "reindex_parity",
        "policy_ci",
        "hardening",
        "identity",
        "authz",
        "dr",
        "chaos",
    }
)
"""Phase gates break-glass may ever override: never signatures, tenant isolation, fence or recording."""

_Text = Annotated[str, Field(min_length=1, max_length=500)]
_Group = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]


class Person(Strict):
    """Someone who may be asked: `id` as people write it, `identity` as the signing certificate names them."""

    id: _Text
    identity: _Text
    issuer: str = ""
    """The OIDC issuer that vouches for them; empty: the one of `targets.signing`."""
    groups: tuple[_Group, ...] = ()
    totp: SecretRef | None = None
    """Shared secret (base32) of their one-time password, for step-up."""


class ApprovalRule(Strict):
    """How many of whom must approve before `asked` may happen, and how long the request stays open."""

    asked: Asked
    threshold: Annotated[int, Field(ge=1, le=20)] = 1
    groups: tuple[_Group, ...] = ()
    """Who counts; empty: everybody listed under `people`."""
    from_each: bool = False
    """At least one of every group."""
    expires: PositiveSeconds = 3600.0
    """Seconds a request waits; after that it is expired, which never approves."""
    valid: PositiveSeconds = 86400.0
    """Seconds a given approval counts; it is checked again at every use."""
    step_up: Literal["none", "totp", "oidc"] = "none"
    """The second factor an approver must show freshly, besides what policy asks."""


class BreakGlass(Strict):
    """What may be overridden in an emergency, for how long, and who looks at it."""

    overridable: Annotated[tuple[str, ...], Field(min_length=1)]
    expires: PositiveSeconds = 3600.0
    second_person: bool = True
    review_within: PositiveSeconds | None = None
    """Where no second person is asked for: the deadline of the review after it."""

    @model_validator(mode="after")
    def _bounded(self) -> BreakGlass:
        for gate in self.overridable:
            if gate not in OVERRIDABLE:
                raise ValueError(
                    f"{gate!r} can never be overridden; possible are {', '.join(sorted(OVERRIDABLE))}"
                )
        if not self.second_person and self.review_within is None:
            raise ValueError("without a second person break-glass needs `review_within`")
        return self


class Approvals(Strict):
    """People, what they are asked, and how long an unattended run waits before it ends with exit 40."""

    people: Annotated[tuple[Person, ...], Field(min_length=1)]
    rules: Annotated[tuple[ApprovalRule, ...], Field(min_length=1)]
    break_glass: BreakGlass | None = None
    auto_wait: Seconds = 0.0
    login: Annotated[str, Field(pattern=r"^(https?://[^\s]+)?$", max_length=500)] = ""
    """The OIDC issuer people log in at, where that is a broker (Dex, say) before whoever vouches for them.

    Its tokens name the one behind it in `federated_claims.connector_id`, as certificates do. Empty: people
    log in at the issuer that vouches for them.
    """

    @model_validator(mode="after")
    def _reachable(self) -> Approvals:
        # A rule nobody can meet would only be found out in the window.
        known = {group for person in self.people for group in person.groups}
        if len({rule.asked for rule in self.rules}) != len(self.rules):
            raise ValueError("each `asked` has one rule")
        if len({person.id for person in self.people}) != len(self.people):
            raise ValueError("each person is listed once")
        if len({(person.identity, person.issuer) for person in self.people}) != len(self.people):
            raise ValueError("two people must not share an identity")
        for rule in self.rules:
            if missing := [group for group in rule.groups if group not in known]:
                raise ValueError(f"{rule.asked}: nobody is in {', '.join(missing)}")
            who = [p for p in self.people if not rule.groups or set(rule.groups) & set(p.groups)]
            if len(who) < rule.threshold:
                raise ValueError(
                    f"{rule.asked}: {rule.threshold} approvals are needed and {len(who)} people may give one"
                )
            if rule.step_up == "totp" and (bare := [p.id for p in who if p.totp is None]):
                raise ValueError(f"{rule.asked}: no `totp` secret is given for {', '.join(bare)}")
        return self

    def rule(self, asked: Asked) -> ApprovalRule | None:
        """Return the rule for what is asked, if there is one."""
        return next((rule for rule in self.rules if rule.asked == asked), None)
