"""Estimates of what a campaign costs, before it runs: FLOPs, bytes, memory and time.

Arithmetic only; importing it does not import torch. shape.py has the dimensions of a model, work.py
the tokens and pairs of a pass, campaign.py a config as a list of planned work, machine.py the
hardware, memory.py the memory of a device, and cost.py combines them.
"""

from erpd_core.estimates.campaign import Lengths, PlannedWork, planned_work
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
    "costs",
    "forward_flops",
    "planned_work",
    "scoring_memory",
    "training_flops",
    "training_memory",
]
