"""Checkpoints from a hub, in Hugging Face's own cache: no second copy, nothing that other tools
cannot read.

`huggingface_hub` does the listing and keeps the cache. Large files are fetched here, because the
library starts a file that was cut off from its beginning: a part file beside the blobs goes on
where it stopped, also after kill -9, and becomes a blob only when its size and SHA-256 are those
that the hub announced. Pickles and code are never fetched. `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and
`HF_HUB_OFFLINE` mean what they mean there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abruzzi.network import client_for, through

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Of the top folder only: below it lie the same weights in other formats (original/, onnx/).
_WANTED = ("*.safetensors", "*.json", "tiktoken.model", "chat_template.jinja", "*.md", "*LICENSE*", "NOTICE*")
_NEEDED = ("*.safetensors", "*.json", "tiktoken.model", "chat_template.jinja")  # to run it
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_PIECE = 1 << 20

# (file, bytes there, bytes in all): called while a file comes in.
Report = Callable[[str, int, int], None]


class HubError(OSError):
    """The hub cannot be reached, does not have it, or sent something else than it announced."""


@dataclass(frozen=True, slots=True)
class Cached:
    """One model in the cache. bytes: on disk, all revisions."""

    name: str
    path: Path
    bytes: int


def is_name(model: str) -> bool:
    """Whether this looks like org/name or org/name@revision (and is no directory here)."""
    return _NAME.fullmatch(model.partition("@")[0]) is not None and not Path(model).exists()


def pull(name: str, revision: str | None = None, report: Report | None = None) -> Path:
    """Fetch what is missing of a checkpoint; its directory in the cache. name: org/name, or
    org/name@revision.

    Raises ValueError for a name of a wrong shape and for a repository without safetensors, HubError
    (with a hint) for everything that goes wrong on the way. What had arrived by then is kept. Under
    HF_HUB_OFFLINE, what is there completely is given."""
    from huggingface_hub import HfApi, constants, set_client_factory, snapshot_download

    name, _, named = name.partition("@")
    if named and revision and named != revision:
        raise ValueError(f"{name}@{named} with --revision {revision}; expected one revision")
    revision = named or revision or "main"
    _check(name)
    if constants.HF_HUB_OFFLINE:
        with contextlib.suppress(FileNotFoundError):
            return find(f"{name}@{revision}")
    set_client_factory(_client)
    with _explained(name):
        api = HfApi()
        commit = api.model_info(name, revision=revision).sha
        tree = api.list_repo_tree(name, revision=commit, recursive=True)
        files: list[Any] = [f for f in tree if hasattr(f, "blob_id")]  # folders have none
        chosen = _wanted([f.path for f in files])
        wanted = [f for f in files if f.path in chosen]
        _check_contents(name, [f.path for f in files], chosen)
        blobs = _repo_folder(name) / "blobs"
        large = [f for f in wanted if f.lfs is not None and not (blobs / f.lfs.sha256).exists()]
        _check_disk(name, blobs, large)
        for file in large:
            _fetch(name, str(commit), file.path, blobs / file.lfs.sha256, file.lfs.size, report)
        return Path(snapshot_download(name, revision=revision, allow_patterns=[f.path for f in wanted]))


def find(name: str) -> Path:
    """The directory of a model that was pulled, org/name or org/name@revision; no network.

    Without a revision: main, or the only one that is there. Raises FileNotFoundError with a
    hint."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    name, _, revision = name.partition("@")
    _check(name)
    commit = _commit(name, revision)
    again = f"`abruzzi pull {name}{f' --revision {revision}' if revision else ''}` goes on with it"
    folder = _repo_folder(name) / "snapshots" / commit
    # What a snapshot has decides, not what another tool left out of it.
    needed: list[str] = [*_NEEDED]
    if folder.is_dir() and _is_whole(folder):
        needed = [f.name for f in folder.iterdir()]
    try:
        return Path(snapshot_download(name, revision=commit, local_files_only=True, allow_patterns=needed))
    except IncompleteSnapshotError as error:
        raise FileNotFoundError(f"{name} is not complete; hint: {again}") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(f"{name} is not on this machine; hint: abruzzi pull {name}") from error


def _commit(name: str, revision: str) -> str:
    """The commit in the cache that a branch, tag, commit or its beginning names; "" = main, or the
    only one."""
    folder = _repo_folder(name)
    files = [f for f in (folder / "refs").rglob("*") if f.is_file()]
    refs = {str(f.relative_to(folder / "refs")): f.read_text().strip() for f in files}
    commits = [f.name for f in (folder / "snapshots").iterdir()] if (folder / "snapshots").is_dir() else []
    named = {ref: commit for ref, commit in refs.items() if commit in commits}
    if not commits:
        at = f" --revision {revision}" if revision else ""
        raise FileNotFoundError(f"{name} is not on this machine; hint: abruzzi pull {name}{at}")
    asked = revision or "main"
    begun = [c for c in commits if len(asked) >= 6 and c.startswith(asked)]
    if asked in named or len(begun) == 1:
        return named.get(asked) or begun[0]
    if not revision and len(commits) == 1:
        return commits[0]
    there = sorted([*named, *(c[:12] for c in commits if c not in named.values())])
    raise FileNotFoundError(
        f"{name} is here, but not its revision {asked}; hint: --model {name}@{there[0]} (there: {', '.join(there)}), "
        f"or abruzzi pull {name} --revision {asked}"
    )


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot has what a run needs: shape, weights to the last shard, and a
    tokenizer."""
    names = {f.name for f in folder.iterdir() if f.exists()}
    if "config.json" not in names or names.isdisjoint({"tokenizer.json", "tiktoken.model"}):
        return False
    if _INDEX not in names:
        return "model.safetensors" in names
    try:
        return set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()) <= names
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # broken, not incomplete: the reader says how


def _wanted(paths: list[str]) -> set[str]:
    """The files of a repository to fetch: of weights only those that readers read, if they have the
    usual names."""
    top = {p for p in paths if "/" not in p and any(fnmatch(p, pattern) for pattern in _WANTED)}
    if any(_WEIGHTS.fullmatch(p) for p in top):
        top = {p for p in top if not p.endswith(".safetensors") or _WEIGHTS.fullmatch(p)}
    return top


def _client() -> Any:
    """The HTTP client of huggingface_hub, but for its proxies."""
    from huggingface_hub import constants
    from huggingface_hub.utils._http import hf_request_event_hook

    hooks = {"request": [hf_request_event_hook]}
    return client_for(constants.ENDPOINT, event_hooks=hooks, follow_redirects=True, timeout=None)


def cached() -> list[Cached]:
    """The models in the cache, by name."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    models = (Cached(r.repo_id, Path(r.repo_path), r.size_on_disk) for r in repos if r.repo_type == "model")
    return sorted(models, key=lambda m: m.name)


