"""Hypothesis draws new cases at every run of a developer, and the same ones in CI, where a rare
case would hide its cause."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")
