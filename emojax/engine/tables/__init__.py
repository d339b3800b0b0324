"""Tables of the papers: plans, trainings, scores and how they are printed."""
