"""Stores that misbehave."""

from prodml.stores import MemoryStore


class BulkMemoryStore(MemoryStore):
    """Counts its round trips and can do many keys in one."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.trips = []

    def get(self, key):
        self.trips.append("get")
        return super().get(key)

    def set(self, key, value, *, ttl=None):
        self.trips.append("set")
        super().set(key, value, ttl=ttl)

    def get_many(self, keys):
        self.trips.append("get_many")
        return [super(BulkMemoryStore, self).get(key) for key in keys]

    def set_many(self, items, *, ttl=None):
        self.trips.append("set_many")
        for key, value in items.items():
            super().set(key, value, ttl=ttl)

    def setdefault(self, key, value):
        self.trips.append("setdefault")
        found = super().get(key)
        if found is None:
            super().set(key, value)
        return value if found is None else found


class DeadStore:
    """Fails every call."""

    def __init__(self, error=None):
        self.calls = 0
        self.error = error or ConnectionError("down")

    def _fail(self, *args, **kwargs):
        self.calls += 1
        raise self.error

    get = set = delete = _fail


class AwaitedStore:
    """A memory store for tasks only."""

    def __init__(self, inner=None):
        self.inner = inner or MemoryStore()

    async def get(self, key):
        return self.inner.get(key)

    async def set(self, key, value, *, ttl=None):
        self.inner.set(key, value, ttl=ttl)

    async def delete(self, key):
        return self.inner.delete(key)

    async def close(self):
        self.inner.close()


class LeasingStore(BulkMemoryStore):
    """Lets one of several caches compute, for as long as its lease by ``clock`` lasts."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.leases = {}
        self.asked = []
        self.down = False

    def _holder(self, name):
        token, ends = self.leases.get(name, (None, 0.0))
        return token if self._clock.monotonic() < ends else None

    def _heard(self, what):
        self.asked.append(what)
        if self.down:
            raise ConnectionError("down")

    def claim(self, name, token, lease):
        self._heard("claim")
        with self._lock:
            if self._holder(name) is None:
                self.leases[name] = (token, self._clock.monotonic() + lease)
            mine = self._holder(name) == token
        return MemoryStore.get(self, name), mine

    def watch(self, name):
        self._heard("watch")
        return MemoryStore.get(self, name), self._holder(name)

    def prolong(self, name, token, lease):
        self._heard("prolong")
        with self._lock:
            if self._holder(name) != token:
                return False
            self.leases[name] = (token, self._clock.monotonic() + lease)
            return True

    def unclaim(self, name, token):
        self._heard("unclaim")
        with self._lock:
            if self._holder(name) == token:
                del self.leases[name]
