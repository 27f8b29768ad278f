"""Registry: what a registration, a verified load and an alias cost beside plain files."""

import hashlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.runner import Case, main
from prodml.events import Stream
from prodml.registry import ModelRegistry, SigningKey

LARGE = os.urandom(16 * 2**20)
SMALL = {"bias": 0.2, "weights": [0.5] * 20}


def registry(place, **settings):
    return ModelRegistry(place, events=Stream(), **settings)


def filled(place, **settings):
    made = registry(place, **settings)
    for _ in range(2):
        made.register("small", SMALL, {"auc": 0.9})
    made.register("large", LARGE)
    made.alias("small", "champion", "1")
    made.alias("large", "champion", "1")
    return made


def by_hand(folder):
    """A file that is written aside and renamed, and a pointer file: no check, no history."""
    model, pointer = folder / "model.json", folder / "champion"

    def save(file, text):
        aside = file.with_suffix(".tmp")
        with aside.open("w") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        aside.replace(file)

    save(model, json.dumps(SMALL))
    save(pointer, "model.json")
    (folder / "large").write_bytes(LARGE)
    return {
        "save": lambda: save(model, json.dumps(SMALL)),
        "point": lambda: save(pointer, "model.json"),
        "read": pointer.read_text,
        "load": lambda: json.loads((folder / pointer.read_text()).read_bytes()),
        "large": (folder / "large").read_bytes,
        "hash": lambda: hashlib.sha256((folder / "large").read_bytes()).hexdigest(),
    }


def moving(made):
    turn = iter(range(10**9))
    return lambda: made.alias("small", "champion", "12"[next(turn) % 2])


def cases():
    folder = Path(tempfile.mkdtemp())
    warnings.simplefilter("ignore")
    (folder / "hand").mkdir()
    hand = by_hand(folder / "hand")
    key = SigningKey.generate()
    files = filled(folder / "files")
    sqlite = filled(f"sqlite:///{folder}/models.db")
    signed = filled(folder / "signed", signer=key, trusted=[key.public])
    watched = {
        "files": files.watch("small", "champion"),
        "sqlite": sqlite.watch("small", "champion"),
    }
    return [
        Case(
            "Loading a 16 MB model by its alias",
            "read and hash",
            {
                "read alone": hand["large"],
                "read and hash": hand["hash"],
                "registry": lambda: files.load("large", "champion"),
                "registry, signature checked": lambda: signed.load("large", "champion"),
                "registry in SQLite": lambda: sqlite.load("large", "champion"),
            },
            limits={"registry": 1.10, "registry, signature checked": 1.15},
            rounds=15,
        ),
        Case(
            "Loading a small model by its alias",
            "two files, nothing checked",
            {
                "two files, nothing checked": hand["load"],
                "registry": lambda: files.load("small", "champion"),
                "registry, signature checked": lambda: signed.load("small", "champion"),
                "registry in SQLite": lambda: sqlite.load("small", "champion"),
            },
        ),
        Case(
            "Asking whether an alias has moved",
            "read a pointer file",
            {
                "read a pointer file": hand["read"],
                "watch.changed(since)": lambda: watched["files"].changed(since=10**9),
                "watch.changed(since), SQLite": lambda: watched["sqlite"].changed(since=10**9),
                "which version": lambda: files.aliases("small"),
                "resolve": lambda: files.resolve("small", "champion"),
            },
            limits={"watch.changed(since)": 1.0},
        ),
        Case(
            "Registering a small model (CPU; the disk comes on top)",
            "one file, written aside and renamed",
            {
                "one file, written aside and renamed": hand["save"],
                "registry": lambda: files.register("more", SMALL),
                "registry, signed": lambda: signed.register("more", SMALL),
                "registry in SQLite": lambda: sqlite.register("more", SMALL),
            },
        ),
        Case(
            "Moving an alias (CPU; the disk comes on top)",
            "one file, written aside and renamed",
            {
                "one file, written aside and renamed": hand["point"],
                "registry": moving(files),
                "registry in SQLite": moving(sqlite),
            },
        ),
    ]


if __name__ == "__main__":
    main(cases())
