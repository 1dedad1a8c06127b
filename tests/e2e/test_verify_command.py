"""`abruzzi verify` as a person runs it: table, JSON, page, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.verify_toy_server import Endpoint

ABRUZZI = [sys.executable, "-c", "from abruzzi.cli.main import main; main()"]
FEW = ["--only", "chat", "--only", "stream_usage", "--only", "schema_accuracy", "--only", "tool_call_f1", "--only", "n"]


def abruzzi(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"} | {"COLUMNS": "160"}
    return subprocess.run([*ABRUZZI, *arguments], capture_output=True, text=True, env=env, timeout=120)


@pytest.fixture
def good() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def bad() -> Iterator[Endpoint]:
    endpoint = Endpoint("never_calls", "refuses_n", "usage_twice")
    yield endpoint
    endpoint.close()


def test_json_has_the_promised_shape(good: Endpoint, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = abruzzi("verify", "--base-url", good.url, "--json", "--suite", "quick", "--html", str(page), *FEW)
    assert done.returncode == 0 and done.stderr == ""
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert {"checks", "schema_accuracy", "tool_call_f1", "ok"} <= set(said)
    assert said["ok"] is True and said["schema_accuracy"] == said["tool_call_f1"] == 1.0
    assert said["model"] == "toy"  # the only one offered
    for check in said["checks"]:
        assert {"name", "passed", "total", "examples"} <= set(check) and check["passed"] == check["total"] > 0
        assert {"problem", "exchanges"} <= set(check["examples"][0])
    assert "toy" in page.read_text(encoding="utf-8")


def test_a_server_that_is_not_ok(bad: Endpoint) -> None:
    done = abruzzi("verify", "--base-url", bad.url + "/v1", "--suite", "quick", *FEW)
    assert done.returncode == 1 and done.stderr == ""
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "pass" in rows["chat"] and "fail" in rows["stream_usage"] and "expected the last" in rows["stream_usage"]
    assert "unsupported" in rows["n"] and "n is not supported" in rows["n"]
    assert "fail" in rows["tool_call_f1"] and "unsupported" in rows["schema_accuracy"]
    assert (
        "not ok; 1 passed, 1 failed (and 1 by the model, not the server), 2 unsupported" in done.stdout
        and "\x1b" not in done.stdout
    )


def test_files_are_asked_as_they_are(good: Endpoint, tmp_path: Path) -> None:
    requests, schemas = tmp_path / "requests.jsonl", tmp_path / "schemas.jsonl"
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    lines = [
        {"request": {"messages": [{"role": "_input", "content": "Be kind."}, {"role": "user", "content": text}],
                     "tools": [tool], "stream": stream, "temperature": 0.6}, "finish_reason": truth}
        for text, stream, truth in (("look it up", True, "tool_calls"), ("look!", False, "stop"), ("hi", False, "stop"))
    ]  # fmt: skip
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    schemas.write_text('{"type": "array", "items": {"type": "boolean"}, "minItems": 2}\n')
    chosen = ["--only", "schema_accuracy", "--only", "tool_call_f1", "--only", "schema_cases", "--min-f1", "0.6"]
    files = ["--requests", str(requests), "--schemas", str(schemas)]
    done = abruzzi("verify", "--base-url", good.url, "--served-model", "toy", "--json", *files, *chosen)
    said = json.loads(done.stdout)
    # TP 1 (looked up), FP 1 (looked up although the truth is stop), TN 1.
    assert said["tool_call_f1"] == pytest.approx(2 / 3) and said["schema_accuracy"] == 1.0 and done.returncode == 0
    assert {c["name"]: c["total"] for c in said["checks"]}["schema_cases"] == 1
    asked = [b for b in good.asked if b.get("temperature") == 0.6]
    assert len(asked) == 3 and all(b["model"] == "toy" and b["messages"][0]["role"] == "system" for b in asked)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--base-url", "127.0.0.1:1"], "must start with http"),
        (["--base-url", "http://127.0.0.1:1"], "cannot be reached"),
        (["--base-url", "http://127.0.0.1:1", "--served-model", "m", "--suite", "huge"], "expected one of quick, full"),
        (["--base-url", "http://127.0.0.1:1", "--served-model", "m", "--only", "chatt"], "no check is called 'chatt'"),
        (["--base-url", "http://127.0.0.1:1", "--html", "no/such/dir/x.html"], "there is no directory"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], says: str) -> None:
    done = abruzzi("verify", *arguments)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert says in line
