"""Prompts x policy -> graded samples, in shards that are durable one by one, and back into a
TokenBatch.

stage.py (the stage), samplers.py (who samples: this process, or actors that may die), journal.py
(finished samples of the shard in hand), meter.py (how far it is), shard.py, rows.py (problems ->
verified rows), reading.py (rows -> TokenBatch, outcomes).
"""

from tasks.rollouts.reading import load_batch, outcomes, shards, to_batch
from tasks.rollouts.rows import SCHEMA, sample_and_grade, seed_of
from tasks.rollouts.shard import shard_name
from tasks.rollouts.stage import SampleRollouts

__all__ = [
    "SCHEMA",
    "SampleRollouts",
    "load_batch",
    "outcomes",
    "sample_and_grade",
    "seed_of",
    "shard_name",
    "shards",
    "to_batch",
]
