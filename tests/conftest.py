"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A time limit for each example would measure what else the machine does.
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
