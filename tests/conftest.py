"""Threads, and settings of hypothesis.

A developer's runs draw new cases each time. Runs in CI draw the same cases each time, for a rare
failure there would look like a fault of the change under test.
"""

import os

from hypothesis import settings

# One thread: processes that share two cores spin for each other otherwise, and miniature studies
# are compared byte for byte between processes. It is set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")
