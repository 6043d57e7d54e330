"""Constructors of malformed-input cases, one per command.

`recipe(...)` is `erpd show` of a file, `graded(...)` is `erpd grade`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bad_files import changed_model

File = str | bytes | Callable[[Path], object]
"""Text, bytes, or a function that creates the file at a path."""
LONG = 10 << 20
OUT = "{d}/out.jsonl"
SUM = '{"problem": "1+1=", "answer": "2"}\n'
ROW = '{"gold": "1", "prediction": "1"}\n'
CODE = '{"code": "print(1)", "unit_tests": {"inputs": [""], "outputs": ["1"]}}\n'
ASKED = '{"problem": null, "gold": "1", "prediction": "2"}\n'


@dataclass(frozen=True)
class Case:
    """One malformed input."""

    name: str
    argv: tuple[str, ...]
    says: tuple[str, ...]
    files: Mapping[str, File] = field(default_factory=dict)

    def make(self, folder: Path) -> list[str]:
        """Create the folder with its files; returns the command's arguments."""
        folder.mkdir()
        for name, content in self.files.items():
            if callable(content):
                content(folder / name)
            else:
                (folder / name).write_bytes(
                    content.encode() if isinstance(content, str) else content
                )
        return [part.replace("{d}", str(folder)) for part in self.argv]


def usage(name: str, argv: str, *says: str) -> Case:
    return Case(name, tuple(argv.split()), says)


def setting(name: str, override: str, *says: str, command: str = "show") -> Case:
    return Case(f"set {name}", (command, "tiny", "--set", override), says)


def recipe(name: str, text: File, *says: str, command: str = "show") -> Case:
    return Case(
        f"recipe {name}", (command, "{d}/mine.yaml"), ("mine.yaml", *says), {"mine.yaml": text}
    )


def machine(name: str, text: File, *says: str) -> Case:
    return Case(
        f"machine {name}",
        ("show", "tiny", "--machine", "{d}/m.yaml"),
        ("m.yaml", *says),
        {"m.yaml": text},
    )


def problems(
    name: str, file: str, content: File, *says: str, more: str = "", count: int = 1
) -> Case:
    override = f"prompts={{kind: file, path: '{{d}}/{file}', count: {count}{more}}}"
    return Case(
        f"problems {name}",
        ("run", "tiny", "--set", "runtime.ray=off", "--set", override),
        (file, *says),
        {file: content},
    )


def benchmark(name: str, file: str, content: File, *says: str) -> Case:
    argv = ("eval", "--model", "tiny", "--benchmark", f"{{d}}/{file}", "--json")
    return Case(f"benchmark {name}", argv, (file, *says), {file: content})


def graded(name: str, content: File, *says: str, command: str = "grade") -> Case:
    return Case(
        f"{command} {name}",
        (command, "{d}/in.jsonl", OUT),
        ("in.jsonl", *says),
        {"in.jsonl": content},
    )


def judged(
    name: str,
    content: File,
    *says: str,
    endpoint: str = "http://127.0.0.1:9/v1",
    more: tuple[str, ...] = (),
) -> Case:
    argv = ("judge", "{d}/in.jsonl", OUT, "--endpoint", endpoint, "--model", "m", *more)
    return Case(f"judge {name}", argv, says, {"in.jsonl": content})


def target(
    command: str, name: str, path: str, *says: str, files: Mapping[str, File] | None = None
) -> Case:
    content = {"grade": ROW, "grade-code": CODE, "judge": ASKED}[command]
    more = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "m") if command == "judge" else ()
    return Case(
        f"{command} into {name}",
        (command, "{d}/in.jsonl", path, *more),
        says,
        {"in.jsonl": content, **(files or {})},
    )


def model(name: str, change: Callable[[Path], object], *says: str) -> Case:
    """`erpd eval` of a changed copy of the embedded model."""
    argv = ("eval", "--model", "{d}/model", "--benchmark", "tiny", "--k", "2")
    return Case(f"model {name}", argv, says, {"model": partial(changed_model, change)})


def evaluation(name: str, options: str, *says: str) -> Case:
    return Case(
        f"eval {name}", ("eval", "--model", "tiny", "--benchmark", "tiny", *options.split()), says
    )


def schedule(name: str, options: str, *says: str) -> Case:
    return Case(f"schedule {name}", ("schedule", *options.split()), says)
