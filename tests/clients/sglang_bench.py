"""Runs SGLang's benchmark client, a file of its wheel that is not edited, once for each line of arguments on stdin.

    sglang_bench.py FILE        prints a line of JSON for each run: its exit code and all that it said

The imports, which take seconds, are shared by the runs. The newest client imports two modules of the server: `network`, which
comes from the wheel as well, and `disaggregation.utils`, which needs torch and gives the client one string; a module made here
has that string in its place.
"""
import contextlib
import io
import json
import runpy
import shlex
import sys
import types
from pathlib import Path


def stand_in(folder):
    """`sglang` and its packages as names alone, so that none of their __init__ is run."""
    for name in ("sglang", "sglang.srt", "sglang.srt.utils", "sglang.srt.disaggregation"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    utils = types.ModuleType("sglang.srt.disaggregation.utils")
    utils.FAKE_BOOTSTRAP_HOST = "2.2.2.2"
    sys.modules[utils.__name__] = utils


def run(file, argv):
    """(exit code, what it said) of one run of the command line."""
    sys.argv = [str(file), *argv]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(str(file), run_name="__main__")
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        except Exception as failed:  # the line says it
            code = repr(failed)
    return code, said.getvalue()


if __name__ == "__main__":
    file = Path(sys.argv[1]).resolve()
    stand_in(next(folder.parent for folder in file.parents if folder.name == "sglang"))
    for line in sys.stdin:
        print(json.dumps(run(file, shlex.split(line))), flush=True)
