"""The steps of a campaign: one iteration, its fixed batch, selection by validation, and what is
recorded.
"""
