"""Complete run configs, named for size and hardware."""
