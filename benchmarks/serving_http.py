"""Serving over HTTP: what the protocol costs, and what batches win.

``python -m benchmarks.serving_http`` prints the tables.  ``wrk`` (Debian has it) asks each
server about one row over 1, 16 and 64 connections, in rounds: every round asks every server
once, in random order, while all others are stopped, and ratios are to bare Starlette of
the same round.  CPU is that of all processes of the server, from /proc, by request.

Peers that cannot live in one environment with the newest Starlette have interpreters of
their own: ``--peers`` (LitServe and MLServer: dependency group http-peers) and ``--bento``
(http-bento); ``nox -s bench-http`` makes them.  Without them their rows are left out.
"""

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from benchmarks._http_servers.model import body
from benchmarks.runner import Counted, Result, markdown, measure

ROOT = Path(__file__).parents[1]
PATH = "/v2/models/bench/infer"
CONNECTIONS = (1, 16, 64)
BARE, OURS, BATCHED = "bare Starlette", "prodml", "prodml, batcher={}"
_TICK = os.sysconf("SC_CLK_TCK")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass
class Settings:
    rounds: int = 5
    seconds: float = 2.0
    peers: str | None = os.environ.get("PRODML_HTTP_PEERS")
    bento: str | None = os.environ.get("PRODML_HTTP_BENTO")
    only: str = ""


@dataclass
class Server:
    """A server with all its processes."""

    name: str
    command: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self, log: Path) -> bool:
        """Start it and wait for its first answer; False if there is none within a minute."""
        env = os.environ | {
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            # One row is not worth a second thread, and two servers' threads would fight.
            "OMP_NUM_THREADS": "1",
            "BENTOML_DO_NOT_TRACK": "1",
        }
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
            )
        ends = time.monotonic() + 60
        while time.monotonic() < ends and self.process.poll() is None:
            if self.answers():
                return True
            time.sleep(0.2)
        sys.stderr.write(f"{self.name} does not answer:\n{log.read_text()[-1500:]}\n")
        self.stop()
        return False

    def answers(self) -> bool:
        url = f"http://127.0.0.1:{self.port}{PATH}"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body().encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        # All at once, before the children of a dead parent become somebody else's.
        self.tell(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def tell(self, number: signal.Signals) -> None:
        for pid in self._family():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def cpu(self) -> float:
        """CPU seconds of all its processes."""
        return sum(int(stat[11]) + int(stat[12]) for stat in self._family().values()) / _TICK

    def _family(self) -> dict[int, list[str]]:
        """The process and all below it: some start sessions of their own."""
        everybody = dict(_processes())
        family = {} if self.process is None else {self.process.pid: everybody[self.process.pid]}
        grown = -1
        while grown != len(family):
            grown = len(family)
            family |= {pid: stat for pid, stat in everybody.items() if int(stat[1]) in family}
        return family


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Pid, and the fields of /proc/pid/stat from the third on: state, parent, ..."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            yield int(entry.name), text.rpartition(")")[2].split()


@dataclass
class Reading:
    """One run of wrk."""

    per_second: float
    cpu: float
    p50: float
    p99: float
    bad: int


