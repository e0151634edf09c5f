"""Held-out evaluation: baselines, metrics per user and over all users, intervals, the table."""
