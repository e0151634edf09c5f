"""From a checkpoint to recommendations: a self-contained export, and the lists that it answers with.

An export is a folder: a Hugging Face model at its top, beside it ``catalog/``, ``codec/`` and ``trie/``, and one
manifest, ``recommender.json``, with the rules of its lists and a checksum of every file. Nothing in it is executed.
"""
