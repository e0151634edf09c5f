"""Raw logs to Arrow: formats, filters, splits, prompts."""
