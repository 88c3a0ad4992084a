"""What an image must bring along, as a rule: signature, SBOM, provenance, vulnerability report.

The stored answers are the bundles as the registry gave them and the trusted root: recomputing verifies every
signature again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cockpit.base.text import visible
from cockpit.evidence.checks import passed
from cockpit.evidence.signatures import verify_statement
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, document, never_raises, raw_of

SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
SBOM = "https://spdx.dev/Document"
PROVENANCE = "https://slsa.dev/provenance/v1"
VULNERABILITIES = "https://cosign.sigstore.dev/attestation/vuln/v1"
REQUIRED = {
    SIGNATURE: "signature",
    SBOM: "SBOM (SPDX)",
    PROVENANCE: "provenance (SLSA)",
    VULNERABILITIES: "vulnerability report",
}
SEVERITIES = ("critical", "high", "medium", "low")


@dataclass
class ServiceReport:
    """What was found of one service's image; `statements` are verified ones by predicate type.

    `bundles` names the answers they came in.
    """

    service: str
    statements: dict[str, dict[str, Any]] = field(default_factory=dict)
    bundles: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    added: dict[str, list[str]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


@never_raises
def supply_chain(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge every service of the answer `inventory` by `reports`; anything missing is a fail."""
    found = reports(answers, params)
    problems = [f"{one.service}: {text}" for one in found for text in one.problems]
    metrics: Metrics = {
        "images": len(found),
        "images_failed": sum(bool(one.problems) for one in found),
        "signatures": sum(SIGNATURE in one.statements for one in found),
    }
    for severity in SEVERITIES:
        metrics[f"vulnerabilities_added_{severity}"] = sum(len(one.added.get(severity, [])) for one in found)
    thresholds = ["images_failed==0"]
    for severity, most in sorted(params["budget"].items()):
        thresholds.append(f"vulnerabilities_added_{severity}<={int(most)}")
        added = sum(len(one.added.get(severity, [])) for one in found)
        if severity not in SEVERITIES:
            problems.append(f"the budget names an unknown severity {severity!r}")
        elif added > most:
            problems.append(f"{added} {severity} vulnerabilities were added, at most {most} may be")
    if not found:
        return Judgement("fail", "there is no image to look at", metrics, tuple(thresholds))
    if set(params["services"]) != {one.service for one in found}:
        problems.append("not every service of the plan was looked at")
    if problems:
        return Judgement("fail", visible("; ".join(problems), limit=1000), metrics, tuple(thresholds))
    said = f"{len(found)} images are signed, described and built as expected"
    return Judgement("pass", said, metrics, tuple(thresholds))


