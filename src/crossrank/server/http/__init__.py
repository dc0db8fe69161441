"""What speaks HTTP: routes, dialects, limits, keys, logs."""
