"""INT4 quantization: rounding, scales and packing of K2-Thinking's routed experts."""
