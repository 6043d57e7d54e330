"""Recipes: shipped ones load, `extends` and overrides merge, and errors are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erpd_core.config import CE, SAPO, CampaignConfig, FileProblems, TinyProblems
from flows.recipes.load import load_recipe, recipe_names
from flows.recipes.paper import load_paper
from flows.recipes.studies import is_study, load_study

MINIMAL = """
model: {kind: embedded}
prompts: {kind: tiny}
evaluation:
  validation: {kind: tiny, split: validation}
  benchmarks: {test: {kind: tiny, split: test}}
"""


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def complaint(name: str, *overrides: str) -> str:
    """The one-line error that a user reads."""
    with pytest.raises(ValueError) as caught:
        load_recipe(name, overrides)
    message = str(caught.value)
    assert "\n" not in message, message
    assert len(message) < 500
    return message


# --------------------------------------------------------------------------------------- what loads


def test_the_default_recipe_is_there():
    assert "tiny" in recipe_names()


CAMPAIGNS = [name for name in recipe_names() if not is_study(name)]
STUDIES = [name for name in recipe_names() if is_study(name)]


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_every_recipe_that_ships_loads_and_says_what_it_is(name: str):
    config = load_recipe(name)
    assert config.name == name
    assert config.description and "\n" not in config.description.strip()
    assert (
        CampaignConfig.model_validate(
            yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
        )
        == config
    )


@pytest.mark.parametrize("scale", ["tiny", "smollm2", "paper"])
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_loads_at_every_scale(name: str, scale: str):
    study = load_study(name, [f"scale={scale}"])
    assert study.arms and study.description and "\n" not in study.description
    assert len({arm.config.name for arm in study.arms}) == len(study.arms)
    assert {"embedded": "tiny", "packaged": "smollm2", "hub": "paper"}[
        study.arms[0].config.model.kind
    ] == scale


def test_every_table_and_figure_of_the_paper_is_a_study():
    assert set(STUDIES) == {
        *(f"table{number}" for number in range(1, 13)),
        "fig4",
        "fig5",
        "fig6",
        "fig7",
        "fig8",
    }


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_names_rows_that_the_paper_has(name: str):
    table = load_paper(name)
    known = (
        {row.key for row in table.rows}
        | {f"{row.group}:{row.key}" for row in table.rows}
        | table.values.keys()
    )
    for scale in ("tiny", "smollm2", "paper"):
        for arm in load_study(name, [f"scale={scale}"]).arms:
            assert set(arm.rows.values()) <= known, arm.name


def test_overrides_reach_every_arm_and_scale_is_checked():
    study = load_study("table5", ["seed=7"])
    assert {arm.config.seed for arm in study.arms} == {7}
    with pytest.raises(ValueError, match="choose one of"):
        load_study("table5", ["scale=huge"])


def test_a_study_is_no_campaign():
    assert "study" in complaint("table7")


def test_a_recipe_file_is_named_after_itself_and_has_the_papers_defaults(tmp_path: Path):
    config = load_recipe(write(tmp_path, MINIMAL))
    assert config.name == "mine"
    assert (config.sampling.samples, config.sampling.temperature, config.teacher.loss) == (
        16,
        0.6,
        SAPO(),
    )
    assert config.distill.steps == 10


def test_extends_merges_mappings_and_keeps_the_rest(tmp_path: Path):
    config = load_recipe(
        write(tmp_path, "extends: tiny\nteacher: {steps: 33, keep: []}\nname: other\n")
    )
    tiny = load_recipe("tiny")
    assert (config.name, config.teacher.steps, config.teacher.keep) == ("other", 33, ())
    assert config.teacher.optimizer == tiny.teacher.optimizer
    assert config.prompts == tiny.prompts and config.evaluation == tiny.evaluation


def test_extends_reaches_a_file_beside_and_through_several(tmp_path: Path):
    write(tmp_path, MINIMAL + "seed: 1\niterations: 2\n", "grandparent.yaml")
    write(tmp_path, "extends: grandparent.yaml\nseed: 2\nsampling: {samples: 4}\n", "parent.yaml")
    config = load_recipe(write(tmp_path, "extends: parent.yaml\nsampling: {temperature: 0.9}\n"))
    assert (
        config.seed,
        config.iterations,
        config.sampling.samples,
        config.sampling.temperature,
    ) == (2, 2, 4, 0.9)


def test_another_kind_replaces_the_section_below(tmp_path: Path):
    """`split` and `count` have no meaning for a file and must not leak into it."""
    config = load_recipe(
        write(
            tmp_path,
            "extends: tiny\nprompts: {kind: file, path: p.jsonl}\nteacher: {loss: {kind: sapo}}\n",
        )
    )
    assert config.prompts == FileProblems(path="p.jsonl")
    assert config.teacher.loss == SAPO()


def test_the_same_kind_is_merged(tmp_path: Path):
    below = write(
        tmp_path,
        MINIMAL + "teacher: {loss: {kind: ce, beta: 0.2, aggregate: mean}}\n",
        "below.yaml",
    )
    assert load_recipe(below, ["teacher.loss.beta=0.3"]).teacher.loss == CE(
        beta=0.3, aggregate="mean"
    )
    config = load_recipe(
        write(
            tmp_path,
            "extends: below.yaml\nteacher: {loss: {kind: ce, beta: 0.4}}\nprompts: {kind: tiny, "
            "count: 9}\n",
        )
    )
    assert config.teacher.loss == CE(beta=0.4, aggregate="mean")
    assert isinstance(config.prompts, TinyProblems) and config.prompts.count == 9


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("seed=3", lambda c: c.seed == 3),
        ("teacher.optimizer.lr=1e-4", lambda c: c.teacher.optimizer.lr == 1e-4),
        ("teacher.optimizer.lr=3.0e-5", lambda c: c.teacher.optimizer.lr == 3e-5),
        ("teacher.keep=[3, 5]", lambda c: c.teacher.keep == (3, 5)),
        ("runtime.ray=off", lambda c: c.runtime.ray == "off"),
        ("runtime.ray=on", lambda c: c.runtime.ray == "on"),
        ("runtime.cpus=1", lambda c: c.runtime.cpus == 1),
        ("runtime.cpus=null", lambda c: c.runtime.cpus is None),
        ("teacher.loss={kind: sapo, tau_neg: 2}", lambda c: c.teacher.loss == SAPO(tau_neg=2)),
        ("description=a = b", lambda c: c.description == "a = b"),
        ("name=7up", lambda c: c.name == "7up"),
        (
            "evaluation.benchmarks.more={kind: tiny, split: test}",
            lambda c: set(c.evaluation.benchmarks) == {"test", "more"},
        ),
    ],
)
def test_overrides_read_as_yaml(override: str, read):
    assert read(load_recipe("tiny", [override, "teacher.steps=60"]))


def test_the_last_override_wins():
    assert load_recipe("tiny", ["seed=1", "seed=2"]).seed == 2


# ------------------------------------------------------------------------------------------- errors


def test_a_wrong_name_names_the_right_ones():
    message = complaint("tinny")
    assert "'tinny'" in message and "tiny" in message.replace("tinny", "")


def test_a_recipe_file_that_is_not_there(tmp_path: Path):
    message = complaint(str(tmp_path / "nope.yaml"))
    assert "nope.yaml" in message and "tiny" in message


def test_broken_yaml_names_file_and_line(tmp_path: Path):
    message = complaint(write(tmp_path, "name: a\nmodel:\n  kind: embedded\n oops: [1\n"))
    assert "mine.yaml" in message and "line 4" in message


def test_a_tab_names_its_line(tmp_path: Path):
    assert "line 2" in complaint(write(tmp_path, "model:\n\tkind: embedded\n"))


@pytest.mark.parametrize(
    ("text", "found"),
    [("- a\n- b\n", "list"), ("just words\n", "str"), ("", "NoneType"), ("3\n", "int")],
)
def test_a_recipe_is_a_mapping(tmp_path: Path, text: str, found: str):
    message = complaint(write(tmp_path, text))
    assert "mine.yaml" in message and found in message


def test_bytes_that_are_not_text(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    assert "mine.yaml" in complaint(str(path))


def test_an_unknown_key_is_placed():
    assert "teacher.stepz: unknown key" in complaint("tiny", "teacher.stepz=3")
    assert "colour: unknown key" in complaint("tiny", "colour=red")


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("teacher.steps=many", "teacher.steps"),
        ("teacher.steps=0", "teacher.steps"),
        ("iterations=-1", "iterations"),
        ("sampling.top_p=1.5", "sampling.top_p"),
        ("teacher.loss={kind: magic}", "teacher.loss"),
        ("runtime.ray=maybe", "runtime.ray"),
        ("runtime.ray=3", "runtime.ray"),
        ("teacher=5", "teacher"),
        ("model={kind: directory}", "model"),
        ("evaluation.benchmarks={}", "benchmarks"),
        ("evaluation.benchmarks={validation: {kind: tiny}}", "validation"),
        ("prompts.template=no place", "prompts"),
        ("teacher.keep=[999]", "keep"),
        ("name=With Spaces", "name"),
    ],
)
def test_a_wrong_value_is_placed(override: str, place: str):
    assert place in complaint("tiny", override)


def test_what_is_missing_is_named(tmp_path: Path):
    message = complaint(write(tmp_path, "name: a\n"))
    assert all(f"{part}: is missing" in message for part in ("model", "prompts", "evaluation"))


@pytest.mark.parametrize(
    "override",
    [
        "seed",
        "=3",
        "",
        "seed=[1",
        "name.first=a",
        "seed.x=1",
        ".=1",
        "a..b=1",
        "teacher.loss.kind.x=1",
    ],
)
def test_a_bad_override_is_refused(override: str):
    complaint("tiny", override)


def test_an_override_without_a_value_shows_how_one_looks():
    message = complaint("tiny", "seed")
    assert "--set" in message and "key.path=value" in message


def test_recipes_that_extend_each_other_in_a_circle(tmp_path: Path):
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    write(tmp_path, "extends: a.yaml\n", "b.yaml")
    assert "extends itself" in complaint(str(tmp_path / "a.yaml"))
    assert "extends itself" in complaint(write(tmp_path, "extends: mine.yaml\n"))


def test_extends_of_something_that_is_no_recipe(tmp_path: Path):
    assert "nope" in complaint(write(tmp_path, "extends: nope\n"))
    assert "extends" in complaint(write(tmp_path, "extends: [tiny, tiny]\n"))


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000], ids=["lists", "mappings"])
def test_yaml_nested_beyond_reading_is_placed(tmp_path: Path, text: str):
    assert "mine.yaml" in complaint(write(tmp_path, text))


@pytest.mark.parametrize("value", ["2020-13-45", "9" * 5000], ids=["no date", "no number"])
def test_yaml_that_is_no_value_is_placed(tmp_path: Path, value: str):
    """For these PyYAML raises a bare ValueError that names no place."""
    assert "mine.yaml" in complaint(write(tmp_path, f"extends: tiny\nseed: {value}\n"))
    assert "--set" in complaint("tiny", f"seed={value}")


@pytest.mark.parametrize(
    "place",
    ["teacher.loss.beta", "sampling.temperature", "teacher.optimizer.lr", "decision.min_gain"],
)
@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_a_number_that_is_not_finite_is_refused(place: str, value: str):
    """Such a number has no identity: the run would fail later, without naming its origin."""
    assert place.rpartition(".")[2] in complaint("tiny", f"{place}={value}")


def test_a_name_too_long_for_a_file():
    complaint("a" * 300 + ".yaml")


# ------------------------------------------------------------------------------------------ fuzzing

scalar = st.sampled_from(
    [
        "1",
        "-3",
        "1e-4",
        "tiny",
        "on",
        "null",
        "[1, 2]",
        "{kind: ce}",
        "'x'",
        "2020-01-01",
        "!!binary aGk=",
        ".nan",
        "~",
    ]
) | st.text(max_size=8)
key = st.sampled_from(
    [
        "name",
        "seed",
        "model",
        "prompts",
        "teacher",
        "steps",
        "kind",
        "extends",
        "evaluation",
        "1",
        "keep",
        "? a",
        "<<",
    ]
) | st.text(max_size=5)
line = st.builds(
    lambda indent, name, value: f"{' ' * indent}{name}: {value}",
    st.sampled_from([0, 0, 2, 4]),
    key,
    scalar,
)
yamlish = st.lists(line | st.text(max_size=20), max_size=8).map("\n".join)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=yamlish)
def test_whatever_a_recipe_holds_it_loads_or_is_a_valueerror(tmp_path: Path, text: str):
    path = tmp_path / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", newline="", errors="replace")
    try:
        assert isinstance(load_recipe(str(path)), CampaignConfig)
    except ValueError as error:
        assert str(error)


@settings(max_examples=150, deadline=None)
@given(
    override=st.builds(
        lambda path, value: f"{'.'.join(path)}={value}",
        st.lists(key, min_size=1, max_size=3),
        scalar,
    )
    | st.text(max_size=20)
)
def test_whatever_an_override_says_it_loads_or_is_a_valueerror(override: str):
    try:
        assert isinstance(load_recipe("tiny", [override]), CampaignConfig)
    except ValueError as error:
        assert str(error)
