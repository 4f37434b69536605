"""The retrieval metric as it is published for `evaluate`: scores in, R@k and ranks out. It stands alone on the Hub."""
