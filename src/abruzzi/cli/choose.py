"""The model resolver: `--model M` (`nano`, a directory, org/name or an endpoint's URL) as one
ChatModel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import typer

from abruzzi import nano_path
from abruzzi.types import ChatModel

WEIGHTS = typer.Option(
    "native", "--weights", help="native (as stored), int8-dense or all-4-bit: smaller and faster, less exact."
)
PRECISION = typer.Option("exact", "--precision", help="exact, or fast: 8-bit inputs of INT4 and INT8 weights.")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model to talk to. local: it runs in this process (then there is a context and no price)."""

    model: ChatModel
    name: str
    local: bool


def is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def checkpoint_path(model: str) -> Path:
    """The directory that `--model` names. Raises FileNotFoundError that says what would be
    accepted."""
    if model != "nano" and _is_hub_name(model):
        from abruzzi.checkpoint import hub

        return hub.find(model)
    path = nano_path() if model == "nano" else Path(model).expanduser()
    if not (path / "config.json").is_file():
        given = f"model {model!r} is not there" if not path.exists() else f"{path} holds no config.json"
        raise FileNotFoundError(
            f"{given}; hint: --model takes `nano`, a directory in Hugging Face layout, org/name or "
            "org/name@revision after `abruzzi pull`, or the http(s) URL of an OpenAI-compatible server"
        )
    return path


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
    return Chosen(llm, "nano" if model == "nano" else path.name, local=True)


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
