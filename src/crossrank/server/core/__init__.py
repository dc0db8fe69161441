"""From an accepted request to its scores: queues, fairness, admission, engines."""
