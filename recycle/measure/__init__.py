"""Questions to a model, the answers counted, and looks inside the model while it answers."""
