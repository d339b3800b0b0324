"""The simulated Aff-Wild2: its generative process, its extractors and its exact optimum."""
