"""What the layer costs beside its peers: python -m bench."""
