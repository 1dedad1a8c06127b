"""HTTP server: OpenAI's and Anthropic's dialects over one stream of typed events
(`app.make_app`)."""
