"""Routing as plain data: to be written down, sent, and installed elsewhere."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from prodml.errors import BadConfiguration
from prodml.serving.routing import Table
from prodml.serving.traffic import Traffic

__all__ = ["as_data", "with_data"]

# Defaults that are worth sending along: whoever joins can roll back that far.
_PAST = 32


def as_data(table: Table) -> dict[str, Any]:
    """Routing of ``table`` in text, numbers, lists and dictionaries.

    Examples
    --------
    >>> as_data(Table(name="churn"))["default"] is None
    True
    """
    return {
        "default": table.default,
        "past": list(table.past[-_PAST:]),
        "quarantined": dict(table.quarantined),
        **table.traffic.as_data(),
    }


def with_data(table: Table, data: Mapping[str, Any]) -> Table:
    """``table`` with the routing of ``data``, which :func:`as_data` has made, here or elsewhere.

    Raises
    ------
    UnknownVersion
        A version that is to get traffic is not loaded.
    BadConfiguration
        The data is none of routing.
    """
    known = as_data(table)
    odd = [repr(name) for name in data if name not in known]
    if odd or "default" not in data:
        raise BadConfiguration(
            f"routing of {table.name} must name a 'default' and may have "
            f"{', '.join(sorted(known))}; not {', '.join(odd) or list(data)}"
        )
    default = data["default"]
    if default is not None and not isinstance(default, str):
        raise BadConfiguration(
            f"default of {table.name} must be a version or None, not {default!r}"
        )
    if isinstance(data.get("past"), str):
        raise BadConfiguration(f"past of {table.name} must be a list, not {data['past']!r}")
    try:
        quarantined = MappingProxyType({str(v): str(why) for v, why in _pairs(data)})
        past = tuple(map(str, data.get("past", _past(table, default))))
        traffic = Traffic.from_data(data)
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, BadConfiguration):
            raise
        raise BadConfiguration(f"routing of {table.name} cannot be read: {error}") from error
    bare = replace(table, default=None, traffic=Traffic(), quarantined=quarantined)
    if default is not None:
        bare = bare.with_default(default)
    new = replace(bare, past=past).with_traffic(traffic)
    # Whoever hears the same again has nothing to change, and nothing for the history.
    return table if as_data(new) == known else new


def _pairs(data: Mapping[str, Any]) -> Any:
    return data.get("quarantined", {}).items()


def _past(table: Table, default: object) -> tuple[str, ...]:
    """The chain of defaults if ``default`` comes next."""
    if table.default is None or table.default == default:
        return table.past
    return (*table.past, table.default)
