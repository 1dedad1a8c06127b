"""Inference engine: continuous batching, prefix cache, sampling, constrained decoding. No torch."""
