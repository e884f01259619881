"""``python -m nclib``: run a chapter, or the whole book, under a profile."""

import argparse
import os
import sys
from pathlib import Path

import yaml

from . import execute


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
    for command in (run, book, record):
        command.add_argument("--profile", default="digits", help="a name in profiles/ (default: digits)")
    asked = parser.parse_args(words)
    try:
        if asked.command == "book":
            execute.book(asked.profile, asked.jobs)
        elif asked.command == "record":
            print(execute.record(asked.profile))
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
