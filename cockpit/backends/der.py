"""Strict DER (X.690): one encoding a value, everything else refused."""

from __future__ import annotations

from dataclasses import dataclass

BOOLEAN, INTEGER, OCTETS, NULL, OID = 0x01, 0x02, 0x04, 0x05, 0x06
SEQUENCE, SET, CONTEXT_0 = 0x30, 0x31, 0xA0
_CONSTRUCTED, _LONG_TAG = 0x20, 0x1F
_MAX_DEPTH = 24


class NotDer(ValueError):
    """Bytes that are not the one DER encoding of anything."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag, contents, whole encoding and, when constructed, its children."""

    tag: int
    content: bytes
    raw: bytes
    children: tuple[Element, ...]


def read(data: bytes) -> Element:
    """Return the one element `data` holds; raise NotDer for anything but strict DER, or bytes left over."""
    element = _element(data, 0, _MAX_DEPTH)
    if len(element.raw) != len(data):
        raise NotDer("bytes follow the element")
    return element


def _element(data: bytes, start: int, depth: int) -> Element:
    if depth == 0:
        raise NotDer("nested too deep")
    if start + 2 > len(data):
        raise NotDer("cut off")
    tag = data[start]
    if tag & _LONG_TAG == _LONG_TAG:
        raise NotDer("long tags are not used here")
    begin, length = _length(data, start + 1)
    end = begin + length
    if end > len(data):
        raise NotDer("cut off")
    content = data[begin:end]
    children: list[Element] = []
    if tag & _CONSTRUCTED:
        position = 0
        while position < length:
            child = _element(content, position, depth - 1)
            children.append(child)
            position += len(child.raw)
        if tag == SET and [c.raw for c in children] != sorted(c.raw for c in children):
            raise NotDer("a set out of order")
    else:
        _check_primitive(tag, content)
    return Element(tag, content, data[start:end], tuple(children))


def _length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 0x80:
        return at + 1, first
    count = first & 0x7F
    octets = data[at + 1 : at + 1 + count]
    if not 1 <= count <= 4 or len(octets) < count or octets[0] == 0:
        raise NotDer("a length that is indefinite, too long or not the shortest")
    length = int.from_bytes(octets, "big")
    if length < 0x80:
        raise NotDer("a length that is not the shortest")
    return at + 1 + count, length


def _check_primitive(tag: int, content: bytes) -> None:
    if tag == BOOLEAN and content not in (b"\0", b"\xff"):
        raise NotDer("a boolean that is neither true nor false")
    if tag == NULL and content:
        raise NotDer("a null with contents")
    if tag == INTEGER:
        padded = len(content) > 1 and (
            (content[0] == 0 and content[1] < 0x80) or (content[0] == 0xFF and content[1] >= 0x80)
        )
        if not content or padded:
            raise NotDer("an integer that is not the shortest")
    if tag == OID:
        starts = [0, *(i + 1 for i, octet in enumerate(content[:-1]) if octet < 0x80)]
        if not content or content[-1] >= 0x80 or any(content[i] == 0x80 for i in starts):
            raise NotDer("an object identifier that is not the shortest")


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return one element: tag, shortest definite length, the parts joined."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def integer(value: int) -> bytes:
    """Return a non-negative INTEGER."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
