"""``python -m press``: run a chapter, the whole book under a profile, or a sweep of many runs."""

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import yaml

from nclib.runtime import die_with

from . import BookError, book, compare, execute, exercises, grid, pdf, sweep


def main(words: list[str] | None = None) -> int:
    asked = _parser().parse_args(words)
    if parent := os.environ.get("NCLIB_PARENT"):
        die_with(int(parent))
    try:
        return DOES[asked.command](asked) or 0
    except (BookError, ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(130)  # at once: the event loop would go on to tell of its broken-off tasks


def _run(asked: Namespace) -> None:
    overrides = {name: yaml.safe_load(value) for name, value in asked.p}
    if overrides and not asked.output:
        raise BookError("overrides (-p) need an output file (-o): the profile's own page stays as it is")
    print(execute.run_chapter(asked.chapter, asked.profile, overrides, asked.output))


def _sweep(asked: Namespace) -> int | None:
    many = grid.read(asked.file)
    if asked.dry_run:
        return print(sweep.plan(many))
    return sweep.run(many, asked.engine, asked.jobs, asked.address, asked.select)


DOES = {  # command -> what it does, given what was asked; a number is the exit code
    "run": _run,
    "book": lambda asked: print(book.make(asked.profile, asked.jobs)),
    "record": lambda asked: print(book.record(asked.profile)),
    "compare": lambda asked: print(compare.write_page(asked.a, asked.b)),
    "exercises": lambda asked: print(*exercises.write_copies(), sep="\n"),
    "pdf": lambda asked: print(pdf.print_book(asked.profile)),
    "sweep": _sweep,
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="press", description="Execute chapters and render the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one chapter")
    run.add_argument("chapter", help="e.g. book/attacks.ipynb or attacks")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="override a parameter")
    run.add_argument("-o", "--output", type=Path, help="write the executed copy (and its records) here instead")
    whole = commands.add_parser("book", help="execute every chapter and render the site")
    whole.add_argument("--jobs", type=int, help="chapters at a time (default: 2, on two cores or more)")
    kept = commands.add_parser("record", help="copy a finished book's evidence to results/")
    pair = commands.add_parser("compare", help="two runs side by side, in _build/compare")
    for side in ("a", "b"):
        pair.add_argument(side, help="an executed chapter, its folder, or a profile that was run")
    commands.add_parser("exercises", help="write the chapters without their solutions to _build/exercises")
    paper = commands.add_parser("pdf", help="print a finished book: _build/<profile>/book.pdf")
    for command in (run, whole, kept, paper):
        command.add_argument("--profile", default="digits", help="a name in profiles/ (default: digits)")
    many = commands.add_parser("sweep", help="execute a grid of runs, here or on a Ray cluster")
    many.add_argument("file", type=Path, help="e.g. sweeps/digits-seeds.yml")
    many.add_argument("--dry-run", action="store_true", help="print the runs, which are done, and an estimate of time")
    many.add_argument("--select", type=int, metavar="N", help="only the N-th run, counted from 1 (for arrays of jobs)")
    many.add_argument("--jobs", type=int, default=1, help="runs at a time of the local engine (default: 1)")
    many.add_argument("--engine", choices=["local", "ray"], default="local", help="where runs go (default: local)")
    many.add_argument("--address", default="local", help="Ray cluster: auto or host:port (default: one of its own)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
