"""The front door: `baton demo` as `./dev demo` starts it."""
import json
import re
import shutil
import subprocess

import pytest

from conftest import BATON, MODELS


def demo(model):
    return subprocess.run([BATON, "demo", "--model-path", model, "--prefill", "tp=4", "--decode", "tp=4,dp=2"], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("model", MODELS)
def test_demo_answers_as_the_reference_and_shows_what_crossed(model):
    made = demo(MODELS[model])
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.count("equal to the reference implementation's greedy answer") == 3, made.stdout
    assert made.stdout.count("time: first token") == 3
    assert "(0 bytes)" not in made.stdout, "an answer was held against nothing"
    assert re.search(r"A pass key in a long text.*\n  The pass key of the ", made.stdout, re.S), made.stdout
    links = [int(n) for row in re.findall(r"^  P\d(.*)", made.stdout, re.M) for n in row.split() if n != "."]
    assert sum(links) == int(re.search(r"total (\d+) bytes", made.stdout).group(1)) > 0


def test_demo_fails_on_an_answer_that_is_not_the_reference_s(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(MODELS["mla"], copy)
    golden = json.loads((copy / "golden.json").read_text())
    case = next(c for c in golden["cases"] if "23 + 19" in c["prompt"])
    case["greedy_text"] = case["greedy_text"].replace("42", "43")
    (copy / "golden.json").write_text(json.dumps(golden))
    made = demo(copy)
    assert made.returncode == 4, (made.returncode, made.stdout)
    assert "23 + 19 = 43" in made.stderr