def reports(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> list[ServiceReport]:
    """Return what the stored answers show of each service.

    `inventory`: `{"services": {name: {"digest", "resolved", "bundles", "previous", "previous_bundles"}}}`,
    the lists naming answers. `params`: `identity`, `issuer`, `builder`, `source`, `services`, `budget`.
    """
    services = document(answers, "inventory").get("services")
    if not isinstance(services, dict):
        raise Trouble("provider_error", "the inventory cannot be read")
    return [_report(answers, params, name, entry) for name, entry in sorted(services.items())]


def _report(
    answers: Mapping[str, bytes], params: Mapping[str, Any], name: str, entry: Mapping[str, Any]
) -> ServiceReport:
    report = ServiceReport(name)
    digest = entry["digest"]
    if not digest:
        report.problems.append("the plan names the image by a tag, which can be moved")
        digest = entry["resolved"]
    elif entry["resolved"] != digest:
        report.problems.append("the registry has another image under this digest")
    report.statements, refused, report.bundles = _verified(answers, params, entry["bundles"], digest)
    for kind, what in REQUIRED.items():
        if kind not in report.statements:
            why = f" ({refused[kind]})" if kind in refused else ""
            report.problems.append(f"no valid {what}{why}")
    if refused.get("") and not report.statements:
        report.problems.append(f"no bundle verifies: {refused['']}")
    if SBOM in report.statements:
        report.problems += _sbom_problems(report.statements[SBOM])
    if PROVENANCE in report.statements:
        report.problems += _provenance_problems(report.statements[PROVENANCE], params)
    if VULNERABILITIES in report.statements:
        _vulnerabilities(answers, params, entry, report)
    return report


def _verified(
    answers: Mapping[str, bytes], params: Mapping[str, Any], names: list[str], digest: str
) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
    """Return the verified statements about `digest` by predicate type, why others were refused, and the
    names of the bundles that verify.
    """
    root = raw_of(answers, "trusted_root")
    found: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    good: list[str] = []
    for name in names:
        statement, checks = verify_statement(
            raw_of(answers, name),
            trusted_root_json=root,
            identity=params["identity"],
            issuer=params["issuer"],
            canonical=False,
            subject_sha256=digest.removeprefix("sha256:"),
        )
        if statement and passed(checks):
            kind = statement["predicateType"]
            good.append(name)
            if kind in found and found[kind] != statement:
                # Two that disagree: neither can be believed.
                refused[kind] = "two different ones are attached"
                found.pop(kind)
            elif kind not in refused:
                found[kind] = statement
        else:
            bad = next((check for check in checks if not check.ok), None)
            refused.setdefault("", f"{bad.name}: {bad.detail}" if bad else "not verified")
    return found, refused, good


def _sbom_problems(statement: Mapping[str, Any]) -> list[str]:
    predicate = statement.get("predicate")
    if not isinstance(predicate, dict) or not str(predicate.get("spdxVersion", "")).startswith("SPDX-"):
        return ["the SBOM is no SPDX document"]
    packages = predicate.get("packages")
    if not isinstance(packages, list) or not packages:
        return ["the SBOM lists no package"]
    if not all(isinstance(one, dict) and one.get("name") for one in packages):
        return ["the SBOM lists a package without a name"]
    return []


def _provenance_problems(statement: Mapping[str, Any], params: Mapping[str, Any]) -> list[str]:
    predicate = statement.get("predicate") or {}
    problems = []
    builder = predicate.get("runDetails", {}).get("builder", {}).get("id")
    if builder != params["builder"]:
        problems.append(f"built by {str(builder)[:200]!r}, not by {params['builder']!r}")
    definition = predicate.get("buildDefinition", {})
    workflow = definition.get("externalParameters", {}).get("workflow", {})
    if workflow.get("repository") != params["source"]:
        problems.append(
            f"built from {str(workflow.get('repository'))[:200]!r}, not from {params['source']!r}"
        )
    materials = definition.get("resolvedDependencies")
    uris = [str(one.get("uri")) for one in materials or [] if isinstance(one, dict)]
    if not any(uri.removeprefix("git+").partition("@")[0] == params["source"] for uri in uris):
        problems.append("the provenance does not name the source among what was built from")
    return problems


def _vulnerabilities(
    answers: Mapping[str, bytes], params: Mapping[str, Any], entry: Mapping[str, Any], report: ServiceReport
) -> None:
    now = _listed(report.statements[VULNERABILITIES])
    if now is None:
        report.problems.append("the vulnerability report cannot be read")
        return
    before: dict[str, str] = {}
    if entry["previous"] and entry["previous_bundles"]:
        # Only what says it is a report is worth verifying; whether it is one, verifying says.
        said = [one for one in entry["previous_bundles"] if _claims(answers[one], VULNERABILITIES)]
        statements, _, _ = _verified(answers, params, said, entry["previous"])
        # Without a report of the version before, everything there is now counts as added.
        before = _listed(statements[VULNERABILITIES]) or {} if VULNERABILITIES in statements else {}
    for identifier, severity in sorted(now.items()):
        if identifier not in before or _worse(severity, before[identifier]):
            report.added.setdefault(severity, []).append(identifier)
    report.removed = sorted(set(before) - set(now))


def _claims(bundle: bytes, kind: str) -> bool:
    try:
        payload = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
        return bool(payload["predicateType"] == kind)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _worse(now: str, before: str) -> bool:
    return SEVERITIES.index(now) < SEVERITIES.index(before)


def _listed(statement: Mapping[str, Any]) -> dict[str, str] | None:
    """Return severity by `id package`; an unknown severity counts as critical. None for no report."""
    try:
        listed = statement["predicate"]["scanner"]["result"]["vulnerabilities"]
        found: dict[str, str] = {}
        for one in listed:
            severity = str(one["severity"]).lower()
            found[f"{one['id']} {one['package']}"] = severity if severity in SEVERITIES else "critical"
        return found
    except (KeyError, TypeError):
        return None
