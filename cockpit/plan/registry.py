"""The people of a plan, found by what a certificate or a keyboard calls them."""

from __future__ import annotations

from collections.abc import Iterable

from cockpit.plan.people import ApprovalRule, Approvals, Person


class Registry:
    """Who may be asked. `issuer` vouches for those the plan names no issuer for."""

    def __init__(self, approvals: Approvals, issuer: str) -> None:
        self._approvals = approvals
        self._issuer = issuer

    @property
    def people(self) -> tuple[Person, ...]:
        """Everybody the plan lists."""
        return self._approvals.people

    def issuer_of(self, person: Person) -> str:
        """Return who vouches for a person."""
        return person.issuer or self._issuer

    def login_of(self, person: Person) -> str:
        """Return where a person logs in: at the plan's broker, else at who vouches for them."""
        return self._approvals.login or self.issuer_of(person)

    def with_identity(self, identities: Iterable[str]) -> tuple[Person, ...]:
        """Return the people whose identity is one of a certificate's names."""
        names = set(identities)
        return tuple(person for person in self.people if person.identity in names)

    def person(self, name: str) -> Person | None:
        """Return the person of an id (`@ann`, or `ann`) or identity."""
        found = [one for one in self.people if name in (one.id, one.identity)]
        if not found:
            found = [one for one in self.people if one.id.removeprefix("@") == name.removeprefix("@")]
        return found[0] if len(found) == 1 else None


def is_person(person: Person, name: str) -> bool:
    """Tell whether `name`, a login name, id or identity, may be this person.

    It errs on the side of yes: whoever asks must not approve, under whichever of their names.
    """
    said = _plain(name)
    mine = {_plain(person.id), _plain(person.identity), _plain(person.identity.partition("@")[0])}
    return bool(said) and said in mine


def entitled(person: Person, groups: Iterable[str]) -> tuple[str, ...]:
    """Return the groups a person counts for; with no groups asked for, `everybody`; empty: none."""
    wanted = tuple(groups)
    if not wanted:
        return ("everybody",)
    return tuple(group for group in wanted if group in person.groups)


def rule_for(approvals: Approvals, asked: str) -> ApprovalRule | None:
    """Return the rule for what is asked; break-glass without one needs any one other person."""
    found = next((rule for rule in approvals.rules if rule.asked == asked), None)
    if found is None and asked == "break-glass" and approvals.break_glass is not None:
        return ApprovalRule(asked="break-glass", expires=approvals.break_glass.expires)
    return found


def _plain(name: str) -> str:
    return name.strip().removeprefix("@").casefold()
