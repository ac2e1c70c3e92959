"""From a trained CLCR to a bundle of ONNX graphs, with proof that they compute the same."""

__version__ = "0.1.0"
