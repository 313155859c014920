"""Methods of reusing trained adapters: merges, routers, and controls that must fail."""
