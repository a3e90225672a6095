"""Images as chains of patches: datasets, patches, augmentation, batches. No Lightning."""
