"""The rules of every write: versions, generations, spec apart from status, deletion in steps."""

from __future__ import annotations

import dataclasses
import json
import secrets
import uuid
from dataclasses import dataclass
from typing import Any

from cockpit.rehearsal.kube import fields, ownership, patching, resources, shapes
from cockpit.rehearsal.kube.admission import admit
from cockpit.rehearsal.kube.fields import Mode
from cockpit.rehearsal.kube.ownership import Manager
from cockpit.rehearsal.kube.resources import Resource
from cockpit.rehearsal.kube.storage import Store
from cockpit.rehearsal.kube.values import ApiError, Cause, Obj, bad_request, clone, invalid, timestamp

CONTROLLERS = Manager("kube-controller-manager")
_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_FIXED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Write:
    """How a write is made: by whom, through which subresource (in `manager`), for real or dry."""

    manager: Manager = CONTROLLERS
    dry_run: bool = False
    force: bool = False
    validation: Mode = "Ignore"
    """What becomes of fields that the kind does not have, or that were given twice."""
    told: list[str] = dataclasses.field(default_factory=list)
    """Such fields; what was told of the patch goes in, warnings come out."""


@dataclass(frozen=True)
class Deletion:
    """Options of a delete: seconds of grace (None: the object's own), preconditions, fate of dependents."""

    grace: int | None = None
    uid: str = ""
    version: str = ""
    propagation: str = "Background"
    dry_run: bool = False


def random_suffix(length: int = 5) -> str:
    """Return letters as Kubernetes appends them to a generateName."""
    return "".join(secrets.choice(_NAME_LETTERS) for _ in range(length))


