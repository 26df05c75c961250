from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes says nothing on a machine that is shared.
# A machine that stands still for a second while data is made is no fault of the data.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")
