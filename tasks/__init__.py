"""Everything that touches the world: sampling, grading, scoring, training, storing, tracking.
One file per verb.
"""
