"""Reading a request: what its URL, query and body ask for."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cockpit.rehearsal.kube import shapes
from cockpit.rehearsal.kube.access import Attributes
from cockpit.rehearsal.kube.fields import MODES, Mode
from cockpit.rehearsal.kube.ownership import Manager
from cockpit.rehearsal.kube.registry import Deletion, Write
from cockpit.rehearsal.kube.resources import BY_PATH, VERSION, Resource
from cockpit.rehearsal.kube.selectors import Match, field_matcher, label_matcher
from cockpit.rehearsal.kube.values import ApiError, Cause, Obj, bad_request, expired, invalid

MAX_BODY = 3 << 20
"""Largest body read, in bytes; an API server takes the same."""

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_OPTIONS = {"create": "CreateOptions", "update": "UpdateOptions", "patch": "PatchOptions"}
_MAX_MANAGER = 128
_TRUE = ("1", "t", "T", "true", "True", "TRUE")
_GROUPS = frozenset(group for group, _ in BY_PATH)


class NotServed(Exception):
    """A path of an API group that is not there at all: answered in plain text, by nobody in particular."""


@dataclass(frozen=True)
class ApiRequest:
    """One request on a resource; `name` is empty for a collection."""

    verb: str
    resource: Resource
    namespace: str
    name: str
    subresource: str
    query: Mapping[str, str] = field(repr=False)
    agent: str = "unknown"

    @property
    def attributes(self) -> Attributes:
        """What rules and faults look at."""
        # A namespace is an object of the cluster, yet rights over it are granted inside it.
        space = self.name if self.resource.plural == "namespaces" else self.namespace
        return Attributes(
            self.verb, self.resource.group, self.resource.plural, self.subresource, space, self.name
        )

    def flag(self, name: str) -> bool:
        """Return a boolean of the query, as Go reads them."""
        return self.query.get(name, "") in _TRUE

    def number(self, name: str, default: int, *, negative: bool = False) -> int:
        """Return a count of the query; raises a 400 for anything but digits."""
        text = self.query.get(name, "")
        if not text:
            return default
        digits = text.removeprefix("-") if negative else text
        if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
            raise bad_request(f"invalid {name}: {text[:40]!r}")
        return int(text)

    @property
    def dry_run(self) -> bool:
        """Whether nothing is to be stored; raises a 422 for a value other than All."""
        value = self.query.get("dryRun", "")
        if value not in ("", "All"):
            raise self._wrong("dryRun", "NotSupported", f'Unsupported value: ["{value[:40]}"]')
        return value == "All"

    def check_list(self, current: int) -> None:
        """Raise what a list with options that do not go together is answered with."""
        match, version = self.query.get("resourceVersionMatch", ""), self.number("resourceVersion", 0)
        self.number("timeoutSeconds", 0, negative=True)
        if "sendInitialEvents" in self.query:
            raise self._wrong("sendInitialEvents", "Forbidden", "Forbidden: forbidden for list")
        if match and "resourceVersion" not in self.query:
            raise self._wrong("resourceVersionMatch", "Forbidden", "Forbidden: without a resourceVersion")
        if match not in ("", "Exact", "NotOlderThan"):
            raise self._wrong("resourceVersionMatch", "NotSupported", f"Unsupported value: {match[:40]!r}")
        if version > current:
            text = f"Timeout: Too large resource version: {version}, current: {current}"
            cause = Cause("ResourceVersionTooLarge", "Too large resource version", "")
            raise ApiError(504, "Timeout", text, causes=[cause], retry_after=1)
        if match == "Exact" and version != current:
            raise expired(version, current)  # only the present is kept

    def check_watch(self) -> None:
        """Raise what a watch with options that do not go together is answered with."""
        version = self.query.get("resourceVersion", "")
        if version and not (version.isascii() and version.isdigit() and len(version) <= 18):
            # Not a 400: the server meets it only when the watch is begun.
            raise ApiError(500, "", f"resourceVersion: Invalid value: {version[:40]!r}: invalid syntax")
        match = self.query.get("resourceVersionMatch", "")
        if self.flag("sendInitialEvents") and match != "NotOlderThan":
            text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise self._wrong("resourceVersionMatch", "Forbidden", text)
        if match and not self.flag("sendInitialEvents"):
            raise self._wrong("resourceVersionMatch", "Forbidden", "Forbidden: forbidden for watch")

    def _wrong(self, field: str, reason: str, text: str) -> ApiError:
        kind = "DeleteOptions" if self.verb.startswith("delete") else _OPTIONS.get(self.verb, "ListOptions")
        return invalid(f"{kind}.meta.k8s.io", "", [Cause(f"FieldValue{reason}", text, field)])

    def write(self, *, applying: bool = False) -> Write:
        """Return how this request writes; an apply must name its field manager."""
        manager = self.query.get("fieldManager", "")
        if applying and not manager:
            raise self._wrong("fieldManager", "Required", "Required value: is required for apply patch")
        if len(manager.encode()) > _MAX_MANAGER:
            raise self._wrong("fieldManager", "TooLong", f"Too long: more than {_MAX_MANAGER} bytes")
        if not manager.isprintable():
            raise self._wrong("fieldManager", "Invalid", "Invalid value: invalid character")
        operation = "Apply" if applying else "Update"
        who = Manager(manager or self.agent, operation, self.subresource)
        return Write(who, self.dry_run, self.flag("force"), self.validation)

    @property
    def validation(self) -> Mode:
        """What is to become of fields that the kind does not have; raises a 422 for another value."""
        match self.query.get("fieldValidation", ""):
            case "" | "Warn":
                return "Warn"
            case "Ignore":
                return "Ignore"
            case "Strict":
                return "Strict"
            case other:
                taken = ", ".join(f'"{mode}"' for mode in MODES)
                text = f'Unsupported value: "{other[:40]}": supported values: {taken}'
                raise self._wrong("fieldValidation", "NotSupported", text)

    def deletion(self, options: Any) -> Deletion:
        """Return the options of a delete, from its body or from the query."""
        given = shapes.shaped(options or {}, shapes.DELETE_OPTIONS, "DeleteOptions")
        grace = given.get("gracePeriodSeconds", self.number("gracePeriodSeconds", -1))
        conditions = given.get("preconditions") or {}
        return Deletion(
            grace=int(grace) if grace >= 0 else None,
            uid=str(conditions.get("uid", "")),
            version=str(conditions.get("resourceVersion", "")),
            propagation=str(
                given.get("propagationPolicy") or self.query.get("propagationPolicy", "Background")
            ),
            dry_run=self.dry_run or given.get("dryRun") == ["All"],
        )

    def selected(self) -> Match:
        """Return whether an object belongs to this list or watch."""
        labels = label_matcher(self.query.get("labelSelector", ""))
        fields = field_matcher(self.query.get("fieldSelector", ""))
        space, name = self.namespace, self.name

        def matches(obj: Obj) -> bool:
            metadata = obj["metadata"]
            return (
                (not space or metadata.get("namespace") == space)
                and (not name or metadata["name"] == name)
                and labels(obj)
                and fields(obj)
            )

        return matches


def attributes_of(method: str, parts: tuple[str, ...], query: Mapping[str, str]) -> Attributes | None:
    """Return what a request asks to do, whether or not that is served; None for a path of no resource."""
    match parts:
        case ("api", _, first, *more):
            group = ""
        case ("apis", group, _, first, *more):
            pass
        case _:
            return None
    namespace, rest = "", [first, *more]
    if first == "namespaces" and more:
        namespace = more[0]
        if len(more) > 1 and more[1] not in ("status", "finalize"):
            rest = more[1:]
    plural, name, subresource = (*rest, "", "")[:3]
    verb = _VERBS.get(method, method.lower())
    if method == "GET":
        verb = "watch" if query.get("watch", "") in _TRUE else "get" if name else "list"
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    return Attributes(verb, group, plural, subresource, namespace, name)


def read_request(method: str, parts: tuple[str, ...], query: Mapping[str, str], agent: str) -> ApiRequest:
    """Read a request on a resource; raises a 404 for what is not served, a 405 for a wrong method.

    Raises NotServed where not even the group is known.
    """
    missing = ApiError(404, "NotFound", "the server could not find the requested resource")
    match parts:
        case ("api", version, *rest):
            group = ""
        case ("apis", group, version, *rest) if group in _GROUPS:
            pass
        case ("api", *_):
            raise missing
        case ("apis", group, *_) if group in _GROUPS:
            raise missing
        case _:
            raise NotServed
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    if version != VERSION or not 1 <= len(rest) <= 3:
        raise missing
    plural, name, subresource = (*rest, "", "")[:3]
    resource = BY_PATH.get((group, plural))
    if resource is None or (subresource and subresource not in resource.subresources):
        raise missing
    if namespace and not resource.namespaced:
        raise missing
    watching = query.get("watch", "") in _TRUE
    verb = _VERBS.get(method, "")
    if method == "GET":
        verb = "watch" if watching else "get" if name else "list"
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    fits = bool(name) == (verb not in ("create", "list", "deletecollection")) or verb == "watch"
    if verb in ("create", "update", "patch", "delete") and resource.namespaced and not namespace:
        fits = False
    if (
        not verb
        or not fits
        or (verb in ("delete", "watch") and subresource)
        or (not resource.stored and verb != "create")
    ):
        raise ApiError(
            405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )
    return ApiRequest(verb, resource, namespace, name, subresource, query, agent)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def read_body(raw: bytes, content_type: str) -> Any:
    """Read a JSON body, or YAML where the media type says so; raises a 400."""
    if not raw:
        return None
    try:
        return json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        if "yaml" not in content_type:
            raise bad_request("the body of the request is not valid JSON") from error
    try:
        return YAML(typ="safe", pure=True).load(raw.decode())
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request("the body of the request is not valid YAML") from error


def continue_token(version: int, last: Obj) -> str:
    """Return the token by which the next page of a list begins after `last`."""
    where = [version, last["metadata"].get("namespace", ""), last["metadata"]["name"]]
    return base64.urlsafe_b64encode(json.dumps(where).encode()).decode()


def read_continue(token: str) -> tuple[int, tuple[str, str]]:
    """Return the version of a paged list and the namespace and name it goes on after; raises a 400."""
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        return int(version), (str(namespace), str(name))
    except (ValueError, TypeError) as error:
        raise bad_request("continue key is not valid") from error
