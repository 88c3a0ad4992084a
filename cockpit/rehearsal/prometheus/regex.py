"""Regular expressions as Prometheus reads them (RE2, as Go 1.19 has it), translated to Python's.

What RE2 refuses is refused, and what Python would read otherwise is translated or said to be unknown: a
look-ahead, a back reference or a possessive repetition never becomes an answer.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_REPEAT = 1000
_REPEAT = re.compile(r"\{(0|[1-9]\d*)(?:(,)(0|[1-9]\d*)?)?\}", re.ASCII)
_GROUP = re.compile(r"\(\?(?:P<(\w+)>|([imsU]*(?:-[imsU]+)?)([:)]))", re.ASCII)
_HEX = re.compile(r"([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\}", re.ASCII)
_OCTAL = re.compile(r"0[0-7]{0,2}|[1-7][0-7]{1,2}", re.ASCII)
_SPACE = r"\t\n\f\r "
_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}


class BadPattern(ValueError):
    """A pattern RE2 refuses."""


class UnknownPattern(ValueError):
    """A pattern RE2 takes, and this translation does not."""


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the pattern for `fullmatch`; raises BadPattern or UnknownPattern."""
    translated = _Translation(pattern).whole()
    try:
        return re.compile(translated, re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise UnknownPattern(f"{pattern}: {error}") from None


class _Translation:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._out: list[str] = []
        # Flags set inside a group hold to its end, across alternatives: one list for each open group.
        self._flags: list[list[str]] = [[]]
        self._repeatable = False
        self._repeated = False
        self._names: set[str] = set()

    def whole(self) -> str:
        while self._at < len(self._text):
            self._token(self._text[self._at])
        if len(self._flags) > 1:
            raise BadPattern(f"missing closing ): `{self._text}`")
        self._out.append(")" * len(self._flags[0]))
        return "".join(self._out)

    def _atom(self, translated: str, length: int = 1) -> None:
        self._out.append(translated)
        self._at += length
        self._repeatable, self._repeated = True, False

    def _token(self, char: str) -> None:
        if char == "\\":
            translated, length = self._escape(self._at, inside=False)
            self._atom(translated, length)
        elif char == "[":
            self._class()
        elif char == "(":
            self._open()
        elif char == ")":
            if len(self._flags) == 1:
                raise BadPattern(f"unexpected ): `{self._text}`")
            self._atom(")" * (len(self._flags.pop()) + 1))
        elif char == "|":
            flags = self._flags[-1]
            self._out.append(")" * len(flags) + "|" + "".join(f"(?{one}:" for one in flags))
            self._at += 1
            self._repeatable = self._repeated = False
        elif char in "*+?" or (char == "{" and _REPEAT.match(self._text, self._at)):
            self._repeat(char)
        elif char in "^$":
            self._atom(r"(?:\A)" if char == "^" else r"(?:\Z)")  # Python's own $ ignores a last newline
        elif char == ".":
            self._atom(".")
        else:
            if not char.isascii() and any("i" in flag for group in self._flags for flag in group):
                raise UnknownPattern("letters beyond ASCII, case ignored")
            self._atom(re.escape(char))

    def _repeat(self, char: str) -> None:
        if self._repeated:
            raise BadPattern(f"invalid nested repetition operator: `{self._text}`")
        if not self._repeatable:
            raise BadPattern(f"missing argument to repetition operator: `{char}`")
        text = char
        if char == "{":
            found = _REPEAT.match(self._text, self._at)
            assert found is not None
            text = found.group(0)
            least, most = int(found.group(1)), int(found.group(3) or found.group(1))
            if least > MAX_REPEAT or most > MAX_REPEAT or least > most:
                raise BadPattern(f"invalid repeat count: `{text}`")
        if self._text.startswith("?", self._at + len(text)):
            text += "?"
        self._out.append(text)
        self._at += len(text)
        self._repeated = True

    def _open(self) -> None:
        self._repeatable = self._repeated = False
        if not self._text.startswith("(?", self._at):
            self._flags.append([])
            self._out.append("(")
            self._at += 1
            return
        found = _GROUP.match(self._text, self._at)
        if found is None:
            raise BadPattern(f"invalid or unsupported Perl syntax: `{self._text[self._at :][:20]}`")
        name, flags, end = found.groups()
        self._at = found.end()
        if name is not None:
            if name in self._names or name[0].isdigit():
                raise UnknownPattern(f"a group of the name {name}")
            self._names.add(name)
            self._flags.append([])
            self._out.append(f"(?P<{name}>")
            return
        if "U" in flags or "m" in flags:
            raise UnknownPattern(f"the flags {flags}")
        flags = "".join(dict.fromkeys(flags))
        if end == ":":
            self._flags.append([])
            # A flag stays known inside, so that what is said of ignored case holds there too.
            self._flags[-1] += [flags] if flags else []
            self._out.append(f"(?:(?{flags}:" if flags else "(?:")
        elif flags:
            self._flags[-1].append(flags)
            self._out.append(f"(?{flags}:")

    def _class(self) -> None:
        end = len(self._text)
        at = self._at + 1
        negated = self._text.startswith("^", at)
        at += negated
        parts: list[str] = []
        first = True
        while first or not self._text.startswith("]", at):
            first = False
            if at >= end:
                raise BadPattern(f"missing closing ]: `{self._text[self._at :][:20]}`")
            if self._text.startswith("[:", at) and (close := self._text.find(":]", at + 2)) >= 0:
                parts.append(_posix(self._text[at + 2 : close]))
                at = close + 2
                continue
            low, at = self._member(at)
            ranged = self._text.startswith("-", at) and at + 1 < end and self._text[at + 1] != "]"
            if len(low) > 1 or not ranged:
                parts.append(low if len(low) > 1 else re.escape(low))
                continue
            high, at = self._member(at + 1)
            if len(high) > 1 or high < low:
                raise BadPattern(f"invalid character class range: `{self._text[self._at :][:20]}`")
            parts.append(f"{re.escape(low)}-{re.escape(high)}")
        self._atom(f"[{'^' if negated else ''}{''.join(parts)}]", at + 1 - self._at)

    def _member(self, at: int) -> tuple[str, int]:
        """Return a member of a class, one character or the translation of many, and where it ends."""
        if at >= len(self._text):
            raise BadPattern(f"missing closing ]: `{self._text[self._at :][:20]}`")
        if self._text[at] != "\\":
            return self._text[at], at + 1
        translated, length = self._escape(at, inside=True)
        return translated, at + length

    def _escape(self, at: int, *, inside: bool) -> tuple[str, int]:
        """Translate the escape at `at`; inside a class a single character stays as it is."""
        char = self._text[at + 1 : at + 2]
        if not char:
            raise BadPattern("trailing backslash at end of expression: ``")
        if char in "dDwW":
            return f"\\{char}", 2
        if char == "s":
            return (_SPACE if inside else f"[{_SPACE}]"), 2
        if char in "pPQE" or (char == "S" and inside):
            raise UnknownPattern(f"the escape \\{char}")
        if not inside:
            if char == "S":
                return f"[^{_SPACE}]", 2
            if char in "AbBz":
                return f"(?:\\{'Z' if char == 'z' else char})", 2
        if char in "aftnrv":
            literal, length = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}[char], 2
        elif char == "x" and (found := _HEX.match(self._text, at + 2)):
            code = int(found.group(1) or found.group(2), 16)
            if code > 0x10FFFF:
                raise BadPattern(f"invalid escape sequence: `{found.group(0)}`")
            literal, length = chr(code), 2 + len(found.group(0))
        elif found := _OCTAL.match(self._text, at + 1):
            literal, length = chr(int(found.group(0), 8)), 1 + len(found.group(0))
        elif char.isascii() and not char.isalnum():
            literal, length = char, 2
        else:
            raise BadPattern(f"invalid escape sequence: `\\{char}`")
        return (literal if inside else re.escape(literal)), length


def _posix(name: str) -> str:
    negated = name.startswith("^")
    members = _POSIX.get(name.removeprefix("^"))
    if members is None:
        raise BadPattern(f"invalid character class range: `[:{name[:20]}:]`")
    if negated:
        raise UnknownPattern(f"the class [:{name}:]")
    return members
