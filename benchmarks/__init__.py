"""What streamlayer costs, as ratios to what one would do on plain streams. ``python -m benchmarks`` runs it.

A ratio is measured in one run: ours and its baseline take turns in each round, on one server, and medians count.
"""
