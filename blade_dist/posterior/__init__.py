"""The posterior: Beta beliefs about each prompt's reward CDF, and the estimator that keeps them."""
