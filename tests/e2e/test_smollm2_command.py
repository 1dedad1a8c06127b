"""A real GGUF model at the command line: named, as a file, as the directory that holds it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ABRUZZI = str(Path(sys.executable).with_name("abruzzi"))


def abruzzi(*arguments: str, code: int = 0) -> str:
    done = subprocess.run([ABRUZZI, *arguments], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_it_answers_by_name_by_file_and_by_directory(smollm2: Path) -> None:
    for model in ("smollm2", str(smollm2), str(smollm2.parent)):
        asked = ("What is the capital of France?", "--model", model, "--temperature", "0", "--json")
        said = json.loads(abruzzi("run", *asked))
        assert said["answer"] == "The capital of France is Paris." and said["finish_reason"] == "stop"


def test_it_is_listed_shown_and_fitted(smollm2: Path) -> None:
    listed = [json.loads(line) for line in abruzzi("ls", "--json").splitlines()]
    assert {"model": "smollm2", "path": str(smollm2), "bytes": 98_362_432, "packed_bytes": 0} in listed
    shown = json.loads(abruzzi("show", "smollm2", "--json"))
    assert shown["parameters"] == 134_515_008 and shown["chat_format"] == "ChatML"
    assert shown["stored_as"] == "q4_1 (79%), q8_0 (21%)" and shown["experts"] == "none"
    fits = json.loads(abruzzi("fit", "smollm2", "--json"))
    assert fits["fits"] and 200e6 < fits["weights_bytes"] < 220e6  # codes as they are, the embedding in float32


def test_without_calls_it_gets_no_tools_and_refuses_those_that_were_asked_for(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("item,price\napple,3\n")
    said = abruzzi("run", "Which?", "--model", "smollm2", "--table", str(tmp_path / "t.csv"), code=1)
    assert "cannot use --table or --files: its chat format, ChatML, has no calls" in said


def test_a_directory_with_two_files_names_them(smollm2: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(smollm2, tmp_path / name)
    said = abruzzi("run", "Hi", "--model", str(tmp_path), code=1)
    assert "holds 2 GGUF files; hint: --model with one of them: a.gguf, b.gguf" in said
    (tmp_path / "none").mkdir()
    assert "neither config.json nor a GGUF file" in abruzzi("run", "Hi", "--model", str(tmp_path / "none"), code=1)


def test_what_is_for_directories_says_so(smollm2: Path, tmp_path: Path) -> None:
    assert "quantize takes a checkpoint directory" in abruzzi("quantize", str(smollm2), str(tmp_path / "o"), code=1)
