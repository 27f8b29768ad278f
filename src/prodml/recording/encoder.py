"""What a logger was given, as the body of a line: fast where the row is plain."""

import threading
from collections.abc import Callable
from typing import Any, Final

from prodml.recording.codec import ordinary, plain
from prodml.recording.privacy import Redaction

__all__ = ["Encoder"]

_SCALARS: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None)})
_NUMBERS: Final = frozenset({float, int})
_WORDS: Final = frozenset({str, int, bool})
_NAMES: Final = ("request_id", "model_version")
_CONTENTS: Final = ("features", "prediction", "label", "metadata")


class Encoder:
    """Encode entries to JSON objects; ``redact`` takes out what must not be written.

    Safe for any number of threads.

    Examples
    --------
    >>> encoder = Encoder()
    >>> encoder({"request_id": "r-1", "features": {"age": 41}, "prediction": float("inf")})
    b'{"request_id":"r-1","features":{"age":41},"prediction":{"$float":"inf"}}'
    """

    __slots__: tuple[str, ...] = (
        "_lock",
        "_numbers",
        "_numeric",
        "_redact",
        "_scalars",
        "_to_json",
        "approximated",
    )

    def __init__(self, redact: Redaction | None = None) -> None:
        self.approximated: int = 0
        self._redact: Redaction | None = redact
        # What rows were made of so far: learned, so that a usual row takes a short way.
        self._numeric: bool | None = None
        self._scalars: frozenset[type] = _SCALARS
        self._numbers: dict[type, Callable[[Any], Any]] = {}
        self._to_json: Callable[[Any], bytes] = self._load()
        self._lock: threading.Lock = threading.Lock()

    def __call__(self, entry: dict[str, Any]) -> bytes:
        """JSON object of ``entry``; raises only what the redaction raises."""
        to_json = self._to_json
        if self._redact is None and (trust := self._trust(entry)):
            try:
                body = to_json(entry)
            except Exception:
                # A lone surrogate, or a class that only pretended to be plain.
                return self._careful(entry, to_json)
            # A dollar may begin the key of a tag, a null may have been a NaN: look again.
            if b"$" not in body and (trust > 1 or b":null" not in body):
                return body
        return self._careful(entry, to_json)

    def _trust(self, entry: dict[str, Any]) -> int:
        """0: spell every value out; 1: plain, but NaN is possible; 2: plain and finite."""
        features, answer = entry.get("features"), entry.get("prediction")
        if type(features) is not dict or type(answer) not in self._scalars:
            return 0
        metadata = entry.get("metadata")
        if metadata is not None and not _is_words(metadata):
            return 0
        try:
            # The cheapest question that only text survives.
            "".join(features)
            if self._numeric is None:
                # The first row decides what is tried first; nothing odd is added up for it.
                self._numeric = _NUMBERS.issuperset(map(type, features.values()))
            if not self._numeric:
                return int(self._scalars.issuperset(map(type, features.values())))
            # Of numbers alone the sum is a plain finite number exactly if they all are, and
            # adding up costs a third of asking each for its type and finiteness.
            total = sum(features.values())
            if type(total) in _NUMBERS:
                return _grade(answer) if total - total == 0 else 0
        except Exception:
            # Whatever values do when they are added up is no business of ours.
            self._numeric = False
            return 0
        self._numeric = False
        return 0

    def _careful(self, entry: dict[str, Any], to_json: Callable[[Any], bytes]) -> bytes:
        self._learn(entry)
        spelled = dict(entry)
        for name in _NAMES:
            if name in entry:
                spelled[name] = entry[name].encode("utf-8", "backslashreplace").decode()
        for part in _CONTENTS:
            if part in entry:
                value = plain(entry[part])
                spelled[part] = value if self._redact is None else self._redact(part, value)
        body = to_json(spelled)
        if b'"$repr":' in body:
            with self._lock:
                self.approximated += 1
        return body

    def _learn(self, entry: dict[str, Any]) -> None:
        features = entry.get("features")
        if type(features) is dict:
            values = [*features.values(), entry.get("prediction")]
            for cls in {type(value) for value in values} - self._scalars:
                if (number := ordinary(cls)) is not None:
                    self._numbers[cls] = number
                    self._scalars |= {cls}

    def _load(self) -> Callable[[Any], bytes]:
        from msgspec.json import Encoder as JsonEncoder

        numbers = self._numbers
        # NaN of numpy becomes null on this way as well.
        return JsonEncoder(enc_hook=lambda value: numbers[type(value)](value)).encode


def _is_words(row: Any) -> bool:
    if type(row) is not dict:
        return False
    for key, item in row.items():  # noqa: SIM110 - a generator costs more than its items
        if type(key) is not str or type(item) not in _WORDS:
            return False
    return True


def _grade(answer: Any) -> int:
    """How far a plain answer may be trusted beside features that are finite numbers."""
    if type(answer) is float:
        return 2 if answer - answer == 0 else 0
    # A numpy answer can be NaN, which only the null in its line will show.
    return 2 if type(answer) in _SCALARS else 1
