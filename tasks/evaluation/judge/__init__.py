"""LLM judge for answers that the rules do not call correct; only for evaluation (docs/judge.md).

Its verdicts are never the training reward.

| module | purpose |
|---|---|
| prompt.py | the prompt, and how a reply is read |
| client.py | an OpenAI-compatible endpoint, with a cache and a budget |
| judge.py | verdicts on answers, each asked in both orders |
| files.py | `erpd judge` |
| rollouts.py | the stage that an evaluation runs |
"""

from tasks.evaluation.judge.client import JudgeError
from tasks.evaluation.judge.judge import OUTCOMES, JudgeItem, JudgeReport, Outcome, judge_answers

__all__ = ["OUTCOMES", "JudgeError", "JudgeItem", "JudgeReport", "Outcome", "judge_answers"]
