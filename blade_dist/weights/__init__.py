"""The weight push: learner parameters into the engines, one transport per file, proved by a log-prob probe."""
