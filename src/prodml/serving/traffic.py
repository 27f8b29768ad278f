"""Who is to get which traffic: a plain value that knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias, cast

from prodml.errors import BadConfiguration
from prodml.serving.slot import ARMS, Key
from prodml.serving.split import key_bytes

__all__ = ["Cohort", "Cohorts", "Overrides", "Shadows", "Traffic", "Variants"]

Variants: TypeAlias = Mapping[str, tuple[str, float]]
"""Version and share by name of the arm."""

Overrides: TypeAlias = Mapping[str, Mapping[str, str]]
"""Version by value by header."""

Cohorts: TypeAlias = Mapping[str, tuple[str, Iterable[Key]]]
"""Version and keys by name of the cohort."""

Shadows: TypeAlias = Sequence[str] | Mapping[str, float]
"""Shadow versions, or the share of requests that is copied to each."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})


def _empty() -> Mapping[str, Any]:
    return _EMPTY


@dataclass(frozen=True, slots=True)
class Cohort:
    """Keys that a version answers, whatever the shares say."""

    version: str
    members: frozenset[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Shares, shadows, overrides and cohorts, checked as far as one can without the versions.

    Examples
    --------
    >>> traffic = Traffic(canary={"v2": 0.05}).with_overrides({"X-Arm": {"new": "v2"}}, None)
    >>> print(traffic)
    canary v2 5 %; override x-arm=new to v2
    >>> traffic.without("v2") == Traffic()
    True
    """

    canary: Mapping[str, float] = field(default_factory=_empty)
    variants: Variants = field(default_factory=_empty)
    shadow: Mapping[str, float] = field(default_factory=_empty)
    salt: str = ""
    overrides: Overrides = field(default_factory=_empty)
    cohorts: Mapping[str, Cohort] = field(default_factory=_empty)

    def with_shares(
        self, canary: Mapping[str, float], variants: Variants, shadow: Shadows, salt: str
    ) -> "Traffic":
        """Replace the split and the shadows; overrides and cohorts stay."""
        for what, shares in (("canary", canary), ("variants", variants)):
            _check_mapping(what, shares)
        if not isinstance(salt, str):
            raise BadConfiguration(f"salt must be text, not {salt!r}")
        arms = {name: _pair(name, arm, "share") for name, arm in variants.items()}
        _check_names("variant", variants, taken=self.cohorts)
        _check_shares([*canary.items(), *((name, share) for name, (_, share) in arms.items())])
        copied = _shadows(shadow)
        for version, share in copied.items():
            _check_share(f"shadow share of {version!r}", share)
        return replace(
            self,
            canary=_kept(canary),
            variants=MappingProxyType({n: (v, float(s)) for n, (v, s) in arms.items() if s > 0.0}),
            shadow=_kept(copied),
            salt=salt,
        )

    def with_overrides(self, overrides: Overrides | None, cohorts: Cohorts | None) -> "Traffic":
        """Replace the overrides, the cohorts or both; None keeps what there is."""
        new = self
        if overrides is not None:
            new = replace(new, overrides=_headers(overrides))
        if cohorts is not None:
            _check_mapping("cohorts", cohorts)
            _check_names("cohort", cohorts, taken=self.variants)
            members = {name: _cohort(name, given) for name, given in cohorts.items()}
            new = replace(new, cohorts=MappingProxyType(members))
        return new

    def roles(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What versions are here for, and which."""
        values = (v for by_value in self.overrides.values() for v in by_value.values())
        return (
            ("in the canary split: route without it first", frozenset(self.canary)),
            (
                "a variant: route without it first",
                frozenset(version for version, _ in self.variants.values()),
            ),
            ("a shadow version: route without it first", frozenset(self.shadow)),
            ("the target of a header: route(overrides=) without it first", frozenset(values)),
            (
                "a cohort's version: route(cohorts=) without it first",
                frozenset(cohort.version for cohort in self.cohorts.values()),
            ),
        )

    def versions(self) -> tuple[str, ...]:
        """Every version that has a part, once."""
        named = (version for _, versions in self.roles() for version in sorted(versions))
        return tuple(dict.fromkeys(named))

    def without_split(self, version: str) -> "Traffic":
        """Take ``version`` out of canary and shadow, as when it becomes the default."""
        return replace(self, canary=_less(self.canary, version), shadow=_less(self.shadow, version))

    def without(self, version: str) -> "Traffic":
        """Take ``version`` out of everything."""
        headers = {
            name: {value: v for value, v in by_value.items() if v != version}
            for name, by_value in self.overrides.items()
        }
        return replace(
            self.without_split(version),
            variants=MappingProxyType({n: a for n, a in self.variants.items() if a[0] != version}),
            overrides=_headers({name: by for name, by in headers.items() if by}),
            cohorts=MappingProxyType(
                {n: c for n, c in self.cohorts.items() if c.version != version}
            ),
        )

    def as_data(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return {
            "canary": dict(self.canary),
            "variants": {name: list(arm) for name, arm in self.variants.items()},
            "shadow": dict(self.shadow),
            "salt": self.salt,
            "overrides": {name: dict(by_value) for name, by_value in self.overrides.items()},
            "cohorts": {
                name: [cohort.version, sorted(key.decode() for key in cohort.members)]
                for name, cohort in self.cohorts.items()
            },
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Traffic":
        """What :meth:`as_data` has made, checked again."""
        given = {name: data.get(name, {}) for name in ("canary", "variants", "shadow")}
        traffic = cls().with_shares(**given, salt=data.get("salt", ""))
        return traffic.with_overrides(data.get("overrides", {}), data.get("cohorts", {}))

    def __str__(self) -> str:
        parts = [f"canary {version} {share:.4g} %" for version, share in _percent(self.canary)]
        parts += [f"variant {n} = {v} {100 * s:.4g} %" for n, (v, s) in self.variants.items()]
        parts += [f"shadow {version} {share:.4g} %" for version, share in _percent(self.shadow)]
        for name, by_value in self.overrides.items():
            parts += [f"override {name}={value} to {v}" for value, v in by_value.items()]
        for name, cohort in self.cohorts.items():
            parts.append(f"cohort {name} of {len(cohort.members)} to {cohort.version}")
        return "; ".join(parts) or "all to the default"


def _percent(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(version, 100 * share) for version, share in shares.items()]


def _kept(shares: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType({name: float(share) for name, share in shares.items() if share > 0.0})


def _less(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return MappingProxyType({k: v for k, v in mapping.items() if k != name})


def _shadows(shadow: Shadows) -> Mapping[str, float]:
    if isinstance(shadow, str):
        raise BadConfiguration(f"shadow must be a list of versions, not the text {shadow!r}")
    if not isinstance(shadow, Iterable):
        raise BadConfiguration(f"shadow must be a list of versions, not {shadow!r}")
    return shadow if isinstance(shadow, Mapping) else dict.fromkeys(shadow, 1.0)


def _headers(overrides: Overrides) -> Overrides:
    _check_mapping("overrides", overrides)
    for name, by_value in overrides.items():
        _check_mapping(f"overrides of the header {name!r}", by_value)
        texts: list[object] = [name, *by_value]
        odd = [text for text in texts if not isinstance(text, str)]
        if odd:
            raise BadConfiguration(f"headers and their values must be text, not {odd[0]!r}")
    # Header names are the same whatever their case; values are not.
    return MappingProxyType(
        {
            name.lower(): MappingProxyType(
                {value: _text(version, name) for value, version in by_value.items()}
            )
            for name, by_value in overrides.items()
        }
    )


def _pair(name: str, given: object, second: str) -> tuple[str, Any]:
    if not isinstance(given, tuple | list) or len(cast("list[Any]", given)) != 2:
        raise BadConfiguration(f"{name!r} must be given (version, {second}), not {given!r}")
    version, other = cast("list[Any]", given)
    return _text(version, name), other


def _cohort(name: str, given: object) -> Cohort:
    version, keys = _pair(name, given, "keys")
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise BadConfiguration(f"cohort {name!r} must have a collection of keys, not {keys!r}")
    members = frozenset(map(key_bytes, cast("Iterable[Key]", keys)))
    try:
        for key in members:
            key.decode()
    except UnicodeDecodeError:
        raise BadConfiguration(f"cohort {name!r} has a key that is no UTF-8 text") from None
    return Cohort(version, members)


def _text(version: object, where: str) -> str:
    if not isinstance(version, str):
        raise BadConfiguration(f"{where!r} must lead to a version, not to {version!r}")
    return version


def _check_mapping(what: str, given: object) -> None:
    if not isinstance(given, Mapping):
        raise BadConfiguration(f"{what} must be a mapping, not {given!r}")


def _check_names(what: str, names: Iterable[object], *, taken: Mapping[str, object]) -> None:
    for name in names:
        if not isinstance(name, str) or not name or name in ARMS or name in taken:
            raise BadConfiguration(
                f"{what} must have a name of its own, not {name!r}; taken: "
                f"{', '.join(sorted({*ARMS, *taken}))}"
            )


def _check_shares(shares: Sequence[tuple[str, float]]) -> None:
    for name, share in shares:
        _check_share(f"share of {name!r}", share)
    total = sum(share for _, share in shares)
    if total > 1.0 + 1e-9:
        raise BadConfiguration(f"shares add up to {total:.6g}; at most 1 is possible")


def _check_share(what: str, share: object) -> None:
    if not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
        raise BadConfiguration(f"{what} must be 0..1, not {share!r}")
