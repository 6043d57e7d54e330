"""An LLM judge for answers that rules do not call correct: evaluation only, never the training
reward (docs/judge.md).

prompt.py (what is sent, how a reply is read), client.py (an OpenAI-compatible endpoint, cached,
within a budget), asking.py (both orders), files.py (`erpd judge`), rollouts.py (the stage that an
evaluation asks for).
"""

from tasks.evaluation.judge.client import JudgeError
from tasks.evaluation.judge.judge import OUTCOMES, JudgeItem, JudgeReport, Outcome, judge_answers

__all__ = ["OUTCOMES", "JudgeError", "JudgeItem", "JudgeReport", "Outcome", "judge_answers"]
