"""Hub data through the real huggingface_hub, against a server on loopback.

The first commit stays in use, the cache works offline, and refusals are plain.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import context
from hub_server import Hub, serving

from erpd_core.config import FileProblems, HubProblems, NamedProblems
from tasks.datasets import draw_problems, load_problems, read_problems
from tasks.datasets.hub import choose_files, lock_path
from tasks.execution.stage import get_or_compute
from tasks.store import Store

ID = "someone/numbers"
FILE = "data/train-00000-of-00001.parquet"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def rows(first: int, count: int = 4) -> list[dict[str, Any]]:
    return [
        {"problem_idx": n, "problem": f"{n} + {n}?", "answer": 2 * n, "problem_type": ["Algebra"]}
        for n in range(first, first + count)
    ]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one data set; the test has its own home and ignores the caller's environment."""
    with serving(Hub()) as hub:
        monkeypatch.setenv("ERPD_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_HOME", raising=False)
        hub.push(
            ID, {FILE: parquet(rows(1)), "data/test-00000-of-00001.parquet": parquet(rows(100, 2))}
        )
        yield hub


def prompts(**more: Any) -> list[str]:
    return [problem.prompt for problem in read_problems(HubProblems(id=ID, **more), 0)]


def unplug(monkeypatch: pytest.MonkeyPatch, url: str = "http://127.0.0.1:9") -> None:
    """Make the hub unreachable from now on."""
    monkeypatch.setenv("HF_ENDPOINT", url)


def complaint(source: HubProblems) -> str:
    with pytest.raises(ValueError) as caught:
        draw_problems("x", source, 0)
    message = str(caught.value)
    assert source.id in message and "\n" not in message
    return message


def test_a_split_is_read_from_its_parquet_files(hub: Hub):
    problems = read_problems(HubProblems(id=ID, template="matharena"), 0)
    assert (problems[0].prompt, problems[0].answer) == (
        "Put your final answer within \\boxed{}.\n\n1 + 1?",
        "2",
    )
    assert len(problems) == 4
    assert prompts(split="test") == ["100 + 100?", "101 + 101?"]


def test_the_commit_of_the_first_load_is_asked_for_ever_after(hub: Hub):
    first = hub.branches[ID, "main"]
    stage = draw_problems("x", HubProblems(id=ID), 0)
    assert stage.origin == f"{ID}@{first}"
    hub.push(
        ID, {FILE: parquet(rows(50)), "data/test-00000-of-00001.parquet": parquet(rows(200, 2))}
    )
    assert draw_problems("x", HubProblems(id=ID), 0) == stage
    assert prompts(split="test") == ["100 + 100?", "101 + 101?"], (
        "a file that was never fetched comes from the same commit"
    )
    lock_path().unlink()
    assert prompts()[0] == "50 + 50?", "without the lock the newest commit is used"


def test_a_revision_of_the_recipe_wins(hub: Hub):
    first = hub.branches[ID, "main"]
    hub.push(ID, {FILE: parquet(rows(50))})
    hub.push(ID, {FILE: parquet(rows(70))}, branch="v2")
    assert (prompts()[0], prompts(revision=first)[0], prompts(revision="v2")[0]) == (
        "50 + 50?",
        "1 + 1?",
        "70 + 70?",
    )
    assert {key.partition("@")[2] for key in json.loads(lock_path().read_text())} == {
        "main",
        first,
        "v2",
    }


def test_identity_is_the_bytes_and_the_artifact_says_the_commit(hub: Hub, tmp_path: Path):
    here = context(Store(tmp_path / "store"))
    stage = draw_problems("x", HubProblems(id=ID), 0)
    ref = get_or_compute(stage, here)
    assert (
        ref.origin == stage.origin
        and here.store.manifest(ref.id).meta["ref"]["origin"] == stage.origin
    )
    assert len(load_problems(here.store, ref)) == 4
    hub.push("someone/copy", {"readme.txt": b"", "all.parquet": parquet(rows(1))})
    copy = draw_problems("y", HubProblems(id="someone/copy"), 0)
    assert copy.identity() == stage.identity() and copy.origin != stage.origin
    hub.push("someone/other", {"all.parquet": parquet(rows(2))})
    assert draw_problems("y", HubProblems(id="someone/other"), 0).identity() != stage.identity()