class Registry:
    """Reads and writes objects the way the API promises; raises `ApiError` for everything it refuses."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def get(self, resource: Resource, namespace: str, name: str) -> Obj:
        """Return an object, shared and not to be changed; raises a 404."""
        found = self.store.get(resource, namespace, name)
        if found is None:
            raise resource.not_found(name)
        return found

    def create(self, resource: Resource, namespace: str, body: Obj, write: Write = Write()) -> Obj:
        """Create an object in `namespace`; raises 404 without the namespace, 409 when the name is taken."""
        obj = self._identified(resource, namespace, body)
        metadata = obj["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{random_suffix()}"
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        for field in (*_FIXED, "managedFields", "resourceVersion"):
            metadata.pop(field, None)
        obj = self._born(resource, admit(resource, obj, None))
        name = obj["metadata"]["name"]
        if self.store.get(resource, namespace, name) is not None:
            raise resource.already_exists(name)
        obj["metadata"]["managedFields"] = ownership.updated(resource, None, obj, write.manager)
        return obj if write.dry_run else self.store.put(resource, obj)

    def update(self, resource: Resource, namespace: str, name: str, body: Obj, write: Write) -> Obj:
        """Replace an object, or the part of it that the manager's subresource stands for."""
        if not (isinstance(body.get("metadata"), dict) and body["metadata"].get("name")):
            raise _nameless(name)
        old = self.get(resource, namespace, name)
        body = self._identified(resource, namespace, body, name)
        if not body["metadata"].get("resourceVersion") and not resource.unconditional:
            raise _versionless(resource, name)
        return self._replace(resource, old, body, write)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        kind: str,
        patch: Any,
        write: Write,
        raw: bytes = b"",
    ) -> Obj:
        """Apply a patch of media type `kind`; a server-side apply also creates what does not exist.

        `raw`: the patch as it was sent, for what only its text shows.
        """
        if kind == APPLY_PATCH:
            return self._apply(resource, namespace, name, patch, write)
        old = self.get(resource, namespace, name)
        patched = patched_with(old, kind, patch, custom=resource.custom)
        settle(resource.kind, patched, kind, raw, write)
        _still_named(resource, name, patched)
        return self._replace(resource, old, self._identified(resource, namespace, patched, name), write)

    def scale(self, resource: Resource, namespace: str, name: str, scaled: Any, write: Write) -> Obj:
        """Set the replicas of a workload to those of a `Scale` object."""
        old = self.get(resource, namespace, name)
        scaled = shapes.shaped(scaled, shapes.SCALE, "Scale")
        replicas = (scaled.get("spec") or {}).get("replicas", 0)
        new = clone(old)
        given = scaled.get("metadata") or {}
        new["metadata"]["resourceVersion"] = given.get("resourceVersion")
        new["metadata"]["uid"] = given.get("uid") or old["metadata"]["uid"]
        new["spec"]["replicas"] = replicas
        return self._replace(resource, old, new, write)

    def delete(
        self, resource: Resource, namespace: str, name: str, how: Deletion = Deletion()
    ) -> tuple[Obj, bool]:
        """Delete an object; returns its last state and whether it is gone or only on its way out."""
        old = self.get(resource, namespace, name)
        metadata = old["metadata"]
        if how.uid not in ("", metadata["uid"]) or how.version not in ("", metadata["resourceVersion"]):
            raise resource.conflict(name, "the precondition of the delete does not hold")
        grace = how.grace
        if grace is None:
            grace = int((old.get("spec") or {}).get("terminationGracePeriodSeconds", 30))
        waits = (resource.graceful and grace > 0) or bool(metadata.get("finalizers"))
        if how.dry_run:
            return old, not waits
        if not waits:
            self._collect(self.store.remove(resource, old), how.propagation)
            return old, True
        if "deletionTimestamp" in metadata:
            return old, False
        leaving = clone(old)
        leaving["metadata"]["deletionTimestamp"] = timestamp(grace)
        leaving["metadata"]["deletionGracePeriodSeconds"] = grace
        if resource.generation:
            leaving["metadata"]["generation"] += 1
        return self.store.put(resource, leaving), False

    def _apply(self, resource: Resource, namespace: str, name: str, config: Any, write: Write) -> Obj:
        if not isinstance(config, dict) or not config.get("apiVersion") or not config.get("kind"):
            raise bad_request("apiVersion and kind must be specified in apply patch")
        config = self._identified(resource, namespace, config, name)
        old = self.store.get(resource, namespace, name)
        merged = ownership.applied(resource, old, config, write.manager, force=write.force)
        if old is not None:
            return self._replace(resource, old, merged, write, owned=True)
        owners = merged["metadata"].get("managedFields") or []
        born = self._born(resource, admit(resource, merged, None))
        born["metadata"]["managedFields"] = owners
        return born if write.dry_run else self.store.put(resource, born)

    def _replace(self, resource: Resource, old: Obj, body: Obj, write: Write, *, owned: bool = False) -> Obj:
        before, name = old["metadata"], old["metadata"]["name"]
        given = body["metadata"].get("resourceVersion")
        if given and given != before["resourceVersion"]:
            raise resource.conflict(name)
        if (body["metadata"].get("uid") or before["uid"]) != before["uid"]:
            raise resource.conflict(name, "Precondition failed: UID in object meta does not match")
        new = self._parted(resource, old, body, write.manager.subresource)
        metadata = new["metadata"]
        for field in (*_FIXED, "generation", "resourceVersion"):
            metadata.pop(field, None)
            if field in before:
                metadata[field] = before[field]
        if write.manager.subresource != "status":
            new = admit(resource, new, old)
            metadata = new["metadata"]
        if not owned:
            metadata["managedFields"] = ownership.updated(resource, old, new, write.manager)
        if resource.generation and self._respecified(resource, old, new):
            metadata["generation"] = before["generation"] + 1
        if new == old:
            return old
        if write.dry_run:
            return new
        if "deletionTimestamp" in metadata and before.get("finalizers") and not metadata.get("finalizers"):
            self._collect(self.store.remove(resource, new), "Background")
            return new
        return self.store.put(resource, new)

    @staticmethod
    def _parted(resource: Resource, old: Obj, body: Obj, subresource: str) -> Obj:
        """Return the new object: a status write takes only the status, any other leaves it alone."""
        if "status" not in resource.subresources:
            return dict(body, metadata=dict(body["metadata"]))
        if subresource == "status":
            metadata = {**old["metadata"]}
            if "managedFields" in body["metadata"]:
                metadata["managedFields"] = body["metadata"]["managedFields"]
            return {**old, "metadata": metadata, "status": body.get("status") or {}}
        new = {field: value for field, value in body.items() if field != "status"}
        if "status" in old:
            new["status"] = old["status"]
        return {**new, "metadata": dict(body["metadata"])}

    @staticmethod
    def _respecified(resource: Resource, old: Obj, new: Obj) -> bool:
        annotations = old["metadata"].get("annotations") or {}, new["metadata"].get("annotations") or {}
        # A deployment counts a change of annotations as one of its spec; the API has always done so.
        noted = resource is resources.DEPLOYMENTS and annotations[0] != annotations[1]
        return noted or old.get("spec") != new.get("spec")

    def _identified(self, resource: Resource, namespace: str, body: Any, name: str = "") -> Obj:
        """Return the body with kind, name and namespace of the URL; raises a 400 when they differ."""
        body = shapes.decoded(resource, body)
        # Of the built-in kinds the URL says enough.
        given = body.get("apiVersion") or resource.group_version, body.get("kind") or resource.kind
        if given != (resource.group_version, resource.kind):
            raise bad_request(f"{given[1]} in version {given[0]} does not match the resource of the URL")
        metadata = dict(body.get("metadata") or {})
        if resource.namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise bad_request("the namespace of the object does not match the namespace on the request")
            if self.store.get(resources.NAMESPACES, "", namespace) is None:
                raise resources.NAMESPACES.not_found(namespace)
        else:
            metadata.pop("namespace", None)
        if name and metadata.setdefault("name", name) != name:
            raise bad_request(f"the name of the object ({metadata['name']}) does not match the URL ({name})")
        return {**body, "apiVersion": resource.group_version, "kind": resource.kind, "metadata": metadata}

    @staticmethod
    def _born(resource: Resource, obj: Obj) -> Obj:
        if "status" in resource.subresources:
            obj.pop("status", None)
        if resource is resources.PODS:
            obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        elif resource is resources.NAMESPACES:
            obj["status"] = {"phase": "Active"}
        obj["metadata"].update({"uid": str(uuid.uuid4()), "creationTimestamp": timestamp()})
        if resource.generation:
            obj["metadata"]["generation"] = 1
        return obj

    def _collect(self, gone: Obj, propagation: str) -> None:
        """Collect what depended on an object that is gone; with Orphan, only cut the tie.

        Foreground is treated as Background: the owner goes first.
        """
        uid = gone["metadata"]["uid"]
        for resource, listed in self.store.everything():
            metadata = listed["metadata"]
            # It may have gone, or changed, with something collected before it.
            obj = self.store.get(resource, metadata.get("namespace", ""), metadata["name"])
            if obj is None:
                continue
            metadata = obj["metadata"]
            if gone["kind"] == "Namespace" and metadata.get("namespace") == metadata_name(gone):
                self.store.remove(resource, obj)
                continue
            owners = metadata.get("ownerReferences") or []
            left = [owner for owner in owners if owner.get("uid") != uid]
            if len(left) == len(owners):
                continue
            if left or propagation == "Orphan":
                freed = clone(obj)
                freed["metadata"]["ownerReferences"] = left
                self.store.put(resource, freed)
            else:
                self.delete(resource, metadata.get("namespace", ""), metadata["name"])


