"""Reading the YAML of a plan: plain values with their lines, and nothing a plan has no use for.

Tags, keys that are no text or stand twice, aliases that multiply and numbers beyond reason are refused
before a value is made of them.
"""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from cockpit.base.text import visible

_STANDARD = "tag:yaml.org,2002:"
_TAGS = frozenset({"str", "int", "float", "bool", "null", "map", "seq", "timestamp"})
_MOST_VALUES = 100_000
_DEEPEST = 40
_LONGEST_NUMBER = 20


class NotYaml(Exception):
    """A text that is not a plan's YAML: the line (from 1), and what is wrong."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line
        self.what = what


def read(text: str) -> CommentedMap:
    """Return the document with its lines; raises NotYaml."""
    try:
        root = YAML(typ="rt").compose(text)
        if not isinstance(root, MappingNode):
            raise NotYaml(1, "a plan is a mapping of fields; start with `format: 1`")
        _Vet().size(root, 0)
        document = YAML(typ="rt").load(text)
    except NotYaml:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise NotYaml(line, f"not YAML: {visible(str(error.problem or error), limit=300)}") from None
    except Exception as error:  # noqa: BLE001 - the parser's own errors are many, and the text is anybody's
        what = visible(str(error) or type(error).__name__, limit=300)
        raise NotYaml(1, f"not YAML: {what}") from None
    if not isinstance(document, CommentedMap):
        raise NotYaml(1, "a plan is a mapping of fields; start with `format: 1`")
    return document


class _Vet:
    """Walks the nodes; each is counted as often as aliases repeat it."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def size(self, node: Any, depth: int) -> int:
        """Return how many values a node stands for; raises NotYaml for what a plan must not hold."""
        line = node.start_mark.line + 1
        if id(node) in self._open:
            raise NotYaml(line, "an alias that contains itself; write the values out")
        if depth > _DEEPEST:
            raise NotYaml(line, f"nested more than {_DEEPEST} deep")
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        self._tagged(node, line)
        self._open.add(id(node))
        size = 1
        if isinstance(node, MappingNode):
            self._keys(node)
            size += sum(self.size(value, depth + 1) for _, value in node.value)
        elif isinstance(node, SequenceNode):
            size += sum(self.size(value, depth + 1) for value in node.value)
        self._open.discard(id(node))
        if size > _MOST_VALUES:
            raise NotYaml(line, f"more than {_MOST_VALUES} values; aliases multiply them")
        self._sizes[id(node)] = size
        return size

    def _tagged(self, node: Any, line: int) -> None:
        tag = str(node.tag)
        kind = tag.removeprefix(_STANDARD)
        if kind == tag or kind not in _TAGS:
            raise NotYaml(line, f"the tag {visible(tag, limit=80)} has no meaning in a plan; remove it")
        if kind in ("int", "float") and len(node.value) > _LONGEST_NUMBER:
            raise NotYaml(line, f"a number of {len(node.value)} characters")

    def _keys(self, node: MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode) or str(key.tag).endswith(":merge"):
                raise NotYaml(line, "a key must be the plain name of a field")
            self._tagged(key, line)
            if key.value in seen:
                raise NotYaml(line, f"`{visible(key.value, limit=80)}` stands twice; keep one")
            seen.add(key.value)
