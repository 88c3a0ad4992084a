"""What is attested of an image: in-toto v1 statements with SPDX, SLSA and vulnerability predicates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cockpit.rehearsal.registry.image import CREATED, Image

SIGNATURE = "https://sigstore.dev/cosign/sign/v1"
SBOM = "https://spdx.dev/Document"
PROVENANCE = "https://slsa.dev/provenance/v1"
VULNERABILITIES = "https://cosign.sigstore.dev/attestation/vuln/v1"


@dataclass(frozen=True)
class Package:
    """A package within an image."""

    name: str
    version: str
    license: str = "Apache-2.0"


@dataclass(frozen=True)
class Vulnerability:
    """A known vulnerability of a package; `severity` is critical, high, medium or low."""

    id: str
    package: str
    severity: str


@dataclass(frozen=True)
class Contents:
    """What an image of a version holds."""

    packages: tuple[Package, ...]
    vulnerabilities: tuple[Vulnerability, ...]


# The identifiers are the rehearsal's own, so that nobody takes them for statements about real packages.
PREVIOUS = Contents(
    (
        Package("python", "3.11.7", "PSF-2.0"),
        Package("demo-http", "3.11.16"),
        Package("demo-crypto", "45.0.6"),
        Package("demo-graph", "2.9.4"),
    ),
    (
        Vulnerability("REHEARSAL-2025-0101", "demo-http", "high"),
        Vulnerability("REHEARSAL-2025-0102", "demo-http", "medium"),
        Vulnerability("REHEARSAL-2025-0103", "demo-graph", "low"),
    ),
)
CANDIDATE = Contents(
    (
        Package("python", "3.11.7", "PSF-2.0"),
        Package("demo-http", "3.12.15"),
        Package("demo-crypto", "45.0.7"),
        Package("demo-graph", "3.0.0"),
        Package("demo-search", "1.4.0", "MIT"),
    ),
    (
        Vulnerability("REHEARSAL-2025-0103", "demo-graph", "low"),
        Vulnerability("REHEARSAL-2025-0204", "demo-search", "low"),
    ),
)


def statement(image: Image, predicate_type: str, predicate: dict[str, Any]) -> dict[str, Any]:
    """Return an in-toto v1 statement about the image's digest."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": image.repository, "digest": {"sha256": image.digest.partition(":")[2]}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def spdx(image: Image, contents: Contents, *, created: datetime = CREATED) -> dict[str, Any]:
    """Return an SPDX 2.3 document."""
    packages = [
        {
            "SPDXID": f"SPDXRef-Package-{package.name}",
            "name": package.name,
            "versionInfo": package.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": package.license,
            "licenseDeclared": package.license,
            "copyrightText": "NOASSERTION",
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": f"pkg:generic/{package.name}@{package.version}",
                }
            ],
        }
        for package in contents.packages
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{image.repository}:{image.version}",
        "documentNamespace": f"https://sbom.rehearsal.invalid/{image.repository}/{image.digest[7:]}",
        "creationInfo": {"created": _stamp(created), "creators": ["Tool: rehearsal-sbom-1.0"]},
        "packages": packages,
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": package["SPDXID"],
            }
            for package in packages
        ],
    }


def provenance(
    image: Image, *, builder: str, source: str, commit: str, ref: str, finished: datetime = CREATED
) -> dict[str, Any]:
    """Return a SLSA v1 provenance predicate: who built it, from which repository and commit."""
    return {
        "buildDefinition": {
            "buildType": "https://forge.rehearsal.invalid/build/v1",
            "externalParameters": {
                "workflow": {"repository": source, "ref": ref, "path": ".github/workflows/release.yml"}
            },
            "internalParameters": {},
            "resolvedDependencies": [{"uri": f"git+{source}@{ref}", "digest": {"gitCommit": commit}}],
        },
        "runDetails": {
            "builder": {"id": builder},
            "metadata": {
                "invocationId": f"{source}/runs/{image.digest[7:19]}",
                "startedOn": _stamp(finished - timedelta(minutes=6)),
                "finishedOn": _stamp(finished),
            },
        },
    }


def vulnerability_report(contents: Contents, *, scanned: datetime = CREATED) -> dict[str, Any]:
    """Return a cosign vulnerability predicate whose result lists id, package, version and severity."""
    versions = {package.name: package.version for package in contents.packages}
    return {
        "invocation": {"uri": "https://forge.rehearsal.invalid/scan", "event_id": "", "parameters": []},
        "scanner": {
            "uri": "https://scanner.rehearsal.invalid",
            "version": "1.0.0",
            "db": {"uri": "https://scanner.rehearsal.invalid/db", "version": "2025-09-22"},
            "result": {
                "vulnerabilities": [
                    {
                        "id": found.id,
                        "package": found.package,
                        "version": versions[found.package],
                        "severity": found.severity,
                    }
                    for found in contents.vulnerabilities
                ]
            },
        },
        "metadata": {"scanStartedOn": _stamp(scanned), "scanFinishedOn": _stamp(scanned)},
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
