"""Records with a revision, and leases, as scripts that a Redis or Valkey server runs whole.

What is kept: a hash per record (value ``v``, revision ``r``), a hash per lease (owner ``o``,
token ``t``) that ends by the server's clock, and the last token given, which never ends: a
token must be larger than all before it.
"""

from typing import Any, Final, cast

from prodml.clock import SYSTEM_CLOCK
from prodml.errors import Conflict, LeaseLost
from prodml.stores import Lease

__all__ = ["acquire", "commit", "read", "release", "renew"]

_COMMIT: Final = """
if ARGV[3] and redis.call('HGET', KEYS[2], 't') ~= ARGV[3] then
  return {-1, 0}
end
local found = tonumber(redis.call('HGET', KEYS[1], 'r') or '0')
if found ~= tonumber(ARGV[2]) then
  return {0, found}
end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'r', found + 1)
return {1, found + 1}
"""
_ACQUIRE: Final = """
local owner = redis.call('HGET', KEYS[1], 'o')
if owner and owner ~= ARGV[1] then
  return 0
end
local token = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], 'o', ARGV[1], 't', token)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return token
"""
_RENEW: Final = """
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE: Final = """
if redis.call('HGET', KEYS[1], 't') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
"""


def read(client: Any, key: str) -> tuple[bytes | None, int]:
    """Value and revision of ``key``."""
    value, revision = client.hmget(key, ["v", "r"])
    if value is None or revision is None:
        return None, 0
    # A client that decodes, used as it is because it is a cluster's, gives text.
    return value.encode() if isinstance(value, str) else cast("bytes", value), int(revision)


def commit(client: Any, key: str, value: bytes, revision: int, lease: Lease | None = None) -> int:
    """Write ``value`` if the revision is ``revision`` and ``lease`` is held; return the new one.

    For the sake of clusters, record and lease must go by the same name.
    """
    keys, args = [key], [value, revision]
    if lease is not None:
        keys, args = [key, _lease_keys(lease.name)[0]], [value, revision, lease.token]
    written, found = client.register_script(_COMMIT)(keys=keys, args=args)
    if lease is not None and written == -1:
        raise LeaseLost(lease.name, lease.token)
    if not written:
        raise Conflict(key, revision, int(found))
    return int(found)


def acquire(client: Any, name: str, owner: str, ttl: float) -> Lease | None:
    """Take lease ``name`` unless somebody else holds it."""
    token = client.register_script(_ACQUIRE)(keys=_lease_keys(name), args=[owner, _ms(ttl)])
    return Lease(name, owner, int(token), SYSTEM_CLOCK.time() + ttl) if token else None


def renew(client: Any, lease: Lease, ttl: float) -> Lease:
    """Prolong a held lease."""
    key = _lease_keys(lease.name)[0]
    if not client.register_script(_RENEW)(keys=[key], args=[lease.token, _ms(ttl)]):
        raise LeaseLost(lease.name, lease.token)
    return Lease(lease.name, lease.owner, lease.token, SYSTEM_CLOCK.time() + ttl)


def release(client: Any, lease: Lease) -> None:
    """Give a lease back."""
    client.register_script(_RELEASE)(keys=[_lease_keys(lease.name)[0]], args=[lease.token])


def _lease_keys(name: str) -> list[str]:
    # In braces: a cluster keeps keys with the same braces on one node, as a script needs it.
    return [f"{{{name}}}:lease", f"{{{name}}}:token"]


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
