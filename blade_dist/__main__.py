"""``python -m blade_dist``: the same program as ``blade-dist``."""

from blade_dist.cli import main

main()
