"""Consumers as processes: what runs an app's handlers, and what looks after processes that do."""
