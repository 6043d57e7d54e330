"""Preparation of campaigns and studies: inputs are checked and hashed before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from erpd_core.config import CampaignConfig
from erpd_core.refs import Frozen
from flows.recipes.load import load_recipe
from flows.recipes.studies import Study, is_study, load_study
from tasks.datasets import DrawProblems, check_problems, draw_problems
from tasks.estimate.preflight import check_capacity, check_runtime
from tasks.models.import_policy import ImportPolicy, import_policy
from tasks.registry import open_registry
from tasks.store import identity, open_store


class PreparedCampaign(Frozen):
    """A campaign whose inputs are checked and hashed; a command makes it once and passes it on."""

    id: str
    """The same spec has the same id on every machine, so an interrupted campaign is found again."""
    config: CampaignConfig
    base: ImportPolicy
    """Imports the base model."""


def prepare_campaign(config: CampaignConfig) -> PreparedCampaign:
    """Check a campaign's inputs, and compute its identity from them.

    **Raises:** ValueError for a damaged registry, or for a runtime, model or data file that cannot
        work here or on the cluster it is meant for.
    """
    check_runtime(config.runtime)
    base = import_policy(config.model)
    sources = _draws(config)
    for stage in sources.values():
        check_problems(stage.source, 0)
    if mirror := open_store().mirror:
        mirror.check()
    check_capacity(config)
    # Last, because this creates the registry of a new home.
    with closing(open_registry()) as registry:
        registry.check()
    return PreparedCampaign(id=_identity(config, base, sources), config=config, base=base)


class PreparedStudy(Frozen):
    """A study whose arms are prepared."""

    id: str
    """Studies with the same arms have the same id."""
    study: Study
    arms: dict[str, PreparedCampaign]

    @property
    def campaigns(self) -> dict[str, str]:
        """Arm -> the identity of its campaign."""
        return {arm: campaign.id for arm, campaign in self.arms.items()}


def prepare_study(study: Study) -> PreparedStudy:
    """Prepare every arm of a study.

    **Raises:** ValueError as `prepare_campaign` does.
    """
    arms = {arm.name: prepare_campaign(arm.config) for arm in study.arms}
    spec = {arm: campaign.id for arm, campaign in arms.items()}
    id = f"{study.name}-{study.scale}-{identity('study', spec, {}, 1)[-10:]}"
    return PreparedStudy(id=id, study=study, arms=arms)


def prepare_run(recipe: str, overrides: Sequence[str]) -> PreparedCampaign | PreparedStudy:
    """Load the recipe of a campaign or a study, and prepare it.

    **Raises:** ValueError, in one line: what is wrong, where, and how to fix it.
    """
    if is_study(recipe):
        return prepare_study(load_study(recipe, overrides))
    return prepare_campaign(load_recipe(recipe, overrides))


def study_campaigns(study: Study) -> dict[str, str]:
    """Arm -> the identity of its campaign, for a study whose inputs are not checked."""
    return {arm.name: campaign_id(arm.config) for arm in study.arms}


def campaign_id(config: CampaignConfig) -> str:
    """The identity of a campaign, for a config whose inputs are not checked."""
    return _identity(config, import_policy(config.model), _draws(config))


def _draws(config: CampaignConfig) -> dict[str, DrawProblems]:
    evaluation = config.evaluation
    sources = {
        "prompts": config.prompts,
        "validation": evaluation.validation,
        **evaluation.benchmarks,
    }
    return {name: draw_problems(name, source, 0) for name, source in sources.items()}


def _identity(config: CampaignConfig, base: ImportPolicy, draws: dict[str, DrawProblems]) -> str:
    """The identity of a campaign, in which model and data count by their bytes, not their paths.

    `iterations` does not count: more of them continue the same campaign.
    """
    spec = config.spec() | {"model": base.identity()}
    spec |= {"sources": {name: stage.spec() for name, stage in draws.items()}}
    informative = config.prompts.informative
    spec["prompts"] = {"informative": informative} if informative else None
    del spec["iterations"]
    judge = {}
    if config.evaluation.judge:
        from tasks.evaluation.judge.prompt import judge_spec  # slow to import

        judge = {"judge": judge_spec(config.evaluation.judge)}
    by_files = {"validation", "benchmarks", "judge"}
    kept = {key: value for key, value in spec["evaluation"].items() if key not in by_files}
    spec["evaluation"] = kept | judge
    return f"{config.name}-{identity('campaign', spec, {}, 1)[-10:]}"
