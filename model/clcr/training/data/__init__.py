"""Training data: manifests, prepared packs, augmentation and mixtures. See docs/data.md."""
