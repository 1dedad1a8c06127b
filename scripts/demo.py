"""What works without a trained model: a random INT4 checkpoint, written, read, and run without torch.

    make demo

The weights are noise, so what it says is noise; that it is the right noise is what the tests check.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import abruzzi
from abruzzi import tokenizer
from abruzzi.checkpoint import open_checkpoint, save_checkpoint
from abruzzi.checkpoint.layout import expected_tensors
from abruzzi.config import ModelConfig
from abruzzi.tasks import examples
from abruzzi.tokenizer.train import train_bpe


def main() -> int:
    task = examples()[0]
    texts = [t.prompt + m.content for t in examples() for m in t.gold(True, False) if m.content]
    vocab = tokenizer.from_json(train_bpe(texts, 300), tokenizer.ChatDefaults(system="You are random."))
    config = ModelConfig(
        vocab_size=vocab.vocab_size,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        n_routed_experts=16,
        num_experts_per_tok=4,
        kv_lora_rank=32,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        max_position_embeddings=2048,
        eos_token_id=vocab.id_of("<|im_end|>"),
    )
    rng = np.random.default_rng(0)
    tensors = {n: rng.normal(0, 0.1, s.shape).astype(np.float32) for n, s in expected_tensors(config).items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random"
        files = tokenizer.chat_files(vocab, max_context=2048)
        save_checkpoint(path, config, tensors, int4=True, extra_files=files)
        with open_checkpoint(path) as checkpoint:
            packed = sum(checkpoint.is_int4(name) for name in checkpoint.names())
            size = sum(f.stat().st_size for f in checkpoint.files)
            print(f"\nwrote a random K2-architecture checkpoint: {size / 1e6:.1f} MB, {packed} expert matrices in INT4")
        llm = abruzzi.load(str(path))
        rendered = tokenizer.render(llm.tokenizer, [{"role": "user", "content": task.prompt}])
        print(f"a question becomes {len(rendered.ids)} token ids: {task.prompt}")
        start = time.perf_counter()
        completion = llm.generate(rendered.ids, max_tokens=64, temperature=1.0, seed=1)
        seconds = time.perf_counter() - start
        rate = len(completion.ids) / seconds
        print(f"{len(completion.ids)} tokens in {seconds * 1000:.0f} ms ({rate:.0f} tok/s, prompt included):")
        print(repr(llm.tokenizer.decode(completion.ids)))
        again = llm.generate(rendered.ids, max_tokens=64, temperature=1.0, seed=1)
        print(f"the same seed gives the same tokens: {again.ids == completion.ids}")
        print("\nThe weights are noise, and so is the text. A trained model is to come; --model takes your own.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
