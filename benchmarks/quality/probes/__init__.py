"""Research probes: alignment in plain PyTorch, in minutes on one core, without Ray, vLLM and DeepSpeed.

They ask where alignment pays before a long run is started. The targets, rewards, re-rankers and intervals are
``blade_dist``'s own; the policy is a small one (:mod:`benchmarks.quality.probes.writer`).
"""
