"""CLCR in PyTorch: the model, its losses, data, training and evaluation."""
