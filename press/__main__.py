"""``python -m press``: run a chapter, the whole book under a profile, or a sweep of many runs."""

import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import yaml

from nclib.evidence.pages import number
from nclib.runtime import die_with

from . import BookError, book, compare, copies, execute, grid, pdf, recording, sweep


def main(words: list[str] | None = None) -> int:
    asked = _parser().parse_args(words)
    os.environ.setdefault("PYTHONUTF8", "1")  # what is started from here reads and writes UTF-8 on Windows too
    if parent := os.environ.get("NCLIB_PARENT"):
        die_with(int(parent))
    try:
        _, do = COMMANDS[asked.command]
        return do(asked) or 0
    except (BookError, ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(130)  # at once: the event loop would go on to tell of its broken-off tasks


def _run(asked: Namespace) -> None:
    overrides = {name: number(yaml.safe_load(value)) for name, value in asked.p}
    if overrides and not asked.output:
        raise BookError("overrides (-p) need an output file (-o): the profile's own page stays as it is")
    print(execute.run_chapter(asked.chapter, asked.profile, overrides, asked.output))


def _sweep(asked: Namespace) -> int | None:
    many = grid.read(asked.file)
    if asked.dry_run:
        return print(sweep.plan(many))
    return sweep.run(many, asked.engine, asked.jobs, asked.address, asked.select)


def _doctor() -> str:
    from .doctor import report  # here, as it waits for torch

    return report()


COMMANDS = {  # name -> what it is for, and what it does; a number is the exit code
    "run": ("execute one chapter", _run),
    "book": ("execute every chapter and render the site", lambda asked: print(book.make(asked.profile, asked.jobs))),
    "record": ("copy a finished book's evidence to results/", lambda asked: print(recording.record(asked.profile))),
    "compare": ("two runs side by side, in _build/compare", lambda asked: print(compare.write_page(asked.a, asked.b))),
    "copies": ("plain notebooks, in _build/KIND", lambda asked: print(*copies.write_copies(asked.kind), sep="\n")),
    "pdf": ("print a finished book: _build/<profile>/book.pdf", lambda asked: print(pdf.print_book(asked.profile))),
    "doctor": ("what this machine and this checkout are", lambda _: print(_doctor())),
    "sweep": ("execute a grid of runs, here or on a Ray cluster", _sweep),
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="press", description="Execute chapters and render the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    on = {name: commands.add_parser(name, help=words) for name, (words, _) in COMMANDS.items()}
    for name in ("run", "book", "record", "pdf"):
        on[name].add_argument("--profile", default="digits", help="a name in profiles/ (default: digits)")
    for side in ("a", "b"):
        on["compare"].add_argument(side, help="an executed chapter, its folder, or a profile that was run")
    on["copies"].add_argument("kind", choices=copies.KINDS, help="chapters to run, without solutions, or to retype")
    on["book"].add_argument("--jobs", type=int, help="chapters at a time (default: 3, on two cores or more)")
    one, many = on["run"].add_argument, on["sweep"].add_argument
    one("chapter", help="e.g. book/attacks.ipynb or attacks")
    one("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="override a parameter")
    one("-o", "--output", type=Path, help="write the executed copy (and its records) here instead")
    many("file", type=Path, help="e.g. sweeps/digits-seeds.yml")
    many("--dry-run", action="store_true", help="print the runs, which are done, and an estimate of time")
    many("--select", type=int, metavar="N", help="only the N-th run, counted from 1 (for arrays of jobs)")
    many("--jobs", type=int, default=1, help="runs at a time of the local engine (default: 1)")
    many("--engine", choices=["local", "ray"], default="local", help="where runs go (default: local)")
    many("--address", default="local", help="Ray cluster: auto or host:port (default: one of its own)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
