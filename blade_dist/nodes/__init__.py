"""Many nodes: who a node is, its part of the Ray cluster, one command over all of them."""
