"""Just enough DER (X.690) to write time-stamps and Fulcio's extensions."""

from __future__ import annotations

INTEGER, OCTETS, OID, UTF8, TIME = 0x02, 0x04, 0x06, 0x0C, 0x18
SEQUENCE, SET, CONTEXT_0 = 0x30, 0x31, 0xA0


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return one element: tag, shortest definite length, the parts joined."""
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + body


def seq(*parts: bytes) -> bytes:
    """Return a SEQUENCE."""
    return tlv(SEQUENCE, *parts)


def set_of(*parts: bytes, tag: int = SET) -> bytes:
    """Return a SET OF, its elements in DER's order."""
    return tlv(tag, *sorted(parts))


def integer(value: int) -> bytes:
    """Return a non-negative INTEGER."""
    return tlv(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    """Return an OCTET STRING."""
    return tlv(OCTETS, value)


def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    out = bytearray()
    for arc in (first * 40 + second, *rest):
        chunk = [arc & 0x7F]
        while arc := arc >> 7:
            chunk.insert(0, 0x80 | (arc & 0x7F))
        out += bytes(chunk)
    return tlv(OID, bytes(out))
