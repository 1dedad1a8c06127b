"""What INT4 means here: rounding, scales and packing of K2-Thinking's routed experts."""