def remove(name: str) -> int:
    """Delete a model from the cache; the bytes that this freed. Raises FileNotFoundError."""
    _check(name)
    known = {m.name: m for m in cached()}
    if name not in known:
        raise FileNotFoundError(f"{name} is not on this machine; hint: `abruzzi ls` lists what is")
    shutil.rmtree(known[name].path)
    return known[name].bytes


def _check(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no model of a hub; expected org/name, for instance moonshotai/Kimi-K2-Thinking")


def _check_contents(name: str, paths: list[str], wanted: set[str]) -> None:
    if any(p.endswith(".safetensors") for p in wanted):
        return
    pickles = [p for p in paths if any(fnmatch(p, pattern) for pattern in _PICKLES)]
    why = f"only pickles ({pickles[0]}), which can run code" if pickles else "no weights"
    raise ValueError(f"{name} holds {why}; expected *.safetensors")


def _check_disk(name: str, blobs: Path, files: list[Any]) -> None:
    there = sum(_part(blobs / f.lfs.sha256).stat().st_size for f in files if _part(blobs / f.lfs.sha256).exists())
    need = sum(f.lfs.size for f in files) - there
    place = next(p for p in (blobs, *blobs.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if need > free:
        raise HubError(
            f"{name} needs {need / 1e9:.1f} GB more but {place} has {free / 1e9:.1f} GB free; "
            "hint: `abruzzi rm`, or HF_HOME on another disk"
        )


def _fetch(name: str, commit: str, path: str, blob: Path, size: int, report: Report | None) -> None:
    """One file into the blobs, going on with its part file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    blob.parent.mkdir(parents=True, exist_ok=True)
    with _part(blob).open("a+b", buffering=0) as part, _alone(part):
        if blob.exists():
            return  # another process was faster while this one waited for the lock
        digest = hashlib.sha256()
        start = _read_into(digest, part, size)
        if start < size:
            url = hf_hub_url(name, path, revision=commit)
            headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={start}-"}
            with (
                client_for(url, follow_redirects=True, timeout=60) as http,
                http.stream("GET", url, headers=headers) as answer,
            ):
                answer.raise_for_status()
                if answer.status_code != 206 and start:  # the server knows no ranges: from the beginning
                    part.truncate(0)
                    digest, start = hashlib.sha256(), 0
                for piece in answer.iter_raw():  # as it comes: a cut loses nothing that arrived
                    part.write(piece)
                    digest.update(piece)
                    start += len(piece)
                    if report is not None:
                        report(path, start, size)
        part.flush()
        os.fsync(part.fileno())
        if start != size or digest.hexdigest() != blob.name:
            part.truncate(0)
            raise HubError(
                f"{name}/{path} arrived with {start} bytes and SHA-256 {digest.hexdigest()[:12]}..., expected {size} "
                f"and {blob.name[:12]}...; hint: pull it again"
            )
        _part(blob).replace(blob)


def _read_into(digest: Any, part: FileIO, size: int) -> int:
    """Hash what is there already; how much that is. More than the whole file is thrown away."""
    part.seek(0)
    count = 0
    while piece := part.read(_PIECE):
        digest.update(piece)
        count += len(piece)
    if count > size:
        part.truncate(0)
        raise HubError(f"a part file held {count} bytes of {size}; it was emptied; hint: pull again")
    return count


def _part(blob: Path) -> Path:
    return blob.with_name(blob.name + ".part")


@contextmanager
def _alone(file: FileIO) -> Iterator[None]:
    """Hold the file's lock; the kernel gives it back when a process dies."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _repo_folder(name: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Every network error as one HubError with a hint."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise HubError(f"{name} asks for an agreement first; hint: accept it on the hub and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{name} has no such revision; hint: leave --revision out for the newest") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{name} is not at {constants.ENDPOINT}, or it is private; hint: check the name, or set HF_TOKEN"
        ) from error
    except OfflineModeIsEnabled as error:
        raise HubError(f"HF_HUB_OFFLINE is set, so {name} cannot be fetched; hint: unset it") from error
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        way = through(constants.ENDPOINT)
        raise HubError(
            f"{constants.ENDPOINT} did not give {name}{way} ({type(error).__name__}: {text}); hint: what has arrived "
            "is kept, so pull again; HF_ENDPOINT chooses another hub"
        ) from error