@dataclass
class Readings:
    """All runs, by server and connections, in order of rounds."""

    by: dict[tuple[str, int], list[Reading]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def ratio(self, name: str, connections: int, what: Callable[[Reading], float]) -> float:
        """Median over rounds of the ratio to the baseline of the same round."""
        own, base = self.by[name, connections], self.by[BARE, connections]
        return statistics.median(what(a) / what(b) for a, b in zip(own, base, strict=True))

    def median(self, name: str, connections: int, what: Callable[[Reading], float]) -> float:
        return statistics.median(map(what, self.by[name, connections]))


def servers(settings: Settings) -> list[Server]:
    def local(module: str, *flags: str, python: str = sys.executable) -> list[str]:
        return [python, "-m", f"benchmarks._http_servers.{module}", "{port}", *flags]

    def bento(python: str, service: str) -> list[str]:
        target = f"benchmarks._http_servers.bento:{service}"
        serve = [python, "-m", "bentoml", "serve", target, "--port", "{port}"]
        return [*serve, "--host", "127.0.0.1", "--working-dir", str(ROOT)]

    found = {
        BARE: local("bare"),
        OURS: local("ours"),
        BATCHED: local("ours", "batched"),
        "FastAPI, def, pydantic": local("fastapi_def"),
    }
    if settings.peers:
        for name, module in (("LitServe", "lit"), ("MLServer", "mls")):
            found[name] = local(module, python=settings.peers)
            found[f"{name}, batched"] = local(module, "batched", python=settings.peers)
    if settings.bento:
        found["BentoML"] = bento(settings.bento, "Single")
        found["BentoML, batched"] = bento(settings.bento, "Batched")
    wanted = [name for name in found if name == BARE or re.search(settings.only, name)]
    return [
        Server(name, [word.replace("{port}", str(port)) for word in found[name]], port)
        for port, name in enumerate(wanted, 18200)
    ]


def run(settings: Settings) -> Readings:
    """Measure; what does not start is left out."""
    readings = Readings()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        script = Path(folder) / "post.lua"
        script.write_text(_script())
        running: list[Server] = []
        for server in servers(settings):
            if server.start(Path(folder) / f"{server.port}.log"):
                stack.callback(server.stop)
                running.append(server)
                server.tell(signal.SIGSTOP)
        readings.names = [server.name for server in running]
        # The first run of each only warms it up.
        for number in range(settings.rounds + 1):
            for connections in CONNECTIONS:
                rng.shuffle(running)
                for server in running:
                    reading = _read(server, script, connections, settings.seconds)
                    if number:
                        readings.by.setdefault((server.name, connections), []).append(reading)
    return readings


def _script() -> str:
    return (
        f"wrk.method = 'POST'\nwrk.body = [==[{body()}]==]\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
    )


def _read(server: Server, script: Path, connections: int, seconds: float) -> Reading:
    server.tell(signal.SIGCONT)
    try:
        before = server.cpu()
        told = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "20s"),
                *("--latency", "-s", str(script), f"http://127.0.0.1:{server.port}{PATH}"),
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        spent = server.cpu() - before
    finally:
        server.tell(signal.SIGSTOP)
    answered = int(_found(r"(\d+) requests in", told))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    return Reading(
        float(_found(r"Requests/sec:\s+([\d.]+)", told)),
        spent / max(answered, 1),
        _latency("50%", told),
        _latency("99%", told),
        int(bad[1]) if bad else 0,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk said nothing of {pattern!r}:\n{text}")
    return match[1]


def _latency(share: str, text: str) -> float:
    match = re.search(rf"^\s+{share}\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"wrk told no latency:\n{text}")
    return float(match[1]) * _UNITS[match[2]]


# -- tables -------------------------------------------------------------------------------


def _possible() -> bool:
    packages = ("starlette", "uvicorn", "uvloop", "sklearn")
    return shutil.which("wrk") is not None and all(map(find_spec, packages))


@cache
def _measured() -> Readings:
    return run(_SETTINGS)


_SETTINGS = Settings()


def cases() -> list[Counted]:
    """The goals; nothing where wrk or the baseline's server is not installed."""
    if not _possible():
        sys.stderr.write("HTTP is left out: it takes wrk and the dependency group http\n")
        return []
    readings = _measured()
    found = [
        _case(
            f"Requests a second, {c} connection{'s' * (c > 1)}",
            "x bare Starlette",
            {n: readings.ratio(n, c, lambda r: r.per_second) for n in readings.names},
            floors={BATCHED: floor} if floor else {},
        )
        for c, floor in zip(CONNECTIONS, (None, 2.4, 3.5), strict=True)
    ]
    found += [
        _case(
            f"Server CPU a request, {c} connection{'s' * (c > 1)}",
            "x bare Starlette",
            {n: readings.ratio(n, c, lambda r: r.cpu) for n in readings.names},
            limits={OURS: 1.05} | ({BATCHED: 0.35} if c > 1 else {}),
        )
        for c in CONNECTIONS
    ]
    p50 = {n: readings.ratio(n, 1, lambda r: r.p50) for n in readings.names}
    limits = {OURS: 1.05, BATCHED: 1.05}
    found.append(_case("Median latency, 1 connection", "x bare Starlette", p50, limits=limits))
    return [*found, *_against_peers(readings)]


def _against_peers(readings: Readings) -> Iterator[Counted]:
    peers = [name for name in readings.names if name not in {BARE, OURS, BATCHED}]
    if not peers or BATCHED not in readings.names:
        return
    shares: dict[str, float] = {}
    for c in CONNECTIONS[1:]:
        ratios = {name: readings.ratio(name, c, lambda r: r.per_second) for name in peers}
        best = max(ratios, key=lambda name: ratios[name])
        own = readings.ratio(BATCHED, c, lambda r: r.per_second)
        shares[f"{c} connections, best: {best}"] = own / ratios[best]
    floors = dict.fromkeys(shares, 2.0)
    yield _case("Requests a second with batches", "x best peer", shares, floors=floors)


def _case(
    name: str,
    unit: str,
    values: dict[str, float],
    *,
    limits: dict[str, float] | None = None,
    floors: dict[str, float] | None = None,
) -> Counted:
    candidates = {named: (lambda value=value: value) for named, value in values.items()}
    return Counted(name, unit, candidates, limits or {}, floors or {})


def table() -> str:
    """Latencies as they were, for the eye: they are this machine's."""
    if not _possible():
        return ""
    readings = _measured()
    heads = [f"p50, c={c}" for c in CONNECTIONS] + [f"p99, c={c}" for c in CONNECTIONS]
    lines = [
        "### Latency in ms, requests a second, and replies other than 2xx",
        "",
        f"| server | {' | '.join(heads)} | req/s, c=16 | bad |",
        f"|---|{'--:|' * (len(heads) + 2)}",
    ]
    for name in readings.names:
        cells = [
            f"{readings.median(name, c, what) * 1e3:.3g}"
            for what in (lambda r: r.p50, lambda r: r.p99)
            for c in CONNECTIONS
        ]
        rate = readings.median(name, 16, lambda r: r.per_second)
        bad = sum(r.bad for c in CONNECTIONS for r in readings.by[name, c])
        lines.append(f"| {name} | {' | '.join(cells)} | {rate:.3g} | {bad} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=_SETTINGS.rounds)
    parser.add_argument("--seconds", type=float, default=_SETTINGS.seconds)
    parser.add_argument("--peers", default=_SETTINGS.peers, help="python with LitServe, MLServer")
    parser.add_argument("--bento", default=_SETTINGS.bento, help="python with BentoML")
    parser.add_argument("--only", default="", help="regular expression of names")
    for name, value in vars(parser.parse_args()).items():
        setattr(_SETTINGS, name, value)
    results: list[Result] = [result for case in cases() for result in measure(case)]
    sys.stdout.write(f"{markdown(results)}\n{table()}")


if __name__ == "__main__":
    main()
