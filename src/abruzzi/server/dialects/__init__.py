"""Wire formats, a reader and a writer each: chat completions, responses, messages, completions."""
