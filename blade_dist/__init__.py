"""BLADE: Bayesian list-wise alignment of LLM recommenders, distributed."""

__version__ = "0.1.0"
