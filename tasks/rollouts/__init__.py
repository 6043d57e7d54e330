"""Rollouts: sampled and verified responses to problems, their log-probs, and reading them back.

A rollout is stored in shards; each is durable as soon as it is finished.

| module | purpose |
|---|---|
| sample.py, score.py | the stages: sampling with verification; log-probs of a policy on a rollout |
| samplers.py, scorers.py | the work on a shard |
| shard_workers.py | runs that work in this process or on Ray actors |
| shard.py | a shard: problems sampled as one batch |
| journal.py, meter.py | finished samples of unfinished shards; progress read from them |
| rows.py | problems -> verified rows |
| reading.py, columns.py | rows -> TokenBatch and outcomes; columns left on disk |
"""

from tasks.rollouts.reading import load_batch, outcomes, shards, to_batch
from tasks.rollouts.rows import SCHEMA, sample_and_grade, seed_of
from tasks.rollouts.sample import SampleRollouts
from tasks.rollouts.shard import shard_name

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
