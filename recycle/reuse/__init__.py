"""What can be done with trained adapters: merges, routers, and controls that must fail."""
