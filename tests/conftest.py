"""Settings of hypothesis.

A developer's runs draw new cases each time. Runs in CI draw the same cases each time, for a rare
failure there would look like a fault of the change under test.
"""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")
