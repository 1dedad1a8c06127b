"""The commands as a person runs them: whole processes, what they print, how they end."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer

from abruzzi.agent.client import EndpointError
from abruzzi.cli import exit_codes
from abruzzi.cli import main as cli_main
from abruzzi.types import ContextFull, UserError
from tests import tiny

ABRUZZI = [sys.executable, "-c", "from abruzzi.cli.main import main; main()"]


def abruzzi(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([*ABRUZZI, *arguments], capture_output=True, text=True, input=stdin, env=env, timeout=60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("cli") / "tiny", seed=1, context=512)


def one_clear_line(done: subprocess.CompletedProcess[str], *says: str, code: int = 1) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr


def test_run_json_has_the_promised_shape(model: Path) -> None:
    done = abruzzi("run", "--json", "--model", str(model), "--max-tokens", "20", "--seed", "3", "Hi")
    assert done.returncode in (0, 3) and done.stderr == ""
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert {"answer", "reasoning", "tool_calls", "finish_reason", "usage", "timings", "cost_usd", "model"} <= set(said)
    assert set(said["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"}
    assert set(said["timings"]) == {"prefill_tok_s", "decode_tok_s", "ttft_s"}
    assert 0 < said["usage"]["completion_tokens"] <= 20
    assert said["model"] == "tiny"


def test_the_answer_goes_to_stdout_and_nothing_else_when_piped(model: Path) -> None:
    done = abruzzi("run", "--model", str(model), "--max-tokens", "12", "--no-think", "-", stdin="Hi there\n")
    assert done.returncode in (0, 3) and done.stderr == ""
    assert "\x1b" not in done.stdout


def test_a_limit_has_its_own_exit_code(model: Path) -> None:
    done = abruzzi("run", "--json", "--model", str(model), "--max-tokens", "1", "--no-think", "Hi")
    assert done.returncode == 3 and json.loads(done.stdout)["stop_reason"] in ("length", "max_steps")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("no such thing;\n hint: look"), 1, "abruzzi: no such thing; hint: look"),
        (EndpointError("http://x is down"), 1, "abruzzi: http://x is down"),
        (ContextFull("too long"), 1, "abruzzi: too long"),
        (FileNotFoundError("gone"), 1, "abruzzi: gone"),
        (KeyError("k"), 1, "abruzzi: unexpected KeyError: 'k'; hint: ABRUZZI_DEBUG=1 shows where"),
        (AssertionError(), 1, "abruzzi: unexpected AssertionError: AssertionError; hint"),
        (typer.Abort(), 130, ""),
        (typer.Exit(3), 3, ""),
        (typer.BadParameter("bad"), 2, "bad"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_every_error_has_its_exit_code_and_a_persons_mistake_no_surprise(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.delenv("ABRUZZI_DEBUG", raising=False)
    monkeypatch.setattr(cli_main, "app", fails)
    monkeypatch.setattr(cli_main, "_register", lambda app: None)
    with pytest.raises(SystemExit) as ended:
        cli_main.main()
    shown = capsys.readouterr()
    assert ended.value.code == code and shown.out == ""
    assert says in shown.err and (bool(shown.err) == bool(says))
    assert (exit_codes.OK, exit_codes.ERROR, exit_codes.USAGE, exit_codes.LIMIT, exit_codes.INTERRUPTED) == (
        0,
        1,
        2,
        3,
        130,
    )


@pytest.mark.parametrize(
    "command", [["--help"], ["run", "--help"], ["chat", "--help"], ["show", "--help"], ["doctor", "--help"]]
)
def test_help_has_an_example(command: list[str]) -> None:
    done = abruzzi(*command)
    assert done.returncode == 0
    assert "Example: abruzzi" in done.stdout or command == ["--help"]


def test_show_and_doctor_are_one_json_object(model: Path) -> None:
    shown = json.loads(abruzzi("show", str(model), "--json").stdout)
    assert shown["layers"] == 2 and shown["routed_experts_stored_as"] == "INT4, group 32"
    doctor = abruzzi("doctor", "--json")
    assert doctor.returncode == 0 and json.loads(doctor.stdout)["isa"] in ("scalar", "avx2", "avx512_vnni")
    assert json.loads(abruzzi("doctor", "--json", ABRUZZI_CPU="scalar").stdout)["isa"] == "scalar"
    broken = abruzzi("doctor", "--json", ABRUZZI_CPU="neon")
    assert broken.returncode == 1 and "'neon' is unknown" in broken.stdout


def copy(model: Path, to: Path) -> Path:
    shutil.copytree(model, to)
    return to


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt_oss"}))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def nan_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin = 8 + int.from_bytes(data[:8], "little") + header["model.norm.weight"]["data_offsets"][0]
    data[begin : begin + 2] = b"\xc0\x7f"  # bfloat16 NaN
    file.write_bytes(data)


def other_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(tiny.vocabulary(310).to_json())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "truncated"),
        (other_family, "model_type 'gpt_oss'"),
        (only_pickle, "pickle"),
        (nan_weight, "model.norm.weight holds NaN"),
        (other_tokenizer, "another checkpoint"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    ],
    ids=["truncated", "family", "pickle", "nan", "tokenizer", "config", "no tokenizer", "no weights"],
)
def test_a_damaged_checkpoint_is_one_clear_line(model: Path, tmp_path: Path, damage, says: str) -> None:
    folder = copy(model, tmp_path / "damaged")
    damage(folder)
    done = abruzzi("run", "--model", str(folder), "Hi")
    one_clear_line(done, says, "hint:")


def test_wrong_use_says_what_is_right(model: Path, tmp_path: Path) -> None:
    one_clear_line(abruzzi("run", "--model", str(tmp_path / "nowhere"), "Hi"), "is not there", "hint:")
    one_clear_line(abruzzi("run", "--model", str(model), "word " * 2000), "context holds 512", "hint:")
    one_clear_line(abruzzi("run", "--model", "http://127.0.0.1:9", "Hi"), "cannot be reached", "hint:")
    one_clear_line(abruzzi("run", "--model", str(model), "--served-model", "x", "Hi"), "--served-model")
    one_clear_line(abruzzi("run", "--model", str(model), "--table", str(tmp_path / "no.csv"), "Hi"), "no.csv")
    for empty in ("", "  \n"):
        done = abruzzi("run", "--model", str(model), empty)
        assert done.returncode == 2 and "prompt is empty" in done.stderr
    assert abruzzi("run", "--modle", "x", "Hi").returncode == 2
    assert abruzzi("fly").returncode == 2


class _Hangs(BaseHTTPRequestHandler):
    """An endpoint that says one word of its answer and then nothing more."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}}]}\n\n')
        self.wfile.flush()
        threading.Event().wait(30)

    def log_message(self, *_: object) -> None:
        pass


