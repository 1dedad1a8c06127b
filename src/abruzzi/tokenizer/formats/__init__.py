"""Chat formats: messages rendered to token ids and token ids parsed to messages."""
