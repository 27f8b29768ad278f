"""A drift report as text: a table for terminals and logs."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

from prodml.drift.level import DriftLevel
from prodml.drift.ranking import Judged
from prodml.errors import BadConfiguration

__all__ = ["clean", "numbers_told", "table"]

_MARKS: Final = {
    DriftLevel.DRIFT: "!",
    DriftLevel.INCONCLUSIVE: "?",
    DriftLevel.NEGLIGIBLE: "~",
    DriftLevel.NONE: " ",
}
_COLOURS: Final = {
    DriftLevel.DRIFT: "\x1b[1;31m",
    DriftLevel.INCONCLUSIVE: "\x1b[33m",
    DriftLevel.NEGLIGIBLE: "\x1b[36m",
    DriftLevel.NONE: "\x1b[2m",
}
# What moves the cursor, colours the rest of the screen, or turns the direction of a line.
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")
_VERDICT, _NUMBER, _NOTES = 14, 7, 6
# How many lines a reason may take: what alarms is told in full, as a rule.
_LINES: Final = {
    DriftLevel.DRIFT: 4,
    DriftLevel.INCONCLUSIVE: 3,
    DriftLevel.NEGLIGIBLE: 3,
    DriftLevel.NONE: 1,
}


def table(
    headline: str,
    rows: Sequence[tuple[str, Judged]],
    *,
    notes: Sequence[str] = (),
    width: int = 100,
    limit: int = 40,
    colour: bool = False,
    plain: bool = False,
) -> str:
    """``rows`` in their order, under ``notes``, no line wider than ``width`` columns.

    Raises
    ------
    BadConfiguration
        ``width`` below 60 or ``limit`` below 1.

    Examples
    --------
    >>> table("nothing was compared", [])
    'nothing was compared'
    """
    if width < 60 or limit < 1:
        raise BadConfiguration(f"a table needs 60 columns and 1 row, not {width} and {limit}")
    told = _ascii if plain else clean
    lines = _wrapped(told(headline), width, 4)
    for note in notes[:_NOTES]:
        lines += [f"  {line}" for line in _wrapped(f"note: {told(note)}", width - 2, 3)]
    if len(notes) > _NOTES:
        lines.append(f"  and {len(notes) - _NOTES} more notes")
    shown = rows[:limit]
    if shown:
        names = [told(name) for name, _ in shown]
        wide = min(max(map(_columns, [*names, "feature"])), width // 4)
        lines += _head(wide, width)
        for name, (_, verdict) in zip(names, shown, strict=True):
            lines += _row(name, verdict, told(verdict.reason), wide, width, colour=colour)
    if len(rows) > limit:
        lines.append(_rest(rows[limit:]))
    return "\n".join(lines)


def numbers_told(verdict: Judged) -> tuple[str, str]:
    """Effect and adjusted p-value; empty where nothing was compared.

    Examples
    --------
    >>> from prodml.drift import DriftDetector
    >>> report = DriftDetector([float(i) for i in range(50)]).detect_drift({"y": [1.0]})
    >>> numbers_told(report["x0"])
    ('1.000', '0')
    """
    if verdict.level is DriftLevel.INCONCLUSIVE:
        return "", ""
    p = verdict.p_adjusted
    digits = 2 if p >= 1e-99 else 1  # so that it stays within seven columns
    return f"{verdict.effect:.3f}", "" if math.isnan(p) else f"{p:.{digits}g}"


def _head(wide: int, width: int) -> list[str]:
    cells = (
        "  verdict".ljust(_VERDICT),
        "feature".ljust(wide),
        "effect".rjust(_NUMBER),
        "p".rjust(_NUMBER),
        "what changed",
    )
    return ["", "  ".join(cells)[:width], "-" * width]


def _row(
    name: str, verdict: Judged, reason: str, wide: int, width: int, *, colour: bool
) -> list[str]:
    word = f"{_MARKS[verdict.level]} {verdict.level.value}".ljust(_VERDICT)
    if colour:
        word = f"{_COLOURS[verdict.level]}{word}\x1b[0m"
    effect, p = (text.rjust(_NUMBER) for text in numbers_told(verdict))
    left = _VERDICT + wide + 2 * _NUMBER + 8
    first, *more = _wrapped(reason, width - left, _LINES[verdict.level]) or [""]
    line = "  ".join((word, _padded(_clipped(name, wide), wide), effect, p, first)).rstrip()
    return [line, *(" " * left + rest for rest in more)]


def _rest(rows: Sequence[tuple[str, Judged]]) -> str:
    counts: Mapping[str, int] = {
        level.value: sum(verdict.level is level for _, verdict in rows) for level in _MARKS
    }
    told = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
    return f"  and {len(rows)} more: {told}"


def clean(text: object) -> str:
    r"""``text`` without what moves a cursor, colours a screen or turns a line.

    Examples
    --------
    >>> ascii(clean("a\x1b[31m"))
    "'a\\ufffd[31m'"
    """
    return _UNFIT.sub("\ufffd", str(text))


def _ascii(text: object) -> str:
    kept = _UNFIT.sub("?", str(text))
    return kept.encode("ascii", "backslashreplace").decode("ascii")


def _columns(text: str) -> int:
    """How many columns of a terminal ``text`` takes: ideographs and emoji take two."""
    if text.isascii():
        return len(text)
    return sum(map(_wide, text))


def _wide(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _padded(text: str, wide: int) -> str:
    return text + " " * (wide - _columns(text))


def _clipped(text: str, wide: int) -> str:
    """The beginning of ``text``, with dots where there was more."""
    if _columns(text) <= wide:
        return text
    kept, room = "", wide - 2
    for letter in text:
        room -= _wide(letter)
        if room < 0:
            break
        kept += letter
    return f"{kept}.."


def _wrapped(text: str, wide: int, most: int) -> list[str]:
    lines, line = list[str](), ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if _columns(joined) > wide and line:
            lines.append(line)
            joined = word
        line = _clipped(joined, wide)
    lines += [line] if line else []
    if len(lines) <= most:
        return lines
    # There is more to say than there is room for.
    last = lines[most - 1]
    while last and _columns(last) > wide - 4:
        last = last[:-1] if " " not in last else last.rpartition(" ")[0]
    return [*lines[: most - 1], f"{last} ..."]