def _nameless(name: str) -> ApiError:
    return bad_request(
        f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
    )


def _versionless(resource: Resource, name: str) -> ApiError:
    text = 'Invalid value: "": must be specified for an update'
    cause = Cause("FieldValueInvalid", text, "metadata.resourceVersion")
    return invalid(resource.qualified_kind, name, [cause])


def _still_named(resource: Resource, name: str, patched: Obj) -> None:
    """Raise what a patch is answered with that takes away what every object has."""
    metadata = patched.get("metadata")
    if metadata is None or (isinstance(metadata, dict) and not metadata.get("name")):
        raise _nameless(name)
    if resource.custom and not (patched.get("apiVersion") and patched.get("kind")):
        cause = Cause("FieldValueInvalid", "Invalid value: Object 'Kind' is missing", "patch")
        raise invalid("", "", [cause])
    if isinstance(metadata, dict) and not metadata.get("resourceVersion") and not resource.unconditional:
        raise _versionless(resource, name)


def metadata_name(obj: Obj) -> str:
    """Return the object's name."""
    return str(obj["metadata"]["name"])


def scale_of(obj: Obj) -> Obj:
    """Return the `Scale` view of a workload."""
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = ((obj["spec"].get("selector") or {}).get("matchLabels")) or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: obj["metadata"][field] for field in kept if field in obj["metadata"]},
        # As everywhere in the API, a count of nought is left out where it is optional.
        "spec": {"replicas": replicas} if (replicas := obj["spec"].get("replicas", 1)) else {},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def settle(kind: str, patched: Any, media: str, raw: bytes, write: Write) -> None:
    """Look at a patched object for fields its kind has not, and at the patch for those given twice.

    Raises a 422 where the write is strict; else they are told.
    """
    if write.validation == "Ignore":
        return
    if media == JSON_PATCH:
        sent = [f"json patch {text}" for text in fields.problems(fields.OPERATIONS, raw, custom=False)]
    else:
        sent = fields.problems("", raw, custom=False)
    write.told.extend([*sent, *fields.unknown(kind, patched)])
    if write.validation == "Strict" and write.told:
        # The real one shows all of the patched object; of a strategic patch what was sent.
        shown = json.dumps(patched, separators=(",", ":"))[:2000]
        text = f'Invalid value: "{shown}": strict decoding error: {", ".join(write.told)}'
        raise invalid("", "", [Cause("FieldValueInvalid", text, "patch")])


def patched_with(target: Obj, kind: str, patch: Any, *, custom: bool) -> Obj:
    """Return `target` with a patch of media type `kind` applied; raises a 415 for one it does not take."""
    if kind == JSON_PATCH:
        return patching.json_patch(target, patch)
    if kind == MERGE_PATCH or (kind == STRATEGIC_PATCH and not custom):
        if not isinstance(patch, dict):
            raise bad_request("the patch must be an object")
        merge = patching.merge_patch if kind == MERGE_PATCH else patching.strategic_patch
        try:
            merged: Obj = merge(target, patch)
        except (TypeError, AttributeError) as error:
            raise bad_request("the patch holds a directive that cannot be followed") from error
        return merged
    taken = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH, *([] if custom else [STRATEGIC_PATCH])]
    raise ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        + ", ".join(taken),
    )