def obey_ctrl_c() -> None:
    """In a child: what a terminal gives it. Whoever runs the tests may ignore SIGINT (nohup, a
    background job)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("run - <&-", "stdin is closed"),
        ("chat <&-", "stdin is closed"),
        ("run hi >&-", "stdout is closed"),
        ("ls >&- <&-", "stdout is closed"),
        ("tasks --help > /dev/full", "No space left"),
        ("run - < /dev/null", "prompt is empty"),
        ("run - <<< $'\\xff'", "stdin is not text in UTF-8"),
    ],
)
def test_closed_and_broken_streams_are_named(line: str, says: str) -> None:
    command = " ".join(shlex.quote(a) for a in ABRUZZI)
    done = subprocess.run(["bash", "-c", f"{command} {line}"], capture_output=True, text=True, timeout=120)
    assert done.returncode in (1, 2) and says in done.stderr, done.stderr
    assert "unexpected" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", "2>&- <&-"])
def test_a_closed_stderr_does_not_lose_the_answer(closed: str) -> None:
    command = " ".join(shlex.quote(a) for a in ABRUZZI)
    done = subprocess.run(["bash", "-c", f"{command} --version {closed}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("abruzzi ")


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from abruzzi.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0"]
    env = {**os.environ, "ABRUZZI_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 1 and "pip install 'abruzzi[serve]'" in done.stderr, done.stderr


def test_ctrl_c_in_mid_stream_ends_with_130() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hangs) as http:
        http.daemon_threads, http.block_on_close = True, False
        threading.Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{http.server_port}"
        master, slave = pty.openpty()
        command = [*ABRUZZI, "run", "--model", url, "--served-model", "x", "Hi"]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=obey_ctrl_c)
        os.close(slave)
        shown = b""
        while b"Hello" not in shown:  # the answer has begun to stream; however long the process took to start
            shown += os.read(master, 1024)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130  # a machine short of memory may take long to end a process
        with suppress(OSError):  # the terminal closes with the process
            while piece := os.read(master, 1024):
                shown += piece
        os.close(master)
        http.shutdown()
    assert b"Traceback" not in shown and b"\x1b[?25l" not in shown  # nor is the cursor left hidden


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    line = " ".join([*(f"'{a}'" for a in ABRUZZI), "doctor", "|", "true"])
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_quantize_says_what_it_changed_and_the_torch_model_agrees(tmp_path: Path) -> None:
    """KL and agreement against the same numbers from our torch model on both checkpoints."""
    import torch

    from abruzzi import model as k2
    from abruzzi import tokenizer
    from abruzzi.cli.quantize import _conversations

    source = tiny.write(tmp_path / "wide", seed=2, int4=False)
    done = abruzzi("quantize", str(source), str(tmp_path / "int4"), "--kl-tokens", "300", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    kl, same, count = 0.0, 0, 0
    with torch.no_grad():
        for ids in _conversations(tokenizer.load(source), 256, 300):
            p, q = (
                k2.load(tmp_path / name)(torch.tensor([ids]))[0].double().log_softmax(-1) for name in ("wide", "int4")
            )
            kl += float((p.exp() * (p - q)).sum())
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
            count += len(ids)
    assert said["tokens"] == count == 300
    assert said["kl"] == pytest.approx(kl / count, rel=1e-3) and said["kl"] > 1e-3
    assert said["top1_agreement"] == pytest.approx(same / count, abs=2 / count)
    assert said["bytes_after"] < said["bytes_before"]
    one_clear_line(abruzzi("quantize", str(source), str(tmp_path / "int4")), "int4", "exist")
    one_clear_line(abruzzi("quantize", str(tmp_path / "int4"), str(tmp_path / "x")), "INT4 already", "hint")
    one_clear_line(abruzzi("quantize", str(tmp_path / "gone"), str(tmp_path / "x")), "gone", "hint")
    assert not (tmp_path / "x").exists()
