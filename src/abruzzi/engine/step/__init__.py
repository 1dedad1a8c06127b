"""Forward step: batches of chunks and the KV cache in, logits out; the NumPy twin and the compiled
one."""
