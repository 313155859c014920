"""Bases and experts: their settings, the texts they read, and the loop that trains them."""
