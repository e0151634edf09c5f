"""Learners: the objective (pure), micro-batches (pure), the policy, and the DeepSpeed engine that steps it."""
