"""From shards on disk to batches: the store and the input pipeline."""
