"""Evaluations on the benchmarks, which run beside the next iteration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import TypeVar

from erpd_core.config import CampaignConfig
from erpd_core.refs import EvalReport, PolicyRef, ProblemsRef
from flows.steps.context import seed_for
from flows.steps.recorder import CampaignRecorder, PendingResults, StageCall
from tasks.evaluation.evaluate import EvaluatePolicy

Result = TypeVar("Result")
_lock = threading.Lock()
_open: dict[str, Evaluations] = {}
"""Campaign -> its evaluations in this process."""


@dataclass(frozen=True)
class _Running:
    stage: EvaluatePolicy
    role: str
    recorder: CampaignRecorder
    results: PendingResults[EvalReport]


class Evaluations:
    """Evaluates policies of a campaign on the benchmarks, and records the reports in order.

    No decision rests on a benchmark, so nothing waits for these stages before the campaign's end.
    They belong to the campaign's flow, in which this object has to be made, and outlive the flows
    of iterations.
    """

    def __init__(
        self,
        config: CampaignConfig,
        base: PolicyRef,
        benchmarks: Mapping[str, ProblemsRef],
        recorder: CampaignRecorder,
    ) -> None:
        self.config, self.base, self.benchmarks, self.recorder = config, base, benchmarks, recorder
        self.meanwhile: Callable[[], object] = self.record_ended
        """Called in the campaign's flow about every second while an iteration waits."""
        self._flow = copy_context()
        self._in_flow = False
        self._recorders: dict[int, CampaignRecorder] = {}
        self._running: list[_Running] = []
        self._reports: dict[int, dict[str, EvalReport]] = {}
        with _lock:
            _open[recorder.campaign] = self

    @classmethod
    def of(cls, campaign: str) -> Evaluations:
        """The evaluations of a campaign that runs in this process."""
        with _lock:
            return _open[campaign]

    def recorder_of(self, iteration: int) -> CampaignRecorder:
        """The recorder of an iteration; while it waits, ended evaluations are recorded."""
        return replace(
            self.recorder.at(iteration), meanwhile=lambda: self._run_in_flow(self.meanwhile)
        )

    def close(self) -> None:
        """Forget the campaign."""
        with _lock:
            _open.pop(self.recorder.campaign, None)

    def start(self, iteration: int, role: str, policy: PolicyRef, old: PolicyRef) -> None:
        """Start the evaluation of a policy; `old` is the start of its iteration."""
        evaluation = self.config.evaluation
        stage = EvaluatePolicy(
            policy=policy,
            old=old,
            base=self.base,
            benchmarks=dict(self.benchmarks),
            sampling=evaluation.sampling,
            samples=evaluation.samples,
            judge=evaluation.judge,
            seed=seed_for(self.config, 0, "benchmarks"),
        )
        recorder = self._recorders.setdefault(iteration, self.recorder.at(iteration))
        call = StageCall(stage, f"evaluate {role}", f"{role} evaluation")
        results = self._run_in_flow(lambda: recorder.start([call]))
        self._running.append(_Running(stage, role, recorder, results))

    def record_ended(self) -> None:
        """Record the reports that are there, up to the first that is not."""
        while self._running and self._running[0].results.ended:
            self._record_first()

    def reports(self, iteration: int) -> dict[str, EvalReport]:
        """Role -> report of an iteration's policies; waits for them."""
        while any(running.recorder.iteration == iteration for running in self._running):
            self._record_first()
        return self._reports.get(iteration, {})

    def complete(self, iteration: int) -> bool:
        """Whether all reports of an iteration are recorded."""
        return all(running.recorder.iteration != iteration for running in self._running)

    def wait(self) -> None:
        """Wait for all evaluations, and record them."""
        while self._running:
            self._run_in_flow(self._record_first)

    def seconds(self, iteration: int) -> Mapping[str, float]:
        """Phase -> seconds of an iteration's evaluations so far."""
        recorder = self._recorders.get(iteration)
        return recorder.seconds if recorder else {}

    def _run_in_flow(self, act: Callable[[], Result]) -> Result:
        """Call `act` in the context of the campaign's flow, also from the flow of an iteration."""
        if self._in_flow:
            return act()
        self._in_flow = True
        try:
            return self._flow.run(act)
        finally:
            self._in_flow = False

    def _record_first(self) -> None:
        running = self._running[0]
        (report,) = running.results()
        del self._running[0]
        running.recorder.record_report(running.role, report, running.stage)
        self._reports.setdefault(running.recorder.iteration, {})[running.role] = report
