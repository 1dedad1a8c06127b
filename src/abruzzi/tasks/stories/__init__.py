"""Word problems: plots that tell a story step by step, and the words for them."""
