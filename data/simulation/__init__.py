"""The simulated Aff-Wild2: its generative process, its extractors and its exact optimum.

``processes`` draws videos with ``draws``, ``sensors`` embeds them in features, ``presets`` and
``sizes`` hold the parameters. ``optimum`` computes the posterior with ``kalman`` and ``markov``,
and ``bounds`` a lower bound. Start with ``processes``.
"""
