"""Studies of trained runs: missing modalities, importance of streams, comparisons."""
