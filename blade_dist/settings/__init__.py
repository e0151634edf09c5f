"""Settings: one typed tree. Every field is documented on the line below it; unknown keys are refused."""

from blade_dist.settings.inputs import (
    BuildSettings,
    CodecSettings,
    ColumnSettings,
    DataSettings,
    ListSettings,
    ModelSettings,
    SyntheticSettings,
)
from blade_dist.settings.method import RewardSettings
from blade_dist.settings.reports import Decode, EvaluateSettings, Reranker, Way
from blade_dist.settings.tree import Config
from blade_dist.settings.workers import LearnerSettings, LoraSettings, PromptsFrom, RolloutSettings, TrainSettings

__all__ = [
    "BuildSettings",
    "CodecSettings",
    "ColumnSettings",
    "Config",
    "DataSettings",
    "Decode",
    "EvaluateSettings",
    "LearnerSettings",
    "ListSettings",
    "LoraSettings",
    "ModelSettings",
    "PromptsFrom",
    "Reranker",
    "RewardSettings",
    "RolloutSettings",
    "SyntheticSettings",
    "TrainSettings",
    "Way",
]
