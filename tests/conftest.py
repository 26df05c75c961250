from __future__ import annotations

from hypothesis import settings

# How long an example takes says nothing on a machine that is shared.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
