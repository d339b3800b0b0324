"""Everything that runs: meshes, train steps, checkpoints, writers and the loop."""
