"""Paths of the protocol: which call a path means, and whom it names."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from prodml.integrations.open_inference.refusals import HttpError

__all__ = ["CALLS", "Target", "find"]

_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = _MODEL + "/versions/{version}"

CALLS: Final[dict[str, tuple[str, str]]] = {
    "/v2": ("GET", "server_metadata"),
    "/v2/health/live": ("GET", "live"),
    "/v2/health/ready": ("GET", "ready"),
    _MODEL: ("GET", "model_metadata"),
    _VERSION: ("GET", "model_metadata"),
    _MODEL + "/ready": ("GET", "model_ready"),
    _VERSION + "/ready": ("GET", "model_ready"),
    _MODEL + "/infer": ("POST", "infer"),
    _VERSION + "/infer": ("POST", "infer"),
    "/v2/repository/index": ("POST", "index"),
    "/v2/repository/models/{model}/load": ("POST", "load"),
    "/v2/repository/models/{model}/unload": ("POST", "unload"),
    "/metrics": ("GET", "metrics"),
    "/openapi.json": ("GET", "openapi"),
}
"""Method and name of the call by template of its path."""

_ALLOWED: Final[dict[str, tuple[str, ...]]] = {"GET": ("GET", "HEAD"), "POST": ("POST",)}
_LONGEST: Final = 2048
_NAMED: Final = re.compile(
    r"(?P<before>/v2(?:/repository)?/models)/(?P<model>[^/]+)"
    r"(?:/versions/(?P<version>[^/]+))?(?P<after>(?:/[^/]+)?)"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a path means.

    Examples
    --------
    >>> find("POST", "/v2/models/churn/versions/v7/infer")
    Target(call='infer', model='churn', version='v7')
    """

    call: str
    model: str = ""
    version: str | None = None


@lru_cache(maxsize=1024)
def find(method: str, path: str) -> Target:
    """Call that ``method`` and ``path`` ask for; a slash at the end does not matter.

    Raises
    ------
    HttpError
        404, or 405 with the methods that are allowed; 414 for a path of thousands of characters.
    """
    # What is found is kept, and a client chooses the names.
    if len(path) > _LONGEST:
        raise HttpError(414, f"the path is longer than {_LONGEST} characters")
    template, model, version = _named(path)
    call = CALLS.get(template)
    if call is None:
        raise HttpError(404, "there is nothing at this path")
    wanted, name = call
    if method not in _ALLOWED[wanted]:
        allowed = ", ".join(_ALLOWED[wanted])
        raise HttpError(405, f"{method} is not allowed here, {wanted} is", {"allow": allowed})
    return Target(name, model, version)


def _named(path: str) -> tuple[str, str, str | None]:
    """Template of ``path``, and the model and version that it names."""
    path = path.removesuffix("/")
    named = _NAMED.fullmatch(path)
    if named is None:
        return path, "", None
    before, model, version, after = named.groups()
    pinned = "" if version is None else "/versions/{version}"
    return f"{before}/{{model}}{pinned}{after}", model, version
