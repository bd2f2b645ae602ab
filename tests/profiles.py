"""How hard the property tests try: ``HYPOTHESIS_PROFILE=thorough`` for twenty times as many examples.

Import `examples` instead of writing a number into ``@settings``: a number there would win over the profile.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
SCALE = 20 if THOROUGH else 1

_CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
settings.register_profile("quick", deadline=None, print_blob=True, suppress_health_check=_CHECKS)
settings.register_profile("thorough", deadline=None, print_blob=True, suppress_health_check=_CHECKS)
settings.load_profile("thorough" if THOROUGH else "quick")


def examples(count: int) -> int:
    """Return how many examples to try where `count` are enough for a quick run."""
    return count * SCALE
