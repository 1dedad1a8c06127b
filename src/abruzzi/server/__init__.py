"""HTTP: OpenAI's and Anthropic's dialects over one stream of typed events per request. `app.make_app` is the door."""
