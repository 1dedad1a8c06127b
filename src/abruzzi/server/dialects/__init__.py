"""Wire formats: one reader and one writer a dialect (chat completions, responses, messages, completions)."""
