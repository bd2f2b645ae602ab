"""Kafka's log on the Redis you already run, from Python."""
