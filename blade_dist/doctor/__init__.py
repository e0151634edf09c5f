"""``blade-dist doctor``: can a run of these settings work here? Looks, and starts no engine and no learner."""
