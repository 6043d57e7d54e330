"""Configs: one run is one frozen, printable value, a `CampaignConfig`.

Defaults are the paper's; each names its section or table. `RuntimeConfig` describes the machine and
never enters an identity. Importing this package does not import torch.
"""

from erpd_core.config.campaign import CampaignConfig, DecisionConfig, Fallback
from erpd_core.config.common import Choice, Strategy
from erpd_core.config.critic import CriticConfig
from erpd_core.config.distillation import SIDE, Addend, DistillConfig, DistillPhase, SignalSpec
from erpd_core.config.judge import JudgeConfig
from erpd_core.config.losses import (
    CE,
    CISPO,
    DISPO,
    GRPO,
    MSE,
    PPO,
    SAPO,
    SFT,
    VESPO,
    Distill,
    Loss,
    Reinforce,
    TeacherLoss,
)
from erpd_core.config.models import (
    ChatConfig,
    DirectoryModel,
    EmbeddedModel,
    HubModel,
    ModelConfig,
    PackagedModel,
    StoredModel,
)
from erpd_core.config.online import OnlineConfig
from erpd_core.config.optimizer import OptimizerConfig
from erpd_core.config.problems import (
    TEMPLATES,
    DifficultyConfig,
    Extractor,
    FileProblems,
    GymProblems,
    HubProblems,
    NamedProblems,
    OverlapConfig,
    ProblemsConfig,
    Reader,
    TinyProblems,
)
from erpd_core.config.runtime import RuntimeConfig
from erpd_core.config.sampling import EvaluationConfig, SamplingConfig
from erpd_core.config.selection import FullSelection, RaceSelection
from erpd_core.config.training import RunConfig, TrainConfig, WeakTeacherConfig

__all__ = [
    "CE",
    "CISPO",
    "DISPO",
    "GRPO",
    "MSE",
    "PPO",
    "SAPO",
    "SFT",
    "SIDE",
    "TEMPLATES",
    "VESPO",
    "Addend",
    "CampaignConfig",
    "ChatConfig",
    "Choice",
    "CriticConfig",
    "DecisionConfig",
    "DifficultyConfig",
    "DirectoryModel",
    "Distill",
    "DistillConfig",
    "DistillPhase",
    "EmbeddedModel",
    "EvaluationConfig",
    "Extractor",
    "Fallback",
    "FileProblems",
    "FullSelection",
    "GymProblems",
    "HubModel",
    "HubProblems",
    "JudgeConfig",
    "Loss",
    "ModelConfig",
    "NamedProblems",
    "OnlineConfig",
    "OptimizerConfig",
    "OverlapConfig",
    "PackagedModel",
    "ProblemsConfig",
    "RaceSelection",
    "Reader",
    "Reinforce",
    "RunConfig",
    "RuntimeConfig",
    "SamplingConfig",
    "SignalSpec",
    "StoredModel",
    "Strategy",
    "TeacherLoss",
    "TinyProblems",
    "TrainConfig",
    "WeakTeacherConfig",
]
