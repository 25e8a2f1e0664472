"""What answers a conversation: models, chat templates, parsers, token engines and endpoints."""
