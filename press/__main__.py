"""``python -m nclib``: run a chapter, the whole book under a profile, or a sweep of many runs."""

import argparse
import os
import sys
from pathlib import Path

import yaml

from .press import execute, exercises, pdf, sweep
from .press.compare import compare
from .progress import die_with


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nclib", description="Execute chapters and render the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="execute one chapter")
    run.add_argument("chapter", help="e.g. book/attacks.ipynb or attacks")
    run.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="override a parameter")
    run.add_argument("-o", "--output", type=Path, help="write the executed copy (and its records) here instead")
    book = commands.add_parser("book", help="execute every chapter and render the site")
    book.add_argument("--jobs", type=int, help="chapters at a time (default: 2, on two cores or more)")
    record = commands.add_parser("record", help="copy a finished book's evidence to results/")
    pair = commands.add_parser("compare", help="two runs side by side, in _build/compare")
    for side in ("a", "b"):
        pair.add_argument(side, help="an executed chapter, its folder, or a profile that was run")
    commands.add_parser("exercises", help="write the chapters without their solutions to _build/exercises")
    paper = commands.add_parser("pdf", help="print a finished book: _build/<profile>/book.pdf")
    for command in (run, book, record, paper):
        command.add_argument("--profile", default="digits", help="a name in profiles/ (default: digits)")
    many = commands.add_parser("sweep", help="execute a grid of runs, here or on a Ray cluster")
    many.add_argument("file", type=Path, help="e.g. sweeps/digits-seeds.yml")
    many.add_argument("--dry-run", action="store_true", help="print the runs, which are done, and an estimate of time")
    many.add_argument("--select", type=int, metavar="N", help="only the N-th run, counted from 1 (for arrays of jobs)")
    many.add_argument("--jobs", type=int, default=1, help="runs at a time of the local engine (default: 1)")
    many.add_argument("--engine", choices=["local", "ray"], default="local", help="where runs go (default: local)")
    many.add_argument("--address", default="local", help="Ray cluster: auto or host:port (default: one of its own)")
    asked = parser.parse_args(words)
    if parent := os.environ.get("NCLIB_PARENT"):
        die_with(int(parent))
    try:
        if asked.command == "book":
            execute.book(asked.profile, asked.jobs)
        elif asked.command == "record":
            print(execute.record(asked.profile))
        elif asked.command == "pdf":
            print(pdf.print_book(asked.profile))
        elif asked.command == "compare":
            print(compare(asked.a, asked.b))
        elif asked.command == "exercises":
            print(*exercises.write_copies(), sep="\n")
        elif asked.command == "sweep":
            many = sweep.read(asked.file)
            if asked.dry_run:
                print(sweep.plan(many))
            else:
                return sweep.run(many, asked.engine, asked.jobs, asked.address, asked.select)
        else:
            overrides = {name: yaml.safe_load(value) for name, value in asked.p}
            if overrides and not asked.output:
                raise execute.BookError(
                    "overrides (-p) need an output file (-o): the profile's own page stays as it is"
                )
            print(execute.run_chapter(asked.chapter, asked.profile, overrides, asked.output))
    except (execute.BookError, ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(130)  # at once: the event loop would go on to tell of its broken-off tasks
    return 0


if __name__ == "__main__":
    sys.exit(main())
