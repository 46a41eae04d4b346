"""The tasks that keep the archive: segments, checkpoints, compaction, sweeping, and the way back."""
