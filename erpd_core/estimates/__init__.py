"""What a campaign will cost, counted before it runs: FLOPs, bytes, memory and time. Arithmetic
only; importing it does not import torch.

shape.py (a model's dimensions), work.py (what is to be done: passes over so many tokens),
campaign.py (a config as a list of such work), machine.py (what it is done on), memory.py (what a
device must hold), cost.py (all of it put together).
"""

from erpd_core.estimates.campaign import Lengths, PlannedWork, campaign_tasks
from erpd_core.estimates.cost import Cost, costs
from erpd_core.estimates.machine import Machine
from erpd_core.estimates.memory import scoring_memory, training_memory
from erpd_core.estimates.shape import LinearAttention, ModelShape
from erpd_core.estimates.work import Counts, forward_flops, training_flops

__all__ = [
    "Cost",
    "Counts",
    "Lengths",
    "LinearAttention",
    "Machine",
    "ModelShape",
    "PlannedWork",
    "campaign_tasks",
    "costs",
    "forward_flops",
    "scoring_memory",
    "training_flops",
    "training_memory",
]
