"""Float checkpoint -> the same model with routed experts in INT4, as K2-Thinking ships."""

from __future__ import annotations

from pathlib import Path

from abruzzi.checkpoint.opening import open_checkpoint
from abruzzi.checkpoint.write import write_checkpoint

# What travels along: text files and Kimi's vocabulary. Code, pickles and the files written anew do
# not.
_CARRIED_SUFFIXES = (".json", ".jinja", ".txt", ".md")
_CARRIED_NAMES = ("tiktoken.model", "LICENSE", "NOTICE")


def quantize_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
) -> None:
    """Write `source` to `target` with INT4 experts; one tensor at a time is in memory.

    dtype: of what stays unquantized, "bfloat16" or "float32"; None = no number changes: bfloat16
    where all of it is stored so, else float32. Raises ValueError for a source that is INT4 already
    or is the target, and what reading and writing raise; the source is only read."""
    source, target = Path(source), Path(target)
    if source.is_file():
        raise ValueError(f"{source} is a file; hint: quantize takes a checkpoint directory")
    with open_checkpoint(source) as checkpoint:
        if checkpoint.config.int4 is not None:
            raise ValueError(f"{source} is stored in INT4 already; hint: quantize the bf16 checkpoint it came from")
        if not checkpoint.config.n_routed_experts:
            raise ValueError(f"{source} has no routed experts to quantize; hint: --weights all-4-bit rounds at load")
        if target.exists() and target.resolve() == source.resolve():
            raise ValueError(f"{target} is the source itself; hint: write to another directory")
        if dtype is None:
            weights = (n for n in checkpoint.names() if n.endswith(".weight"))
            only_bf16 = all(checkpoint.stored_dtype(n) == "bfloat16" for n in weights)
            dtype = "bfloat16" if only_bf16 else "float32"
        write_checkpoint(
            target,
            checkpoint.config,
            checkpoint.array,
            dtype=dtype,
            int4=True,
            max_shard_bytes=max_shard_bytes,
            extra_files=_carried(source),
            overwrite=overwrite,
        )


def _carried(source: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in sorted(source.iterdir())
        if file.is_file()
        and (file.suffix in _CARRIED_SUFFIXES or file.name in _CARRIED_NAMES)
        and file.name != "config.json"
        and not file.name.endswith(".index.json")
    }
