"""Audit: will these adapters merge, how, and will each still do its job? Only what is measured."""
