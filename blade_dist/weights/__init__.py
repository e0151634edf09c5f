"""The weight push: learner parameters into the engines, one transport per file, checked by a log-prob probe."""
