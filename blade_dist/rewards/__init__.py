"""Rewards: list-wise metrics (pure, batched), their composite, and the actor that scores rollouts."""
