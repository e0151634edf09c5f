"""The commands' stages, run by the driver: each owns the actors it starts and leaves a whole folder, or nothing."""
