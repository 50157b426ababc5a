"""Floor 3: models on the disk, in and out."""