def test_without_the_hub_the_cache_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    before = prompts()
    hub.asked.clear()
    assert prompts() == before and hub.asked == [], "cached files need no request"
    unplug(monkeypatch)
    assert prompts() == before


@pytest.mark.long  # the hub's library tries for 20 s
def test_a_file_that_was_never_fetched_says_what_to_do_without_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    prompts()
    unplug(monkeypatch)
    message = complaint(HubProblems(id=ID, split="test"))
    assert (
        "could not be reached" in message and "HF_ENDPOINT" in message and "local copy" in message
    )


def test_a_cache_that_other_means_have_filled_is_enough(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import hf_hub_download

    elsewhere = tmp_path / "elsewhere"
    hf_hub_download(ID, FILE, repo_type="dataset", cache_dir=elsewhere / "hub", endpoint=hub.url)
    monkeypatch.setenv("HF_HOME", str(elsewhere))
    unplug(monkeypatch)
    assert prompts()[0] == "1 + 1?"
    assert hub.branches[ID, "main"] in lock_path().read_text()


def test_what_was_never_fetched_says_what_to_do_without_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    unplug(monkeypatch)
    message = complaint(HubProblems(id="nobody/nothing"))
    assert (
        "could not be reached" in message
        and "connect once" in message
        and not lock_path().parent.parent.exists()
    )


def test_the_hubs_address_is_named_without_its_login(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    unplug(monkeypatch, "http://me:s3cr3tpw@127.0.0.1:9")
    message = complaint(HubProblems(id="nobody/nothing"))
    assert "http://127.0.0.1:9 could not be reached" in message and "s3cr3tpw" not in message


def test_a_file_that_the_commit_lists_and_the_hub_has_not_is_named_without_its_address(hub: Hub):
    prompts()
    gone = "data/test-00000-of-00001.parquet"
    del hub.commits[ID][hub.branches[ID, "main"]][gone]
    message = complaint(HubProblems(id=ID, split="test"))
    assert f"lacks {gone}, which its commit lists" in message and hub.url not in message


def test_what_cannot_be_chosen_makes_no_home(hub: Hub, tmp_path: Path):
    assert "split validation" in complaint(HubProblems(id=ID, split="validation"))
    assert not (tmp_path / "home").exists()


def test_a_cache_of_a_user_who_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", "~nosuchuser/cache")
    assert "HF_HOME ~nosuchuser/cache: " in complaint_of_lock()


def test_bytes_that_changed_in_the_cache_are_refused(hub: Hub, tmp_path: Path):
    stage = draw_problems("x", HubProblems(id=ID), 0)
    blob = next((tmp_path / "home").rglob(FILE)).resolve()
    blob.write_bytes(parquet(rows(9)))
    with pytest.raises(ValueError, match="bytes changed"):
        get_or_compute(stage, context(Store(tmp_path / "store")))


def test_what_the_hub_refuses_is_said_plainly(hub: Hub):
    assert "has no data set" in complaint(HubProblems(id="nobody/nothing"))
    assert "no revision v9" in complaint(HubProblems(id=ID, revision="v9"))
    assert FILE in complaint(HubProblems(id=ID, files=("train.jsonl",)))
    assert "split validation" in complaint(HubProblems(id=ID, split="validation"))


def test_a_malformed_row_is_placed_in_its_file(hub: Hub):
    hub.push(
        "someone/broken", {"train.jsonl": b'{"problem": "a", "answer": "1"}\n{"problem": "b"}\n'}
    )
    with pytest.raises(ValueError, match=r"someone/broken/train.jsonl, row 2: no answer"):
        read_problems(HubProblems(id="someone/broken"), 0)


def test_a_lock_file_that_is_not_readable_is_named(hub: Hub):
    prompts()
    lock_path().write_text("{")
    assert "hub.lock.json" in complaint_of_lock()


def complaint_of_lock() -> str:
    with pytest.raises(ValueError) as caught:
        draw_problems("x", HubProblems(id=ID), 0)
    return str(caught.value)


def test_several_files_are_one_set_in_order(hub: Hub):
    lines = [json.dumps(row) for row in rows(1, 6)]
    files = {f"test{n or ''}.jsonl": "\n".join(lines[n * 2 : n * 2 + 2]).encode() for n in range(3)}
    hub.push("someone/parts", files)
    asked = HubProblems(
        id="someone/parts", split="test", files=("test.jsonl", "test1.jsonl", "test2.jsonl")
    )
    assert [problem.prompt for problem in read_problems(asked, 0)] == [
        row["problem"] for row in rows(1, 6)
    ]
    assert len(read_problems(asked.model_copy(update={"files": ("test2.jsonl",)}), 0)) == 2


@pytest.mark.parametrize(
    ("listing", "more", "chosen"),
    [
        (["data/train-0.parquet", "data/test-0.parquet"], {}, ["data/train-0.parquet"]),
        (["train.jsonl", "train.parquet"], {}, ["train.parquet"]),
        (["polaris.jsonl"], {}, ["polaris.jsonl"]),
        (
            ["main/test-0.parquet", "other/test-0.parquet"],
            {"files": ("main/{split}-*.parquet",), "split": "test"},
            ["main/test-0.parquet"],
        ),
        (
            ["train/train.jsonl", "code_benchmark/lcb/test.jsonl"],
            {"files": ("train/*.jsonl",)},
            ["train/train.jsonl"],
        ),
        (["contest.json", "training.csv"], {"files": ("contest.*",)}, ["contest.json"]),
    ],
)
def test_which_files_a_split_means(listing: list[str], more: dict[str, Any], chosen: list[str]):
    assert choose_files(listing, HubProblems(id=ID, **more)) == chosen


def test_a_file_that_carries_another_split_is_not_taken_for_train():
    with pytest.raises(ValueError, match="split train"):
        choose_files(["test.jsonl"], HubProblems(id=ID))


# --------------------------------------------------------------------------------------- named sets


def test_a_named_set_comes_from_the_hub_as_the_catalogue_says(hub: Hub):
    hub.push("MathArena/aime_2025", {FILE: parquet(rows(1, 30))})
    problems = read_problems(NamedProblems(name="aime 25"), 0)
    assert (
        len(problems) == 30
        and problems[0].prompt
        == "1 + 1? Let's think step by step and output the final answer within \\boxed{}."
    )
    other = read_problems(NamedProblems(name="AIME25", template="matharena_aime", count=5), 0)
    assert len(other) == 5 and "integer between 0 and 999" in other[0].prompt


def test_a_name_is_the_same_question_as_what_it_stands_for(hub: Hub, tmp_path: Path):
    hub.push("MathArena/aime_2025", {FILE: parquet(rows(1, 30))})
    plain = HubProblems(id="MathArena/aime_2025", template="polaris", extractor="boxed")
    assert (
        draw_problems("a", NamedProblems(name="AIME25"), 0).identity()
        == draw_problems("a", plain, 0).identity()
    )
    path = Path(shutil.copyfile(next((tmp_path / "home").rglob(FILE)), tmp_path / "mine.parquet"))
    local = read_problems(NamedProblems(name="AIME25", path=str(path)), 0)
    assert local == read_problems(plain, 0)
    assert local == read_problems(
        FileProblems(path=str(path), template="polaris", extractor="boxed"), 0
    )
