"""What each client reads, as data: one function a client, from a server to a Connection.

A client is named by its command. Sources are the clients themselves, in the versions that
tests/clients pins: their --help, their settings' schema, and what they did when they were started
on what stands here.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from abruzzi.connect.connection import ENTRY, Connection, File, Key, Places
from abruzzi.connect.server import Server
from abruzzi.types import UserError

KEY_VARIABLE = "ABRUZZI_API_KEY"
NAME = "abruzzi"


def connection(client: str, server: Server, places: Places) -> Connection:
    """The configuration of a client for a server. Raises UserError for a client that is not
    known."""
    require(client)
    return CLIENTS[client](server, places)


def require(client: str) -> None:
    """Raises UserError for a client that is not known."""
    if client not in CLIENTS:
        raise UserError(f"client {client!r} is not known; expected one of {', '.join(CLIENTS)}")


def _claude(server: Server, places: Places) -> Connection:
    env = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": server.credential,
        "ANTHROPIC_MODEL": server.model,
        # Titles, summaries and subagents ask for a small model by these names.
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": server.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": server.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": server.model,
        # Without it the window is taken for 200k or 1M tokens, and nothing is compacted in time.
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(server.context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(server.answer),
        # Tools that are not needed stay out of the prompt: 10.9k tokens instead of 17.8k.
        "ENABLE_TOOL_SEARCH": "true",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    path = places.folder("CLAUDE_CONFIG_DIR", ".claude") / "settings.json"
    settings = {("env", name): value for name, value in env.items()}
    denied = {("permissions", "deny", ENTRY): "WebSearch"}  # Anthropic's own servers run it
    return Connection(
        "claude",
        "Claude Code",
        (File(path, "json", settings | denied),),
        env,
        "claude --disallowedTools WebSearch",
        (_window(server, 12_000),),
    )


def _codex(server: Server, places: Places) -> Connection:
    provider = ("model_providers", NAME)
    settings = {
        ("model",): server.model,
        ("model_provider",): NAME,
        ("model_context_window",): server.context,
        ("web_search",): "disabled",  # OpenAI's own servers run it
        (*provider, "name"): NAME,
        (*provider, "base_url"): server.api,
        (*provider, "wire_api"): "responses",
    }
    env, notes = {}, [_window(server, 8_000)]
    if server.key:
        settings[(*provider, "env_key")] = KEY_VARIABLE
        env[KEY_VARIABLE] = server.credential
        notes.append(f"Its file names the variable that holds the key: export {KEY_VARIABLE} where it is started.")
    path = places.folder("CODEX_HOME", ".codex") / "config.toml"
    return Connection("codex", "Codex", (File(path, "toml", settings),), env, "codex", tuple(notes))


def _opencode(server: Server, places: Places) -> Connection:
    provider = ("provider", NAME)
    model = {
        "name": server.model,
        "tool_call": True,
        "reasoning": True,
        "limit": {"context": server.context, "output": server.answer},
    }
    settings = {
        (*provider, "npm"): "@ai-sdk/openai-compatible",
        (*provider, "name"): NAME,
        (*provider, "options", "baseURL"): server.api,
        (*provider, "options", "apiKey"): server.credential,
        (*provider, "models", server.model): model,
        ("model",): f"{NAME}/{server.model}",
        ("small_model",): f"{NAME}/{server.model}",
    }
    path = places.folder("XDG_CONFIG_HOME", ".config") / "opencode" / "opencode.json"
    return Connection(
        "opencode", "opencode", (File(path, "json", settings),), {}, "opencode", (_window(server, 7_000),)
    )


def _pi(server: Server, places: Places) -> Connection:
    folder = places.folder("PI_CODING_AGENT_DIR", ".pi", "agent")
    provider = ("providers", NAME)
    model = {
        "id": server.model,
        "name": server.model,
        "reasoning": True,
        "input": ["text"],
        "contextWindow": server.context,
        "maxTokens": server.answer,
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
    }
    settings = {
        (*provider, "baseUrl"): server.api,
        (*provider, "api"): "openai-completions",
        (*provider, "apiKey"): server.credential,
        (*provider, "models"): [model],
    }
    defaults: dict[Key, object] = {("defaultProvider",): NAME, ("defaultModel",): server.model}
    # It keeps 16,384 tokens for an answer and 20,000 of the newest turns: more than a small window.
    if server.context < 48_000:
        defaults[("compaction", "reserveTokens")] = server.answer
        defaults[("compaction", "keepRecentTokens")] = server.answer
    files = (File(folder / "models.json", "json", settings), File(folder / "settings.json", "json", defaults))
    return Connection("pi", "pi", files, {}, f"pi --provider {NAME} --model {shlex.quote(server.model)}", ())


def _qwen(server: Server, places: Places) -> Connection:
    folder = places.home / ".qwen"
    settings = {
        ("security", "auth", "selectedType"): "openai",
        ("security", "auth", "baseUrl"): server.api,
        ("security", "auth", "apiKey"): server.credential,
        ("model", "name"): server.model,
        ("model", "generationConfig", "contextWindowSize"): server.context,
    }
    env = {
        "OPENAI_BASE_URL": server.api,
        "OPENAI_API_KEY": server.credential,
        "OPENAI_MODEL": server.model,
    }
    return Connection(
        "qwen",
        "Qwen Code",
        (File(folder / "settings.json", "json", settings),),
        env,
        "qwen",
        (_window(server, 17_000),),
    )


def _cline(server: Server, places: Places) -> Connection:
    provider = "openai-compatible"
    entry = ("providers", provider)
    settings = {
        ("version",): 1,
        ("lastUsedProvider",): provider,
        (*entry, "settings", "provider"): provider,
        (*entry, "settings", "apiKey"): server.credential,
        (*entry, "settings", "model"): server.model,
        (*entry, "settings", "baseUrl"): server.api,
        (*entry, "settings", "contextWindow"): server.context,
        (*entry, "settings", "maxTokens"): server.answer,
        (*entry, "updatedAt"): "2026-12-01T00:00:00.000Z",  # it must be there, and decides nothing
        (*entry, "tokenSource"): "manual",
    }
    files = (File(places.home / ".cline" / "data" / "settings" / "providers.json", "json", settings),)
    return Connection("cline", "Cline", files, {}, f"cline -P {provider}", (_window(server, 5_000),))


def _aider(server: Server, places: Places) -> Connection:
    name = f"openai/{server.model}"
    metadata = places.home / ".aider.model.metadata.json"
    limits = {
        "max_tokens": server.answer,
        "max_input_tokens": server.context,
        "max_output_tokens": server.answer,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    settings = {
        ("model",): name,
        ("weak-model",): name,
        ("openai-api-base",): server.api,
        ("openai-api-key",): server.credential,
        ("model-metadata-file",): str(metadata),
    }
    files = (
        File(places.home / ".aider.conf.yml", "yaml", settings),
        File(metadata, "json", {(name,): limits}),
    )
    return Connection("aider", "aider", files, {}, "aider", ())


def _llm(server: Server, places: Places) -> Connection:
    folder = places.folder("LLM_USER_PATH", ".config", "io.datasette.llm")
    entry = {
        "model_id": NAME,
        "model_name": server.model,
        "api_base": server.api,
        "api_key_name": NAME,
        "supports_tools": True,
        "supports_schema": True,
    }
    files = (
        File(folder / "extra-openai-models.yaml", "yaml", {(ENTRY,): entry}),
        File(folder / "keys.json", "json", {(NAME,): server.credential}),
    )
    return Connection("llm", "llm", files, {}, f"llm -m {NAME} 'What is 2 + 2?'", ())


def _openwebui(server: Server, places: Places) -> Connection:
    env = {
        "OPENAI_API_BASE_URL": server.api,
        "OPENAI_API_KEY": server.credential,
        "ENABLE_OLLAMA_API": "False",
    }
    notes = (
        "In a container 127.0.0.1 is the container itself: give its host's name, and start the server with "
        "--host 0.0.0.0 --api-key KEY --allowed-host NAME.",
        "What was saved in its admin pages wins over variables: Settings, Connections.",
    )
    return Connection("openwebui", "Open WebUI", (), env, "open-webui serve", notes)


CLIENTS: dict[str, Callable[[Server, Places], Connection]] = {
    "claude": _claude,
    "codex": _codex,
    "opencode": _opencode,
    "pi": _pi,
    "qwen": _qwen,
    "cline": _cline,
    "aider": _aider,
    "llm": _llm,
    "openwebui": _openwebui,
}


def _window(server: Server, first: int) -> str:
    """What a context says of a client whose first prompt has about so many tokens."""
    if server.context >= 2 * first:
        return f"Its first prompt takes about {first:,} of the context's {server.context:,} tokens."
    return (
        f"Its first prompt takes about {first:,} tokens of Kimi's tokenizer, and this context has {server.context:,}: "
        "too few to work with it; pi and aider want the least."
    )


def shell_lines(env: dict[str, str]) -> list[str]:
    """`export` lines for a POSIX shell."""
    return [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
