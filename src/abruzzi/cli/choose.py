"""The model resolver: `--model M` (`nano`, a directory, org/name or an endpoint's URL) as one
ChatModel."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import typer

from abruzzi import nano_path
from abruzzi.home import home_folder
from abruzzi.types import ChatModel

WEIGHTS = typer.Option(
    "native", "--weights", help="native (as stored), int8-dense or all-4-bit: smaller and faster, less exact."
)
PRECISION = typer.Option("exact", "--precision", help="exact, or fast: 8-bit inputs of INT4 and INT8 weights.")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model to talk to. local: it runs in this process (then there is a context and no price).
    no_calls: the title of its chat format, where that has no tool calls."""

    model: ChatModel
    name: str
    local: bool
    no_calls: str = ""


def is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def checkpoint_path(model: str) -> Path:
    """The directory or GGUF file that `--model` names. Raises FileNotFoundError that says what would be
    accepted."""
    from abruzzi.checkpoint import packaged
    from abruzzi.quant.gguf_file import SUFFIX

    if model in packaged.MODELS and not Path(model).exists():
        return packaged.find(model, home_folder())
    if model != "nano" and _is_hub_name(model):
        from abruzzi.checkpoint import hub

        return hub.find(model)
    path = nano_path() if model == "nano" else Path(model).expanduser()
    if path.suffix == SUFFIX and path.is_file():
        return path
    if path.is_dir() and not (path / "config.json").is_file():
        return _only_gguf(path)
    if not (path / "config.json").is_file():
        given = f"model {model!r} is not there" if not path.exists() else f"{path} holds no config.json"
        raise FileNotFoundError(
            f"{given}; hint: --model takes `nano`, a GGUF file, a directory in Hugging Face layout, "
            "org/name or org/name@revision or `smollm2` after `abruzzi pull`, or the http(s) URL of an "
            "OpenAI-compatible server"
        )
    return path


def _only_gguf(folder: Path) -> Path:
    """The GGUF file in a directory without config.json, or the first of its shards."""
    found = sorted(p for p in folder.glob("*.gguf") if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", p.name))
    if not found:
        raise FileNotFoundError(f"{folder} holds neither config.json nor a GGUF file; hint: --model takes either")
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:8])
        raise FileNotFoundError(f"{folder} holds {len(found)} GGUF files; hint: --model with one of them: {names}")
    return found[0]


def choose(
    model: str,
    served_model: str | None = None,
    api_key: str | None = None,
    thinking: bool = True,
    weights: str = "native",
    precision: str = "exact",
) -> Chosen:
    """Build what `--model` names. weights, precision: of a local model, as
    engine/weights/packing.py names them.

    Raises ValueError, FileNotFoundError or EndpointError, each with a hint."""
    if is_url(model):
        from abruzzi.agent.client import HttpChatModel

        if (weights, precision) != ("native", "exact"):
            raise ValueError(f"--weights and --precision are for a local model; {model} runs elsewhere")
        key = api_key or os.environ.get("OPENAI_API_KEY")
        client = HttpChatModel(model, served_model or "", key)
        if not served_model:
            client.model = _only_model(client)
        return Chosen(client, client.model, local=False)
    if served_model or api_key:
        raise ValueError("--served-model and --api-key go with --model http(s)://..., not with a local model")
    from abruzzi.engine.llm import LLM
    from abruzzi.engine.weights.packing import check_modes

    path = checkpoint_path(model)
    llm = LLM.load(path, **check_modes(weights, precision))
    llm.thinking = thinking
    name = "nano" if model == "nano" else path.stem if path.is_file() else path.name
    form = llm.tokenizer.format
    return Chosen(llm, name, local=True, no_calls="" if form.calls else form.title)


def _is_hub_name(model: str) -> bool:
    """Whether the hub's cache is the place to look: org/name, and no directory of that name
    here."""
    if "/" not in model.partition("@")[0] or model.startswith((".", "/", "~")):
        return False
    from abruzzi.checkpoint import hub

    return hub.is_name(model)


def _only_model(client: object) -> str:
    from abruzzi.agent.client import EndpointError, HttpChatModel

    assert isinstance(client, HttpChatModel)
    offered = client.list_models()
    if len(offered) == 1:
        return offered[0]
    raise EndpointError(
        f"{client.base_url} offers {len(offered)} models; hint: choose one with --served-model: "
        + ", ".join(offered[:10])
    )
