"""An OCI registry on loopback for rehearsals, and the images and attestations it is seeded with."""

from __future__ import annotations

from cockpit.rehearsal.registry.image import Image, build_image
from cockpit.rehearsal.registry.seed import Attached, BuildSigner, attach, push, referrer
from cockpit.rehearsal.registry.server import RegistryServer

__all__ = ["Attached", "BuildSigner", "Image", "RegistryServer", "attach", "build_image", "push", "referrer"]
