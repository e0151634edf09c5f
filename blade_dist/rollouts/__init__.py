"""Rollouts: vLLM engines in Ray actors that write candidate lists."""
