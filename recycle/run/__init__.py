"""The run folder, the environment of a run, and its progress."""
