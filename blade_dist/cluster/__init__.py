"""Ray: a runtime for a command, and which role runs on which node."""
